"""One run: a network trained from a seed by one method, an epoch at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.engine.devices import ALONE, Alone
from zeromean.study.methods import Method
from zeromean.study.metric import ACCURACY
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.problem import Batch, Examples, Problem
from zeromean.study.run import FINAL, Candidate, Epoch, Key, Run
from zeromean.study.schedules import Schedule
from zeromean.study.settings import SettingError
from zeromean.study.study import Study

EVALUATION_BATCH = 1000
EVALUATION_NUMBERS = 2**22
# More epochs than any run has, so that no two (seed, epoch) share a random state.
EPOCHS_A_SEED = 2**20


class Training:
    """A run under way.

    All that is random in an epoch comes from the seed and the epoch's number, so a run that goes
    on from a checkpoint is the run that was never interrupted; and initial weights and batches
    depend on the seed alone, so every method sees the same.

    Args:
        problem: The loaded task.
        study: What the run belongs to.
        key: Which run.
        candidate: Its learning rate, and what else was tuned.
        devices: What it is trained on.
    """

    def __init__(
        self,
        problem: Problem,
        study: Study,
        key: Key,
        candidate: Candidate,
        devices: Alone = ALONE,
    ) -> None:
        self.key = key
        self.epochs: list[Epoch] = []
        self.problem = problem
        self._task = study.task(key.task)
        self._candidate = candidate
        self._half = study.precision == "bfloat16"
        _ = problem.prepare  # fits it, before any clock runs
        method = Method.parse(key.method)
        self.network = problem.network(method, key.seed)
        if self._half:  # where convolutions in bfloat16 are fast; other layers do not mind
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._devices = devices
        # Before the optimizer: shards are other parameters.
        self._spread = devices.spread(self.network)
        self.optimizer = OptimizerChoice.parse(key.optimizer).build(self.network, candidate)
        method.attach(self.optimizer, self.network)
        self._epochs = study.epochs(key)
        schedule = Schedule.parse(self._task.schedule)
        self._schedule = schedule.make(
            self.optimizer, problem.steps(self._task.batch_size), self._epochs
        )

    @property
    def ended(self) -> bool:
        return bool(self.epochs) and (self.epochs[-1].diverged or len(self.epochs) == self._epochs)

    def advance(self) -> Epoch:
        """Trains one more epoch, for itself.

        Raises:
            ZeromeanError: The device has too little memory.
        """
        (epoch,) = advance([self], self._backward)
        return epoch

    def begin_epoch(self) -> Iterator[Batch]:
        """What the network is to see of each batch of the next epoch."""
        problem, seed = self.problem, self.epoch_seed
        order = batches(len(problem.train.targets), self._task.batch_size, seed)
        generator = torch.Generator(problem.device).manual_seed(seed)
        self.network.train()
        return self._batches(order, generator)

    @property
    def epoch_seed(self) -> int:
        """Of all that is random in the next epoch."""
        return self.key.seed * EPOCHS_A_SEED + len(self.epochs) + 1

    def _batches(self, order: Tensor, generator: torch.Generator) -> Iterator[Batch]:
        part = self._devices.part
        for inputs, targets in self.problem.train.batches(order):
            # Of the whole batch, so that what is random is the same on any devices.
            seen = self.problem.training_inputs(inputs, generator)
            yield Batch(part(seen), part(targets))

    def _backward(self, batches: Sequence[Batch]) -> Tensor:
        """The loss of the one batch, whose gradient the parameters have now."""
        ((inputs, targets),) = batches
        self.optimizer.zero_grad()
        with _numbers(self.problem, self._half):
            loss = self.problem.loss(self._spread(_laid_out(inputs, self._half)), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self) -> None:
        """Changes the weights by the gradients that they have."""
        self.optimizer.step()
        self._schedule.step()

    def end_epoch(self, total_loss: float, seconds: float) -> Epoch:
        """Scores and records the epoch.

        Args:
            total_loss: Over its batches, and over all devices.
            seconds: Of its steps.
        """
        problem, devices = self.problem, self._devices
        devices.align(self.network)
        loss, score = self._evaluate(problem.watched)
        train_loss = total_loss / (problem.steps(self._task.batch_size) * devices.count)
        number = len(self.epochs) + 1
        self.epochs.append(Epoch(number, train_loss, loss, score, seconds))
        return self.epochs[-1]

    def run(self) -> Run:
        """What is known of the run, which has ended."""
        last = self.epochs[-1]
        train_score = test_loss = test_score = None
        if not last.diverged and self.key.trial == FINAL:
            problem = self.problem
            _, train_score = self._evaluate(problem.train)
            test_loss, test_score = last.loss, last.score
            if problem.watched is not problem.test:
                # The only look at the test examples where something was tuned.
                test_loss, test_score = self._evaluate(problem.test)
            if not math.isfinite(test_loss):
                train_score = test_loss = test_score = None
        return Run(
            self.key, self._candidate, tuple(self.epochs), train_score, test_loss, test_score
        )

    def _evaluate(self, examples: Examples) -> tuple[float, float]:
        return evaluate(self.problem, self.network, examples, self._half, self._devices)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts alone, to be loaded with ``weights_only=True``."""
        state = {
            "epochs": [astuple(epoch) for epoch in self.epochs],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "inputs": {name: [*layer._inputs] for name, layer in self._natural_layers()},
        }
        return self._devices.whole(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = [Epoch(*values) for values in state["epochs"]]
        state = self._devices.cut(state, self.network, self.optimizer)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        for name, layer in self._natural_layers():
            layer._inputs[:] = [one.to(layer.c.device) for one in state["inputs"][name]]

    def _natural_layers(self) -> list[tuple[str, NaturalLinear]]:
        """Layers that remember inputs from one update to the next, outside their state_dict."""
        return [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, NaturalLinear)
        ]


