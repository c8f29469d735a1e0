"""Test the division of a shard's rows into groups; tests/distributed uses several processes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from zeromean import FanIn
from zeromean.projection import _pieces
from zeromean.sharded import is_sharded, local_part, rows_here, summed_over_ranks

sizes = st.integers(1, 6)


@given(sizes, sizes, st.data())
def test_pieces_are_whole_groups_or_part_of_one(
    groups: int, size: int, data: st.DataObject
) -> None:
    rows = groups * size
    start = data.draw(st.integers(0, rows))
    held = range(start, data.draw(st.integers(start, rows)))
    pieces = list(_pieces(held, rows, FanIn((0,), groups)))
    assert [row for piece in pieces for row in piece] == list(held)
    for piece in pieces:
        whole = piece.start % size == 0 and piece.stop % size == 0
        assert whole or piece.start // size == (piece.stop - 1) // size
    assert len(pieces) <= 3


@given(sizes, st.data())
def test_pieces_leave_the_padding_row_out(rows: int, data: st.DataObject) -> None:
    start, padding = data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows - 1))
    held = range(start, data.draw(st.integers(start, rows)))
    pieces = list(_pieces(held, rows, FanIn((0,), padding_idx=padding)))
    assert [row for piece in pieces for row in piece] == [row for row in held if row != padding]


def test_a_plain_tensor_is_all_here() -> None:
    x = torch.zeros(4, 3)
    assert not is_sharded(x)
    assert local_part(x) is x
    assert rows_here(x) == range(4)
    assert not summed_over_ranks(x, FanIn((0,)))
