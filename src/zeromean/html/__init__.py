"""Pages of one HTML file that needs nothing else: their common frame, filled by templates."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(folder: Path, name: str, *, autoescape: bool = True) -> Template:
    """A template of a folder, which may extend ``frame.html``.

    Args:
        folder: Where the template is.
        name: Its file's name.
        autoescape: Whether values are escaped for HTML (default True).
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
