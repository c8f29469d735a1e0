"""The ``zeromean`` program: its commands, and how their errors are shown."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from zeromean import __version__
from zeromean.cli.output import echo, one_line_errors, refuse
from zeromean.cli.standalone import STANDALONE
from zeromean.cli.typed import WORDS
from zeromean.errors import ZeromeanError

# Typer has its own copy of click's errors, and exports the subclass BadParameter alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Help of the commands that parse their own words with argparse.
HELP = {
    "run": "Run any training program with GC, unmodified.",
    "explain": "Show for every parameter of a model whether GC centers it, and why.",
}


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line on standard error."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        words = [*args]  # click uses up its own copy
        for word in words:
            _check_utf8(word)
        context = super().make_context(info_name, args, *rest, **more)
        context.meta[WORDS] = words
        return context

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with one_line_errors():
            try:
                code = super().main(*args, **{**kwargs, "standalone_mode": False})
            except UsageError as error:
                refuse(_with_help(cast(typer.BadParameter, error)))
            except typer.Abort:
                raise KeyboardInterrupt from None
        sys.exit(code)


def _with_help(error: typer.BadParameter) -> str:
    """Return the message of a usage error, with the command that shows what is allowed."""
    message = error.format_message()
    # Newer versions of Typer convert with pydantic, whose messages leave the value out.
    for invalid in getattr(error.__cause__, "errors", list)()[:1]:
        message = message.replace("Invalid value", f"Invalid value {invalid['input']!r}", 1)
    end = "" if message.endswith((".", "?")) else "."
    command = error.ctx.command_path if error.ctx else "zeromean"
    return f"{message}{end} Run: {command} --help"


def _check_utf8(word: str) -> None:
    """Refuse a name that no report, database or study file can hold."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise ZeromeanError(f"{word!r} is not UTF-8", "Rename it") from error


app = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        echo(f"zeromean {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def zeromean(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Zero-mean gradients: apply, explain and test Gradient Centralization (GC)."""
    if context.invoked_subcommand is None:
        echo(context.get_help())


def _standalone(name: str) -> None:
    def command(context: typer.Context) -> None:
        importlib.import_module(STANDALONE[name]).main(context.args)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(name, help=HELP[name], context_settings=settings, add_help_option=False)(command)


def _register() -> None:
    from rich.markup import escape

    from zeromean.cli.bench import bench
    from zeromean.cli.compare import compare
    from zeromean.cli.demo import demo
    from zeromean.cli.diagnose import diagnose
    from zeromean.cli.report import report
    from zeromean.cli.reproduce import reproduce
    from zeromean.cli.study import study
    from zeromean.cli.tables import tables

    for command in (demo, compare, study, report, tables, reproduce, diagnose, bench):
        # Paragraphs are wrapped to the width of the terminal, not to that of the source.
        paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(help=escape(text))(command)
    for name in STANDALONE:
        _standalone(name)


_register()
