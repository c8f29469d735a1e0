"""The program itself, whatever the command."""

from __future__ import annotations

from importlib import metadata

from typer.testing import CliRunner

from zeromean.cli import app


def test_it_tells_its_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"zeromean {metadata.version('zeromean')}\n")


def test_without_a_command_it_tells_what_there_is() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    for command in ("compare", "explain", "study", "reproduce", "tables", "diagnose", "bench"):
        assert f" {command} " in done.output
