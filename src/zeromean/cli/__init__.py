"""The commands of the ``zeromean`` program, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeromean.cli.main import app as app


def __getattr__(name: str) -> Any:
    # Commands that need torch alone are imported without typer.
    if name == "app":
        from zeromean.cli.main import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
