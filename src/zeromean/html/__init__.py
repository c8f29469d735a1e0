"""Self-contained HTML pages: a common frame that templates fill."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(folder: Path, name: str, *, autoescape: bool = True) -> Template:
    """Load a template of a folder, which may extend ``frame.html``.

    Args:
        folder: Folder of the template.
        name: File name of the template.
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
