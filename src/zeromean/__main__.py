"""The ``zeromean`` program, also ``python -m zeromean``."""

from __future__ import annotations

import importlib
import io
import sys

from zeromean import __version__
from zeromean.cli.output import INTERRUPTED, refuse
from zeromean.cli.standalone import STANDALONE


def main() -> None:
    """Run the command line; name the missing extra in one line if there is one."""
    for stream in (sys.stdout, sys.stderr):
        # A file or pipe may have an encoding without a minus sign.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    command, *words = sys.argv[1:] or [""]
    if command in STANDALONE:
        importlib.import_module(STANDALONE[command]).main(words)
        return
    if command == "--version":
        print(f"zeromean {__version__}")
        return
    try:
        from zeromean.cli.main import app

        app(prog_name="zeromean")
    except KeyboardInterrupt:  # before the command began
        refuse("interrupted", INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("zeromean"):
            raise
        print(
            f"zeromean: the module {error.name} is not installed; only the commands"
            f" {' and '.join(STANDALONE)} need no extra. Run: pip install 'zeromean[study]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
