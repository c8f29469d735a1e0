"""A controlled comparison: the same network, weights and batches, with and without GC."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn

from zeromean.errors import ZeromeanError
from zeromean.study import environment, methods
from zeromean.study.data.load import load
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.settings import Settings
from zeromean.study.store import Store
from zeromean.study.train import Epoch, Run, Task, train


@dataclass(frozen=True)
class Comparison:
    """The finished runs of a comparison and where they come from.

    Args:
        settings: What was asked for.
        data: One line on the data set.
        split: One line on its test set.
        runs: All of them, diverged ones too.
        environment: Versions and machine.
    """

    settings: Settings
    data: str
    split: str
    runs: tuple[Run, ...]
    environment: dict[str, str]

    def of(self, method: str) -> dict[int, Run]:
        """The method's runs by their seed."""
        return {run.seed: run for run in self.runs if run.method == method}


def compare(
    settings: Settings,
    on_epoch: Callable[[str, int, Epoch], None] = lambda method, seed, epoch: None,
    on_run: Callable[[Run], None] = lambda run: None,
) -> Comparison:
    """Trains every method on every seed and keeps each run in ``settings.database`` once it ended.

    An interruption loses no more than the seed under way.

    Args:
        settings: What to compare.
        on_epoch: Called after each epoch with the method, the seed and the record.
        on_run: Called after each run that was kept.

    Returns:
        All runs. ``report.write`` makes files of them.

    Raises:
        ZeromeanError: The data, the device or the folder for results cannot be used, or do not fit
            the settings; all but a full disk or memory show before any training.

    Example:
        >>> import tempfile, pathlib
        >>> out = pathlib.Path(tempfile.mkdtemp())
        >>> settings = Settings(model="mlp", epochs=1, seeds=1, out=out)
        >>> [run.method for run in compare(settings).runs]
        ['plain', 'gc']
    """
    device = _device(settings.device)
    task = Task(load(settings.data), device)
    _rehearse(task, settings)
    surroundings = environment.describe(device)
    facts = {
        "command": settings.command(),
        "settings": json.dumps(asdict(settings), default=str),
        "learning_rate": repr(settings.learning_rate),
        "data": task.data.describe(),
        "split": task.data.split,
        "environment": json.dumps(surroundings),
    }
    runs = []
    with Store(settings.database, facts) as store:
        for seed in range(settings.seeds):
            for run in _train_together(task, settings, seed, on_epoch):
                store.add(run)
                runs.append(run)
                on_run(run)
    return Comparison(settings, task.data.describe(), task.data.split, tuple(runs), surroundings)


def _train_together(
    task: Task, settings: Settings, seed: int, on_epoch: Callable[[str, int, Epoch], None]
) -> Iterator[Run]:
    """Yields each method's run of one seed as it ends.

    The methods take turns epoch by epoch: what slows the machine for a while slows all of them,
    and their ratio stays what it is.
    """
    trainings = {method: train(task, settings, method, seed) for method in settings.methods}
    records: dict[str, list[Epoch]] = {method: [] for method in settings.methods}
    for number in range(settings.epochs):
        first = number % len(settings.methods)
        for method in settings.methods[first:] + settings.methods[:first]:
            epoch = _next_epoch(task, settings, trainings[method])
            if epoch is None:
                continue
            records[method].append(epoch)
            on_epoch(method, seed, epoch)
            if epoch.diverged or epoch.number == settings.epochs:
                yield Run(method, seed, tuple(records[method]))


def _next_epoch(task: Task, settings: Settings, training: Iterator[Epoch]) -> Epoch | None:
    """None after a run diverged."""
    try:
        return next(training, None)
    except torch.OutOfMemoryError as error:
        raise ZeromeanError(
            f"{len(settings.methods)} x {settings.model} with batches of {settings.batch_size}, "
            f"too much for {task.device}",
            "networks and batches that fit its memory together",
            "lower --batch-size, or name fewer --methods",
        ) from error


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # Torch raises AssertionError where a build lacks a backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZeromeanError(
            f"--device {name}, which torch cannot use here",
            "a device of this machine",
            "use --device cpu",
        ) from error
    return device


def _rehearse(task: Task, settings: Settings) -> None:
    """Finds out before the first run whether data, network, batches and methods fit together."""
    count = len(task.train_labels)
    if settings.batch_size > count:
        raise ZeromeanError(
            f"--batch-size {settings.batch_size} with {count} training images",
            f"{count} or fewer",
            "lower --batch-size",
        )
    for method in settings.methods:
        network = task.network(settings.model, seed=0)
        optimizer = OPTIMIZERS[settings.optimizer].build(network, settings.learning_rate)
        methods.apply(method, optimizer, network)
    normalized = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    if normalized and settings.batch_size == 1:
        raise ZeromeanError(
            f"--batch-size 1 with --model {settings.model}, which normalizes over the batch",
            "2 or more",
            "raise --batch-size, or use --model cnn",
        )
