"""P = I - e e^T: its laws, its types, its errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import zeromean

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@st.composite
def tensors_and_axes(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...], int]:
    groups = draw(st.integers(1, 3))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    if 0 in axes:
        shape[0] *= groups
    else:
        groups = 1
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x, y = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x, y, tuple(axes), groups


@given(tensors_and_axes(), st.floats(-3, 3))
def test_it_is_linear(case: tuple[Tensor, Tensor, tuple[int, ...], int], scale: float) -> None:
    x, y, axes, groups = case
    together = zeromean.center(x + scale * y, axes, groups)
    apart = zeromean.center(x, axes, groups) + scale * zeromean.center(y, axes, groups)
    torch.testing.assert_close(together, apart)


@given(tensors_and_axes())
def test_it_is_a_symmetric_projection(case: tuple[Tensor, Tensor, tuple[int, ...], int]) -> None:
    x, y, axes, groups = case
    px, py = zeromean.center(x, axes, groups), zeromean.center(y, axes, groups)
    torch.testing.assert_close(zeromean.center(px, axes, groups), px)
    torch.testing.assert_close((px * y).sum(), (x * py).sum())


@given(tensors_and_axes())
def test_no_vector_grows(case: tuple[Tensor, Tensor, tuple[int, ...], int]) -> None:
    x, _, axes, groups = case
    px = zeromean.center(x, axes, groups)
    if groups > 1:
        x, px = (t.unflatten(0, (groups, -1)) for t in (x, px))
        axes = tuple(axis + 1 for axis in axes)
    before = torch.linalg.vector_norm(x, dim=axes)
    after = torch.linalg.vector_norm(px, dim=axes)
    assert (after <= before * (1 + 1e-12)).all()


def test_groups_are_averaged_apart() -> None:
    x = torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    assert zeromean.center(x, axes=0, groups=2).flatten().tolist() == [-1, 1, -5, 5]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_accumulates_in_at_least_float32(dtype: torch.dtype) -> None:
    x = torch.randn(8, 4099).to(dtype) + 1
    wide = torch.complex128 if dtype.is_complex else torch.float64
    exact = x.to(wide) - x.to(wide).mean(1, keepdim=True)
    got = zeromean.center(x, axes=1)
    assert got.dtype == dtype
    # One rounding of the result, and the float32 error of a sum of 4099 terms, are all it may lose.
    torch.testing.assert_close(got.to(wide), exact, rtol=torch.finfo(dtype).eps, atol=2e-6)


def test_axes_may_count_from_the_end() -> None:
    x = torch.randn(3, 4, 5)
    assert torch.equal(zeromean.center(x, (-1, -2)), zeromean.center(x, (1, 2)))


def test_memory_format_is_kept() -> None:
    x = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    y = zeromean.center(x, (1, 2, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_autograd_goes_through() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: zeromean.center(t, 0, groups=2), x)


@pytest.mark.parametrize(
    ("x", "axes", "groups"),
    [
        (torch.ones(3, 3, dtype=torch.int64), 1, 1),
        ([1.0, 2.0], 0, 1),
        (torch.ones(3, 3).to_sparse(), 1, 1),
        (torch.tensor(1.0), 0, 1),
        (torch.ones(3, 3), 2, 1),
        (torch.ones(3, 3), (1, -1), 1),
        (torch.ones(3, 3), (), 1),
        (torch.ones(3, 3), None, 1),
        (torch.ones(3, 3), 1.0, 1),
        (torch.ones(3, 3), 0, 2),
        (torch.ones(3, 3), 0, 3.0),
        (torch.ones(3, 3), 1, 3),
        (torch.ones(3, 3), 0, 0),
    ],
)
def test_what_it_cannot_center_is_refused(x: Tensor, axes: int, groups: int) -> None:
    with pytest.raises(zeromean.ZeromeanError):
        zeromean.center(x, axes, groups)


def test_float16_saturates_where_the_subtraction_overflows() -> None:
    x = torch.tensor([[-60000.0, 60000, 60000, 60000]]).half()
    assert zeromean.center(x, 1).flatten().tolist() == [-65504, 30000, 30000, 30000]
