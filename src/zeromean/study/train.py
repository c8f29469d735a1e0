"""One run: a network trained from a seed by one method, one record an epoch."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from zeromean.study import methods
from zeromean.study.data.dataset import Dataset
from zeromean.study.networks.build import build
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.settings import Settings

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Epoch:
    """What is known after one pass over the training images.

    Args:
        number: From 1.
        train_loss: Mean cross-entropy over the epoch's batches, in nats.
        test_loss: Mean cross-entropy over the test images, in nats.
        test_accuracy: Fraction of the test images, 0 to 1.
        seconds: Wall-clock time of the training steps, evaluation excluded.
    """

    number: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float

    @property
    def diverged(self) -> bool:
        return not (math.isfinite(self.train_loss) and math.isfinite(self.test_loss))


@dataclass(frozen=True)
class Run:
    """A run that came to its end, by its last epoch or because it diverged."""

    method: str
    seed: int
    epochs: tuple[Epoch, ...]

    @property
    def diverged(self) -> bool:
        return self.epochs[-1].diverged

    @property
    def final_accuracy(self) -> float:
        return self.epochs[-1].test_accuracy

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, so that one disturbed epoch does not count."""
        return statistics.median(epoch.seconds for epoch in self.epochs)


class Task:
    """A data set on a device, with its images standardized a batch at a time.

    The images stay bytes in memory; each channel's mean and standard deviation come from the
    training images alone.

    Args:
        data: The images and labels.
        device: Where the network is trained.
    """

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self.data = data
        self.device = device
        mean, deviation = _channel_moments(data.train_images)
        self._mean = mean.to(device)
        self._deviation = deviation.to(device)
        self.train_images = data.train_images.to(device)
        self.train_labels = data.train_labels.to(device)
        self.test_images = data.test_images.to(device)
        self.test_labels = data.test_labels.to(device)

    def standardize(self, images: Tensor) -> Tensor:
        return (images.float() - self._mean) / self._deviation

    def network(self, model: str, seed: int) -> nn.Module:
        network = build(model, self.data.channels, self.data.side, len(self.data.classes), seed)
        return network.to(self.device)


def _channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel, shaped to broadcast over a batch."""
    values = torch.arange(256, dtype=torch.float64)
    # Counting bytes needs no float copy of all images.
    counts = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.transpose(0, 1)]
    ).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    deviation = (shares @ values.square() - mean.square()).clamp_min(0).sqrt()
    # A channel that is constant carries nothing; any divisor but zero will do.
    deviation = torch.where(deviation == 0, 1.0, deviation)
    return mean.float().view(-1, 1, 1), deviation.float().view(-1, 1, 1)


def batches(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """The order of the training images, from the seed alone: a row of indices a batch.

    An incomplete last batch is left out; the order changes with each epoch, so that no image
    stays out for good.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield order[: count - count % batch_size].view(-1, batch_size)


def train(task: Task, settings: Settings, method: str, seed: int) -> Iterator[Epoch]:
    """Trains one network and yields a record an epoch; the epoch in which it diverges is the last.

    Initial weights and batches depend on the seed alone, so every method sees the same.

    Args:
        task: Data on a device.
        settings: The comparison that the run belongs to.
        method: A key of ``METHODS``.
        seed: Of the initial weights and of the batches.
    """
    network = task.network(settings.model, seed)
    optimizer = OPTIMIZERS[settings.optimizer].build(network, settings.learning_rate)
    methods.apply(method, optimizer, network)
    count = len(task.train_labels)
    steps = count // settings.batch_size
    schedule = CosineAnnealingLR(optimizer, T_max=steps * settings.epochs)
    orders = batches(count, settings.batch_size, settings.epochs, seed)
    for number, order in enumerate(orders, start=1):
        network.train()
        started = time.perf_counter()
        total = torch.zeros((), device=task.device)
        for batch in order.to(task.device):
            optimizer.zero_grad()
            outputs = network(task.standardize(task.train_images[batch]))
            loss = F.cross_entropy(outputs, task.train_labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach()
        # The only wait for the device in an epoch: it also makes the clock tell the truth.
        train_loss = total.item() / steps
        seconds = time.perf_counter() - started
        test_loss, test_accuracy = evaluate(task, network)
        epoch = Epoch(number, train_loss, test_loss, test_accuracy, seconds)
        yield epoch
        if epoch.diverged:
            return


@torch.no_grad()
def evaluate(task: Task, network: nn.Module) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (0 to 1) over the test images."""
    network.eval()
    loss = torch.zeros((), device=task.device)
    correct = torch.zeros((), dtype=torch.int64, device=task.device)
    for images, labels in zip(
        torch.split(task.test_images, EVALUATION_BATCH),
        torch.split(task.test_labels, EVALUATION_BATCH),
        strict=True,
    ):
        outputs = network(task.standardize(images))
        loss += F.cross_entropy(outputs, labels, reduction="sum")
        correct += (outputs.argmax(1) == labels).sum()
    count = len(task.test_labels)
    return loss.item() / count, correct.item() / count
