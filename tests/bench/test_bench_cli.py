"""``zeromean bench``: a table and two files, or one line with the error."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeromean.bench import report, run
from zeromean.bench.paired_timing import time_in_turn
from zeromean.cli.main import app


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "time_in_turn", partial(time_in_turn, min_seconds=0))


SMALL = ("--tensors", "tiny", "--optimizer", "sgd", "--repeats", "1", "--threads", "1")


@pytest.mark.usefixtures("_fast")
def test_bench_writes_tables_and_figure(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    code, stdout, stderr = invoke(*SMALL, "--out", out)
    assert (code, stderr) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["bench.md", "bench.png"]
    page = (out / "bench.md").read_text()
    assert "## SGD, 300 tiny tensors" in page
    assert stdout == f"{page}\n{out}/bench.md\n{out}/bench.png\n"


@pytest.mark.usefixtures("_fast")
def test_earlier_results_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text("mine")
    code, stdout, stderr = invoke(*SMALL, "--out", tmp_path)
    assert (code, stdout) == (2, "")
    assert "already contains bench.md" in stderr
    assert (tmp_path / "bench.md").read_text() == "mine"


@pytest.mark.usefixtures("_fast")
def test_table_is_printed_if_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(report, "save_figure", full)
    code, stdout, stderr = invoke(*SMALL, "--out", tmp_path / "out")
    assert code == 2
    assert "## SGD, 300 tiny tensors" in stdout
    assert stderr.count("\n") == 1
    assert "the table is printed above" in stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--tensors", "vgg"), "--tensors does not know 'vgg'. Use any of resnet50, gpt2, tiny."),
        (("--tensors", ""), "--tensors does not know ''. Use any of"),
        (("--tensors", "tiny,tiny"), "--tensors contains tiny 2 times. Pass tiny once."),
        (("--optimizer", "lion"), "--optimizer does not know 'lion'. Use any of sgd, adamw."),
        (("--repeats", "0"), "--repeats is 0; at least 1 is needed"),
        (("--repeats", "many"), "'--repeats'"),
        (("--threads", "-1"), "--threads is -1; at least 1 is needed"),
        (("--threads", "3000000000"), "--threads is 3000000000; at most 1024 are allowed"),
        (("--device", "abacus"), 'torch cannot use the device "abacus"'),
        (("--device", "meta"), 'torch cannot use the device "meta"'),
        (("--out", os.devnull), f"--out {os.devnull} is a file"),
        (("--out", "x" * 300), "cannot be used"),
        (("--clock", "sun"), "--clock does not know 'sun'. Use any of wall, cpu."),
        (("--epochs", "3"), "No such option: --epochs"),
    ],
)
def test_invalid_option_is_one_line_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "time_in_turn", lambda *_, **__: pytest.fail("measuring began"))
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr
    assert list(tmp_path.iterdir()) == []