def advance(
    trainings: Sequence[Training], backward: Callable[[Sequence[Batch]], Tensor]
) -> list[Epoch]:
    """Trains one more epoch of runs that have trained as many, step by step of all.

    Args:
        trainings: The runs; alone among several, none may draw from torch's random state.
        backward: From a batch of each to the losses, with the gradients in place.

    Raises:
        ZeromeanError: The device has too little memory.
    """
    first = trainings[0]
    device, devices = first.problem.device, first._devices
    try:
        passes = [training.begin_epoch() for training in trainings]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(devices.seed(first.epoch_seed))
            started = time.perf_counter()
            total = torch.zeros(len(trainings), device=device)
            for step in zip(*passes, strict=True):
                total += backward(step)
                for training in trainings:
                    training.step()
            # The only wait for the device in an epoch: it also makes the clock tell the truth.
            losses = [loss.item() for loss in devices.total(total)]
            seconds = (time.perf_counter() - started) / len(trainings)
        return [
            training.end_epoch(loss, seconds)
            for training, loss in zip(trainings, losses, strict=True)
        ]
    except torch.OutOfMemoryError as error:
        raise SettingError(
            "batch_size",
            f"{first.key.task} with batches too large for {device}",
            "networks and batches that fit its memory, all methods together",
            "lower batch_size, or name fewer methods",
            "use a device with more memory, or fewer jobs on it",
        ) from error


def batches(count: int, batch_size: int, seed: int) -> Tensor:
    """The order of the training examples in an epoch: a row of indices a batch.

    An incomplete last batch is left out; the order changes with each epoch, so that no example
    stays out for good.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count - count % batch_size].view(-1, batch_size)


@torch.no_grad()
def evaluate(
    problem: Problem,
    network: nn.Module,
    examples: Examples,
    half: bool = False,
    devices: Alone = ALONE,
) -> tuple[float, float]:
    """Mean loss and score over the examples; ``half`` computes in bfloat16 where that pays."""
    network.eval()
    size = min(EVALUATION_BATCH, max(1, EVALUATION_NUMBERS // math.prod(examples.inputs.shape[1:])))
    total = torch.zeros((), device=problem.device)
    right = torch.zeros((), dtype=torch.int64, device=problem.device)
    for batch in examples.split(size):
        (inputs, targets), counts = devices.share(batch)
        prepared = problem.scored_inputs(inputs)
        with _numbers(problem, half):
            outputs = network(_laid_out(prepared, half))
            total += problem.loss(outputs, targets) * (len(targets) * counts)
        if problem.metric is ACCURACY:
            right += (outputs.argmax(1) == targets).sum() * counts
    loss = devices.total(total).item() / len(examples.targets)
    if problem.metric is not ACCURACY:
        return loss, loss
    return loss, devices.total(right).item() / examples.targets.numel()


def _numbers(problem: Problem, half: bool) -> torch.autocast:
    return torch.autocast(problem.device.type, torch.bfloat16, enabled=half)


def _laid_out(inputs: Tensor, half: bool) -> Tensor:
    """Images as the network is laid out."""
    if half and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
