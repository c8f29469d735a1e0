"""A task in memory: examples on a device, the loss, the metric, and fresh networks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zeromean.study.data.disk_images import DiskImages, Images, digests, split
from zeromean.study.methods import Method
from zeromean.study.metric import Metric


def as_they_are(inputs: Images) -> Callable[[Tensor], Tensor]:
    """The ``fit`` of a problem whose inputs need no preparation."""
    return lambda batch: batch


class Batch(NamedTuple):
    """Inputs and targets that are trained on or scored together."""

    inputs: Tensor
    targets: Tensor


class Examples(NamedTuple):
    """Inputs and targets, the first axis of both an example; images may be in a file."""

    inputs: Images
    targets: Tensor

    def to(self, device: torch.device) -> Examples:
        return Examples(self.inputs.to(device), self.targets.to(device))

    def batches(self, order: Tensor) -> Iterator[Batch]:
        """Some of them on the device, which is not waited for.

        Args:
            order: A row of indices a batch, on the processor.
        """
        inputs, there = self.inputs, order.to(self.targets.device)
        if isinstance(inputs, DiskImages):
            chosen = inputs.batches(order)
        else:
            chosen = (inputs.index_select(0, rows) for rows in there)  # which copies whole examples
        for own, rows in zip(chosen, there, strict=True):
            yield Batch(own, self.targets.index_select(0, rows))

    def split(self, size: int) -> Iterator[Batch]:
        """All of them on the device, in order, so many at a time."""
        yield from map(Batch, split(self.inputs, size), torch.split(self.targets, size))


@dataclass(frozen=True)
class Problem:
    """What training needs of a task, and nothing of where it comes from.

    Args:
        device: Where networks and batches go, and where the examples are unless a file has them.
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
        ordered: Whether neighboring examples belong together, as pieces of a text do.
        augment_prepared: Whether ``augment`` changes what is prepared, not what is stored.
        view: What is scored of prepared inputs, where ``augment`` trains on other parts of them;
            None for all.
    """

    device: torch.device
    train: Examples
    watched: Examples
    test: Examples
    fit: Callable[[Images], Callable[[Tensor], Tensor]]
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
    view: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def prepare(self) -> Callable[[Tensor], Tensor]:
        """From a batch of stored inputs to what is fed to networks, or cut from that.

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

    def scored_inputs(self, batch: Tensor) -> Tensor:
        """What the network sees of a batch of stored inputs where it is scored."""
        prepared = self.prepare(batch)
        return prepared if self.view is None else self.view(prepared)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input as networks see it."""
        first = next(self.test.split(1)).inputs
        return tuple((first if self.view is None else self.view(first)).shape[1:])

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
        """A fingerprint of all examples.

        Images have one each, which those in a file keep there: so it is the same wherever they
        are, and reads no file.
        """
        digest = hashlib.sha256()
        for examples in (self.train, self.watched, self.test):
            for one in examples:
                digest.update(repr((one.dtype, tuple(one.shape))).encode())
                if isinstance(one, DiskImages) or one.dtype == torch.uint8:
                    digest.update(digests(one).data)
                else:
                    digest.update(one.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
