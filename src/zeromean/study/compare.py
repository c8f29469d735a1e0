"""A controlled comparison: the same network, weights and batches, with and without GC."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    """Trains every method on every seed and keeps each run in `settings.database` once it ended.

    Args:
        settings: What to compare.
        on_epoch: Called after each epoch with the method, the seed and the record.
        on_run: Called after each run that was kept.

    Returns:
        All runs. `report.write` makes files of them.

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
            # The methods of a seed follow each other, so that a busy machine slows all of them;
            # each goes first in turn.
            turn = seed % len(settings.methods)
            for method in settings.methods[turn:] + settings.methods[:turn]:
                run = _run(task, settings, method, seed, on_epoch)
                store.add(run)
                runs.append(run)
                on_run(run)
    return Comparison(settings, task.data.describe(), task.data.split, tuple(runs), surroundings)


def _run(
    task: Task,
    settings: Settings,
    method: str,
    seed: int,
    on_epoch: Callable[[str, int, Epoch], None],
) -> Run:
    epochs = []
    try:
        for epoch in train(task, settings, method, seed):
            epochs.append(epoch)
            on_epoch(method, seed, epoch)
    except torch.OutOfMemoryError as error:
        raise ZeromeanError(
            f"{settings.model} with batches of {settings.batch_size}, too much for {task.device}",
            "a network and batches that fit its memory",
            "lower --batch-size",
        ) from error
    return Run(method, seed, tuple(epochs))


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
