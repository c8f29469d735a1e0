"""Layers of every kind that has fan-in axes, and their weights by the plain formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from brute_force import layer_vectors

METHODS = ("wn", "cwn", "ws")
Make = Callable[[], nn.Module]

# layer, shape of its input
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2)), (2, 4, 7, 7)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 7, 7)),
    "Conv2d, channels_last": (
        lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
        (2, 4, 7, 7),
    ),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 2), (2, 3, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 4, 4)),
    "ConvTranspose2d, 1x1": (lambda: nn.ConvTranspose2d(4, 6, 1), (2, 4, 4, 4)),
    "ConvTranspose2d, groups": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), (2, 8, 4, 4)),
    "ConvTranspose3d, groups": (lambda: nn.ConvTranspose3d(4, 2, 2, groups=2), (2, 4, 3, 3, 3)),
}


@st.composite
def any_layer(draw: st.DrawFn) -> tuple[Make, tuple[int, ...]]:
    """A linear layer or a (transposed, grouped) convolution of random sizes, fan-in above 1."""
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    size = st.integers(1, 4)
    if kind == "linear":
        i, o = draw(st.integers(2, 9)), draw(st.integers(1, 9))
        return lambda: nn.Linear(i, o), (draw(size), i)
    groups, dims = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    i, o = groups * draw(size), groups * draw(size)
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    if i == groups and set(kernel) == {1}:
        kernel = (2, *kernel[1:])
    classes = {
        "conv": (nn.Conv1d, nn.Conv2d),
        "transposed": (nn.ConvTranspose1d, nn.ConvTranspose2d),
    }
    layer = classes[kind][dims - 1]
    return lambda: layer(i, o, kernel, groups=groups), (2, i, *(3 for _ in kernel))  # type: ignore[arg-type]


def vectors_of(layer: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    """Return masks of the weight vectors, derived from what the layer computes."""
    return layer_vectors(layer, lambda: (torch.rand(shape, dtype=torch.float64) + 0.1,))


def by_hand(
    v: Tensor, g: Tensor | float, vectors: list[Tensor], method: str, eps: float = 1e-5
) -> Tensor:
    """Compute the weight vector by vector, differentiably."""
    weight = torch.zeros_like(v)
    for number, mask in enumerate(vectors):
        x = v[mask]
        if method != "wn":
            x = x - x.mean()
        n = (x.square().mean() + eps).sqrt() if method == "ws" else x.square().sum().sqrt()
        gain = g.flatten()[number] if isinstance(g, Tensor) else g
        weight = weight.masked_scatter(mask, gain * x / n)
    return weight
