"""Shapes of the tensors whose steps are timed."""

from __future__ import annotations

import math
from dataclasses import dataclass

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """Return the shapes of ResNet-50's 161 tensors."""
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
    """Return the shapes of GPT-2 small's 148 tensors, matrices as (out, in)."""
    shapes: Shapes = [(50257, 768), (1024, 768)]
    for _ in range(12):
        shapes += [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
        shapes += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [*shapes, (768,), (768,)]


@dataclass(frozen=True)
class TensorSet:
    """A set of tensors.

    Args:
        title: Name of the set in tables.
        shapes: Shape of each tensor.
    """

    title: str
    shapes: Shapes

    def parameters(self) -> int:
        """Return the number of entries of all tensors."""
        return sum(map(math.prod, self.shapes))

    def vectors(self) -> int:
        """Return the number of weight vectors: the rows of tensors of two or more dimensions."""
        return sum(shape[0] for shape in self.shapes if len(shape) > 1)


TENSORS: dict[str, TensorSet] = {
    "resnet50": TensorSet("ResNet-50", resnet50()),
    "gpt2": TensorSet("GPT-2 small", gpt2()),
    # Its arithmetic is negligible, so its time is the overhead of a step.
    "tiny": TensorSet("300 tiny tensors", [(4, 3)] * 300),
}
