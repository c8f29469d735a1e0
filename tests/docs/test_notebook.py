"""The tutorial notebook runs from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebook_runs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="install the extra docs")
    client = pytest.importorskip("nbclient", reason="install the extra docs")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "centered: 3 of 6 parameters" in text
    assert "mean test accuracy of 5 seeds" in text
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output
    ]
    assert sum("image/png" in output.data for output in pictures) == 2
