"""``zeromean bench`` as a user meets it: a table and two files, or one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeromean.bench import plot, run, timing
from zeromean.cli import app


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST", 0)


SMALL = ("--tensors", "tiny", "--optimizer", "sgd", "--repeats", "1", "--threads", "1")


@pytest.mark.usefixtures("_quick")
def test_a_benchmark_leaves_a_table_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    code, stdout, stderr = invoke(*SMALL, "--out", out)
    assert (code, stderr) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["bench.md", "bench.png"]
    page = (out / "bench.md").read_text()
    assert "## SGD, 300 tiny tensors" in page
    assert stdout == f"{page}\n{out}/bench.md\n{out}/bench.png\n"


@pytest.mark.usefixtures("_quick")
def test_an_earlier_benchmark_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text("mine")
    code, stdout, stderr = invoke(*SMALL, "--out", tmp_path)
    assert (code, stdout) == (2, "")
    assert "which already holds bench.md" in stderr
    assert (tmp_path / "bench.md").read_text() == "mine"


@pytest.mark.usefixtures("_quick")
def test_the_table_is_printed_even_if_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(plot, "draw", full)
    code, stdout, stderr = invoke(*SMALL, "--out", tmp_path / "out")
    assert code == 2
    assert "## SGD, 300 tiny tensors" in stdout
    assert stderr.count("\n") == 1
    assert "the table is printed above" in stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--tensors", "vgg"), "--tensors vgg; wanted any of resnet50, gpt2, tiny"),
        (("--tensors", ""), "--tensors ; wanted any of"),
        (("--tensors", "tiny,tiny"), "wanted each name once"),
        (("--optimizer", "lion"), "--optimizer lion; wanted any of sgd, adamw"),
        (("--repeats", "0"), "--repeats 0; wanted 1 or more"),
        (("--repeats", "many"), "'--repeats'"),
        (("--threads", "-1"), "--threads -1; wanted 1 or more"),
        (("--device", "abacus"), "--device abacus, which torch cannot use here"),
        (("--device", "meta"), "--device meta, which torch cannot use here"),
        (("--out", os.devnull), f"--out {os.devnull}, which is a file"),
        (("--out", "x" * 300), "cannot be used"),
        (("--epochs", "3"), "No such option: --epochs"),
    ],
)
def test_bad_input_ends_with_one_line_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "duel", lambda *arguments: pytest.fail("measuring began"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr
    assert list(tmp_path.iterdir()) == []
