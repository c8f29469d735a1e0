"""The ``zeromean`` program, also ``python -m zeromean``."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Runs the command line; says in one line if the extra it needs is missing."""
    for stream in (sys.stdout, sys.stderr):
        # A file or pipe may be in an encoding without a minus sign.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    if sys.argv[1:2] == ["run"]:
        from zeromean.programs.main import main as run  # needs torch alone

        run(sys.argv[2:])
    try:
        from zeromean.cli import app

        app()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("zeromean"):
            raise
        print(
            f"zeromean: no module {error.name}; fix: pip install 'zeromean[study]'", file=sys.stderr
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
