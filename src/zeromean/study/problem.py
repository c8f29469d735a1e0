"""A task in memory: examples on a device, the loss, the metric, and fresh networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zeromean.study.methods import Method
from zeromean.study.metric import Metric


def as_they_are(inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """The ``fit`` of a problem whose inputs need no preparation."""
    return lambda batch: batch


class Examples(NamedTuple):
    """Inputs and targets, the first axis of both an example."""

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Examples:
        return Examples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Problem:
    """What training needs of a task, and nothing of where it comes from.

    Args:
        device: Where the examples are, and where networks go.
        train: What is learned from.
        watched: What is scored after each epoch.
        test: What is scored at the end; the same as ``watched`` where nothing is tuned.
        fit: From the training inputs to ``prepare``.
        augment: Random changes of a batch of training inputs; None for none.
        loss: Mean loss of a batch from outputs and targets.
        metric: What scores are; accuracy compares the outputs' largest entry along axis 1.
        make: A network as it is, its initial weights drawn from torch's random state.
        description: One line on the data.
        split: One line on the test set.
        preparation: One line on what ``prepare`` and ``augment`` do.
        of_seed: The problem with a seed's own split into training and test examples; None where
            all seeds have the same.
        ordered: Whether neighbouring examples belong together, as pieces of a text do.
        augment_prepared: Whether ``augment`` changes what is prepared, not what is stored.
    """

    device: torch.device
    train: Examples
    watched: Examples
    test: Examples
    fit: Callable[[Tensor], Callable[[Tensor], Tensor]]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    make: Callable[[], nn.Module]
    description: str
    split: str
    preparation: str
    of_seed: Callable[[int], Problem] | None = None
    ordered: bool = False
    augment_prepared: bool = False

    @cached_property
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """From a batch of stored inputs to what the network sees.

        It is fitted when first used: by then, what is for validation is held out.
        """
        return self.fit(self.train.inputs)

    def training_inputs(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """What the network sees of a batch of stored inputs in training."""
        if self.augment is None:
            return self.prepare(batch)
        if self.augment_prepared:
            return self.augment(self.prepare(batch), generator)
        return self.prepare(self.augment(batch, generator))

    def for_seed(self, seed: int) -> Problem:
        """The problem as a run of that seed has it."""
        return self if self.of_seed is None else self.of_seed(seed)

    def network(self, method: Method, seed: int) -> nn.Module:
        """A network prepared for the method; its initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.make()
            method.prepare(network)
        return network.to(self.device)

    def steps(self, batch_size: int) -> int:
        """Of an epoch; an incomplete last batch is left out."""
        return len(self.train.targets) // batch_size

    def digest(self) -> str:
        """A fingerprint of all examples."""
        digest = hashlib.sha256()
        for examples in (self.train, self.watched, self.test):
            for tensor in examples:
                digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
