"""The sets of tensors that are stepped, by their shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """ResNet-50's 161 tensors."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> Shapes:
    """GPT-2 small's 148 tensors, matrices as (out, in)."""
    shapes: Shapes = [(50257, 768), (1024, 768)]
    for _ in range(12):
        shapes += [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
        shapes += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [*shapes, (768,), (768,)]


def tiny() -> Shapes:
    """300 tiny matrices: what a step costs before it touches a number."""
    return [(4, 3)] * 300


@dataclass(frozen=True)
class TensorSet:
    """A set of tensors.

    Args:
        title: What a reader calls it.
        shapes: Makes its shapes.
    """

    title: str
    shapes: Callable[[], Shapes]

    def count(self) -> int:
        """How many numbers it holds."""
        return sum(map(math.prod, self.shapes()))

    def vectors(self) -> int:
        """How many weight vectors are centered: a row of each tensor of two or more dimensions."""
        return sum(shape[0] for shape in self.shapes() if len(shape) > 1)


TENSORS: dict[str, TensorSet] = {
    "resnet50": TensorSet("ResNet-50", resnet50),
    "gpt2": TensorSet("GPT-2 small", gpt2),
    "tiny": TensorSet("300 tiny tensors", tiny),
}
