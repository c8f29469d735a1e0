"""Configuration of the documentation site, built by `make docs`."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

# TensorFlow, the default backend, and Triton cannot be loaded together.
os.environ.setdefault("KERAS_BACKEND", "torch")

project = "zeromean"
author = "The zeromean authors"
copyright = f"2026, {author}"
version = release = installed_version("zeromean")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "supported.md", "results/studies"]
nitpicky = True
# Names of other packages are not checked; a name without a package is ours and has to resolve.
nitpick_ignore_regex = [("py:.*", r"(?!zeromean\.)\w+\..*")]
suppress_warnings = ["mystnb.unknown_mime_type"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False  # options such as at="update" keep their quotes
nb_execution_mode = "off"  # a test executes the notebook

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "zeromean"
html_static_path = ["_static"]
html_css_files = ["zeromean.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# `make test` writes the table of what is tested.
_TABLE = Path(__file__).parents[1] / "build" / "tested.md"
_PAGE = Path(__file__).parent / "tested.md"
if _TABLE.exists():
    shutil.copy(_TABLE, _PAGE)
else:
    _PAGE.write_text("# What is tested\n\nRun `make test` first: it writes this table.\n")


def keep_numbers_together(app, name: str, source: list[str]) -> None:
    """Put no-break spaces around each plus-minus sign, so that no line breaks there."""
    source[0] = source[0].replace(" ± ", "\u00a0±\u00a0")


def setup(app) -> None:
    app.connect("source-read", keep_numbers_together)
