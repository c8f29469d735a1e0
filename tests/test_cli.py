"""The program itself, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeromean.cli import demo
from zeromean.cli.main import app
from zeromean.cli.output import one_line_errors, printable

PROGRAM = (sys.executable, "-m", "zeromean")


def test_version_is_printed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"zeromean {metadata.version('zeromean')}\n")


def started(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in a new process."""
    command = (sys.executable, "-c", program)
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_version_needs_no_extra_and_no_installation() -> None:
    program = (
        "import importlib.metadata, sys\n"
        "importlib.metadata.version = None\n"
        "for name in ('typer', 'rich', 'msgspec'): sys.modules[name] = None\n"
        "sys.argv[1:] = ['--version']\n"
        "from zeromean.__main__ import main; main()"
    )
    done = started(program)
    assert (done.returncode, done.stdout) == (0, f"zeromean {metadata.version('zeromean')}\n")


def test_ctrl_c_while_the_program_starts_is_one_line() -> None:
    program = (
        "import importlib.abc, sys\n"
        "class Interrupted(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "sys.argv[1:] = ['demo']\n"
        "from zeromean.__main__ import main; main()"
    )
    done = started(program)
    assert (done.returncode, done.stderr) == (130, "zeromean: interrupted\n")


def test_without_a_command_the_commands_are_listed() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    for command in (
        *("demo", "compare", "study", "report", "tables", "reproduce", "explain", "diagnose"),
        "bench",
    ):
        assert f" {command} " in done.output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["no-such"], "No such command 'no-such'. Run: zeromean --help"),
        (["bench", "--no-such"], "No such option: --no-such. Run: zeromean bench --help"),
        (["reproduce"], "Missing argument 'name'. Run: zeromean reproduce --help"),
    ],
)
def test_usage_error_names_the_help(words: list[str], line: str) -> None:
    done = CliRunner().invoke(app, words, prog_name="zeromean")
    assert (done.exit_code, done.stderr) == (2, f"zeromean: {line}\n")


def test_usage_error_shows_the_value() -> None:
    done = CliRunner().invoke(app, ["compare", "--epochs", "1.5"], prog_name="zeromean")
    assert "'1.5'" in done.stderr
    assert "'--epochs'" in done.stderr


def test_usage_error_with_a_suggestion_ends_in_a_sentence() -> None:
    done = CliRunner().invoke(app, ["bench", "--thread", "1"], prog_name="zeromean")
    assert "--threads" in done.stderr
    assert done.stderr.removesuffix(" Run: zeromean bench --help\n").endswith((".", "?"))


def test_help_keeps_brackets() -> None:
    assert "each table [[tasks]]" in CliRunner().invoke(app, ["study", "--help"]).output


def test_compare_has_at_most_fifteen_options_of_its_own() -> None:
    help_text = CliRunner().invoke(app, ["compare", "--help"]).output
    panel = help_text.partition("Options")[2].partition("╰")[0]
    options = [word for word in panel.split() if word.startswith("--") and word != "--help"]
    assert 10 < len(options) <= 15


@pytest.mark.parametrize("words", [("tables",), ("explain", "mlp")])
def test_full_output_ends_with_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            (*PROGRAM, *words), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in done.stderr


def test_reader_that_closes_the_pipe_ends_it_silently(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise BrokenPipeError(32, "Broken pipe")
    assert (end.value.code, capsys.readouterr().err) == (1, "")


def test_shell_completion_offers_the_commands() -> None:
    done = subprocess.run(
        PROGRAM,
        env={
            **os.environ,
            "_ZEROMEAN_COMPLETE": "complete_bash",
            "COMP_WORDS": "zeromean co",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["compare"]


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[2J\x9b\x00b\n\tc") == r"a\x1b[2J\x9b\x00b" + "\n\tc"
    assert printable("résumé − 数") == "résumé − 数"  # noqa: RUF001


def test_demo_shows_that_gc_keeps_the_means() -> None:
    assert demo.drift(centralized=False) > 1e-2
    assert demo.drift(centralized=True) < 1e-6


def test_demo_shows_the_plan_first_and_ends_with_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "run_study", lambda study, out, jobs: print(f"compared in {out}"))
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 0
    parts = ["centered: 3 of 6 parameters", "without GC", f"compared in {tmp_path}", "What to try"]
    places = [done.output.index(part) for part in parts]
    assert places == sorted(places)
    tail = done.output.partition("What to try")[2]
    assert [line.split()[1] for line in tail.splitlines()[1:]] == ["explain", "run", "compare"]
    assert max(map(len, done.output.partition("3. ")[0].splitlines())) <= 80


def test_demo_refuses_a_file_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is a file" in done.stderr
