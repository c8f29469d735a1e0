"""The ``zeromean`` program: how commands are met and refusals end."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from zeromean.errors import ZeromeanError

# Typer brings its own copy of click's errors and exports just this one of them.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


# Where a context keeps the words that were typed after the program's name.
WORDS = "zeromean.words"


class OneLineErrors(TyperGroup):
    """Ends every refusal with one line on standard error and exit code 2."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        words = [*args]  # which click uses up
        for word in words:
            _check_utf8(word)
        context = super().make_context(info_name, args, *rest, **more)
        context.meta[WORDS] = words
        return context

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except ZeromeanError as error:
            refuse(str(error))
        except UsageError as error:
            refuse(cast(typer.BadParameter, error).format_message())
        sys.exit(code)


def _check_utf8(word: str) -> None:
    """Refuses a name that no report, database or file of settings could hold."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise ZeromeanError(f"{word!r}, which is not UTF-8", "UTF-8", "rename it") from error


def typed(context: typer.Context) -> str:
    """The whole command, as it can be given again."""
    return shlex.join(["zeromean", *context.meta[WORDS]])


def refuse(reason: str) -> None:
    """Prints one line, whatever line breaks the reason has, and exits with 2."""
    print(f"zeromean: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)


app = typer.Typer(cls=OneLineErrors, add_completion=False)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"zeromean {metadata.version('zeromean')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def zeromean(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Tell the version, and exit."
        ),
    ] = False,
) -> None:
    """Zero-mean gradients: Gradient Centralization (GC), tried out and explained."""
    if context.invoked_subcommand is None:
        print(context.get_help())
