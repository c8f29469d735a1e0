"""The words and options that were typed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import typer

# The key under which a context keeps the words that were typed after the program's name.
WORDS = "zeromean.words"


def typed_words(context: typer.Context) -> list[str]:
    """Return the words that were typed after the program's name."""
    words: list[str] = context.meta[WORDS]
    return words


def typed_options(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return those of the parameters that were typed, as options."""
    found = []
    for parameter in context.command.params:
        name = parameter.name
        source = context.get_parameter_source(name) if name in names else None
        if source is not None and source.name == "COMMANDLINE":
            off = context.params[name] is False  # such as --lower, the opposite of --higher
            found.append((parameter.secondary_opts if off else parameter.opts)[0])
    return found


def typed_command(context: typer.Context) -> str:
    """Return the whole command in a form that can be run again."""
    return shlex.join(["zeromean", *typed_words(context)])
