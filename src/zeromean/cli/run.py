"""``zeromean run``: the command line, which needs nothing but torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from zeromean.cli.output import Parser, note, one_line_errors
from zeromean.errors import ZeromeanError
from zeromean.programs.command import NOT_REACHED, exit_as, run
from zeromean.programs.options import Options

# Options that control centering.
CENTERING = ("at", "layers", "embeddings", "scope", "weight_decay", "skip_refused")


def main(arguments: Sequence[str]) -> None:
    """Run a command as ``zeromean run`` and exit as the command does.

    Args:
        arguments: The words after ``zeromean run``.
    """
    with one_line_errors():
        parser = make_parser()
        own, command = split(parser, arguments)
        given = parser.parse_args(own)
        centering = {name: getattr(given, name) for name in CENTERING}
        if given.plain:
            _refuse_options(parser, centering)
        if given.record is not None:
            _check_record(given.record)
        method: Literal["plain", "gc"] = "plain" if given.plain else "gc"
        code, record = run(command, Options("", method, **centering))
        if given.record is not None:
            try:
                given.record.write_text(record.dumps())
            except OSError as error:
                note(f"cannot write {given.record} ({error.strerror})")
        if not given.quiet or not record.acted or record.faults or record.warnings:
            advice = ". Use --skip-refused to leave this optimizer alone."
            note(record.summary() + (advice if record.refused else ""))
        if code == 0 and (record.faults or not record.acted):
            code = NOT_REACHED
        exit_as(code)


def _refuse_options(parser: argparse.ArgumentParser, centering: Mapping[str, object]) -> None:
    for name, value in centering.items():
        if value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise ZeromeanError(
                f"{option} has no effect with --plain, which centers nothing",
                f"Remove --plain or {option}",
            )


def _check_record(file: Path) -> None:
    """Raise if the file cannot be written, before the program runs for hours."""
    place = file if file.exists() else file.absolute().parent
    if file.is_dir() or not os.access(place, os.W_OK):
        raise ZeromeanError(
            f"--record {file} cannot be written",
            "Pass a file in a folder that exists and can be written to",
        )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options of ``zeromean run``."""
    parser = Parser(
        prog="zeromean run",
        allow_abbrev=False,
        usage="zeromean run [options] [--] COMMAND ...",
        description="Run a training program with Gradient Centralization, unmodified. COMMAND is a"
        " script (train.py --epochs 10), -m MODULE, torchrun, accelerate launch or a shell script.",
        epilog="Options end at the first word of COMMAND. The exit code is that of COMMAND, or 3 if"
        " COMMAND succeeded without a centralized optimizer. Compare with and without GC over"
        " several seeds: zeromean compare --metric ... -- COMMAND.",
    )
    add = parser.add_argument
    add(
        "--at",
        choices=("gradient", "update", "backward"),
        default="gradient",
        help="Center the gradient (default), the whole update (for adaptive optimizers), or each"
        " gradient during the backward pass.",
    )
    add(
        "--layers",
        choices=("all", "conv", "linear"),
        default="all",
        help="Layers to center (default: all).",
    )
    add("--embeddings", action="store_true", help="Center embeddings too, over their tokens.")
    add(
        "--scope",
        choices=("vector", "tensor"),
        default="vector",
        help="Mean of each weight vector (default), or of the whole tensor (an ablation).",
    )
    add(
        "--weight-decay",
        choices=("auto", "coupled", "decoupled"),
        default="auto",
        help="How optimizers unknown to zeromean apply weight decay: added to the gradient"
        " (coupled) or applied to the weights (decoupled).",
    )
    add(
        "--skip-refused",
        action="store_true",
        help="Leave an optimizer alone if it cannot be centralized, instead of stopping.",
    )
    add("--plain", action="store_true", help="Observe the optimizers only, without GC.")
    add("--record", type=Path, metavar="FILE", help="Write the full record to a JSON file.")
    add("--quiet", action="store_true", help="Print a summary only if something went wrong.")
    return parser


def split(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words into the options of ``zeromean run`` and the command.

    Args:
        parser: The parser of the options.
        arguments: All words.
    """
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if word == "--":
            return [*arguments[:place]], [*arguments[place + 1 :]]
        if word == "-m" or not word.startswith("-"):
            break
        action = parser._option_string_actions.get(word)
        place += 2 if action is not None and action.nargs != 0 else 1
    return [*arguments[:place]], [*arguments[place:]]
