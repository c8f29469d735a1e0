"""Print the output of commands and end them; imports nothing but the standard library."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from zeromean.errors import ZeromeanError

BAD_INPUT, INTERRUPTED = 2, 130
MAX_TEXT_WIDTH = 100


def printable(text: str) -> str:
    r"""Replace control characters, which could control a terminal, by their escapes.

    Example:
        >>> printable("a\x1b[2J\tb\n")
        'a\\x1b[2J\tb\n'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def echo(text: str = "") -> None:
    """Print text to standard output, without control characters."""
    print(printable(text), flush=True)


def fill(text: str, indent: str = "", hanging: str = "") -> str:
    """Wrap text to the width of the terminal, but at most to 100 characters."""
    return textwrap.fill(
        text,
        min(MAX_TEXT_WIDTH, shutil.get_terminal_size().columns),
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def note(text: str) -> None:
    """Print text as one line to standard error, without control characters."""
    print(f"zeromean: {printable(' '.join(text.split()))}", file=sys.stderr)


def refuse(reason: str, code: int = BAD_INPUT) -> NoReturn:
    """Print the reason as one line to standard error, and exit."""
    note(reason)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message that argparse gives."""
        refuse(f"{message}. Run: {self.prog} --help")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End every error that a user can cause with one line on standard error.

    The exit status is 2 for bad input, 130 for Ctrl-C, and 1 if the reader closed the pipe.
    """
    try:
        yield
        sys.stdout.flush()
    except ZeromeanError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        refuse("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _discard_output()
        refuse(f"{error}. Make room, or check the path or the device.")


def _discard_output() -> None:
    """Send what standard output still buffers to the null device, so that exiting cannot fail."""
    with suppress(OSError, ValueError):  # no real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
