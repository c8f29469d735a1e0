"""The table type: plain text, Markdown and HTML of the same cells."""

from __future__ import annotations

import pytest

from zeromean.tables import Table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = Table(("layer", "reason", "norm"), [("a", "x", "1"), ("longer name", "y", "1000")], 2)
    assert str(table).splitlines() == [
        "layer        reason  norm",
        "a            x          1",
        "longer name  y       1000",
    ]


def test_markdown_escapes_pipes_and_aligns_numbers_right() -> None:
    table = Table(("layer", "|g|"), [("a", "1")])
    assert table.markdown() == "| layer | \\|g\\| |\n|---|---:|\n| a | 1 |"


def test_html_escapes_cells() -> None:
    text = Table(("layer",), [("<script>",)])._repr_html_()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_a_table_without_rows_prints_its_header() -> None:
    assert str(Table(("a", "b"), [])) == "a  b"


def test_rows_of_another_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        str(Table(("a", "b"), [("1",)]))
