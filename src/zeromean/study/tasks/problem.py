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
from zeromean.study.spec.method import Method
from zeromean.study.spec.metric import Metric
from zeromean.study.tasks.apply_method import prepare_network
from zeromean.study.tasks.augment import Augment
from zeromean.study.tasks.preprocessing import Preprocess


def _fit_identity(inputs: Images) -> Preprocess:
    return lambda batch: batch


class Batch(NamedTuple):
    """Inputs and targets that are trained on or scored together."""

    inputs: Tensor
    targets: Tensor


class Examples(NamedTuple):
    """Inputs and targets; the first axis of both counts the examples. Images may be on disk."""

    inputs: Images
    targets: Tensor

    def to(self, device: torch.device) -> Examples:
        """Return the examples on a device; images on disk stay there."""
        return Examples(self.inputs.to(device), self.targets.to(device))

    def batches(self, order: Tensor) -> Iterator[Batch]:
        """Yield batches of chosen examples on the device, without waiting for it.

        Args:
            order: Indices on the CPU, one row per batch.
        """
        inputs, rows = self.inputs, order.to(self.targets.device)
        if isinstance(inputs, DiskImages):
            chosen = inputs.batches(order)
        else:
            chosen = (inputs.index_select(0, row) for row in rows)  # copies whole examples at once
        for batch, row in zip(chosen, rows, strict=True):
            yield Batch(batch, self.targets.index_select(0, row))

    def split(self, size: int) -> Iterator[Batch]:
        """Yield all examples on the device in order, ``size`` at a time."""
        yield from map(Batch, split(self.inputs, size), torch.split(self.targets, size))


@dataclass(frozen=True)
class Problem:
    """Everything that training needs from a task, without its source.

    Args:
        device: Device of networks and batches, and of the examples unless they are on disk.
        train: Training examples.
        watched: Examples that are scored after each epoch.
        test: Examples that are scored at the end; ``watched`` itself if nothing is tuned.
        loss: Mean loss of a batch from outputs and targets.
        metric: The score; accuracy compares targets with the largest output along axis 1.
        make: Function that makes a network, its weights drawn from torch's random state.
        description: One line on the data.
        split: One line on the test set.
        preprocessing: One line on preprocessing and augmentation.
        fit: Function from the training inputs to the preprocessing of a batch.
        fit_augment: Function from the training inputs to a random change of a batch; None for none.
        of_seed: Function that returns the problem with a seed's own split into training and test
            examples; None if all seeds have the same split.
        ordered: Whether neighboring examples belong together, as pieces of a text do.
        augment_preprocessed: Whether augmentation comes after preprocessing.
        view: The part of preprocessed inputs that is scored, if augmentation cuts parts out; None
            for all of it.
        function: The user's function that made the problem, or None.
    """

    device: torch.device
    train: Examples
    watched: Examples
    test: Examples
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    make: Callable[[], nn.Module]
    description: str
    split: str
    preprocessing: str
    fit: Callable[[Images], Preprocess] = _fit_identity
    fit_augment: Callable[[Images], Augment] | None = None
    of_seed: Callable[[int], Problem] | None = None
    ordered: bool = False
    augment_preprocessed: bool = False
    view: Callable[[Tensor], Tensor] | None = None
    function: str | None = None

    # Both are fitted at their first use, after validation examples were held out.
    @cached_property
    def preprocess(self) -> Preprocess:
        """The preprocessing of a batch of stored inputs."""
        return self.fit(self.train.inputs)

    @cached_property
    def augment(self) -> Augment | None:
        """The random change of a batch."""
        return None if self.fit_augment is None else self.fit_augment(self.train.inputs)

    def training_inputs(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the network sees of a batch of stored inputs in training."""
        if self.augment is None:
            return self.preprocess(batch)
        if self.augment_preprocessed:
            return self.augment(self.preprocess(batch), generator)
        return self.preprocess(self.augment(batch, generator))

    def scored_inputs(self, batch: Tensor) -> Tensor:
        """Return what the network sees of a batch of stored inputs when it is scored."""
        preprocessed = self.preprocess(batch)
        return preprocessed if self.view is None else self.view(preprocessed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an input as networks see it."""
        first = next(self.test.split(1)).inputs
        return tuple((first if self.view is None else self.view(first)).shape[1:])

    def for_seed(self, seed: int) -> Problem:
        """Return the problem of the runs of a seed."""
        return self if self.of_seed is None else self.of_seed(seed)

    def network(self, method: Method, seed: int) -> nn.Module:
        """Make a network for a method; its initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.make()
            prepare_network(network, method)
        return network.to(self.device)

    def steps(self, batch_size: int) -> int:
        """Return the number of steps per epoch; an incomplete last batch is left out."""
        return len(self.train.targets) // batch_size

    def fingerprint(self) -> str:
        """Return a digest of all examples.

        Each image has its own digest, which is stored with images on disk. So the result does not
        depend on where the images are, and computing it reads no file.
        """
        digest = hashlib.sha256()
        for examples in (self.train, self.watched, self.test):
            for one in examples:
                digest.update(repr((one.dtype, tuple(one.shape))).encode())
                if isinstance(one, DiskImages) or one.dtype == torch.uint8:
                    digest.update(digests(one).data)
                else:
                    digest.update(one.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
