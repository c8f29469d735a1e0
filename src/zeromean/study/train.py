"""One run: a network trained from a seed by one method, an epoch at a time."""

from __future__ import annotations

import math
import time
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.devices import ALONE, Alone
from zeromean.study.methods import Method
from zeromean.study.metric import ACCURACY
from zeromean.study.optimizers import OptimizerChoice
from zeromean.study.problem import Examples, Problem
from zeromean.study.run import FINAL, Candidate, Epoch, Key, Run
from zeromean.study.schedules import Schedule
from zeromean.study.study import Study

# Examples that are scored at a time: so many, or where they are large so many numbers.
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
        self._problem = problem
        self._task = study.task(key.task)
        self._candidate = candidate
        self._half = study.precision == "bfloat16"
        problem.prepare(problem.train.inputs[:1])  # fits it, before any clock runs
        method = Method.parse(key.method)
        self.network = problem.network(method, key.seed)
        if self._half:  # where convolutions in bfloat16 are fast; other layers do not mind
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._devices = devices
        # Before the optimizer: shards are other parameters.
        self._spread = devices.spread(self.network)
        self.optimizer = OptimizerChoice.parse(key.optimizer).build(self.network, candidate)
        method.attach(self.optimizer, self.network)
        self._steps = problem.steps(self._task.batch_size)
        self._epochs = study.epochs(key)
        schedule = Schedule.parse(self._task.schedule)
        self._schedule = schedule.make(self.optimizer, self._steps, self._epochs)

    @property
    def ended(self) -> bool:
        return bool(self.epochs) and (self.epochs[-1].diverged or len(self.epochs) == self._epochs)

    def advance(self) -> Epoch:
        """Trains one more epoch.

        Raises:
            ZeromeanError: The device has too little memory.
        """
        try:
            epoch = self._advance(len(self.epochs) + 1)
        except torch.OutOfMemoryError as error:
            raise ZeromeanError(
                f"{self.key.task} with batches of {self._task.batch_size}, too much for"
                f" {self._problem.device}",
                "networks and batches that fit its memory, all methods together",
                "lower batch_size, or name fewer methods",
            ) from error
        self.epochs.append(epoch)
        return epoch

    def _advance(self, number: int) -> Epoch:
        problem, device, devices = self._problem, self._problem.device, self._devices
        seed = self.key.seed * EPOCHS_A_SEED + number
        order = batches(len(problem.train.targets), self._task.batch_size, seed).to(device)
        self.network.train()
        inputs, targets = problem.train
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(devices.seed(seed))
            generator = torch.Generator(device).manual_seed(seed)
            started = time.perf_counter()
            total = torch.zeros((), device=device)
            for batch in order:
                self.optimizer.zero_grad()
                # Of the whole batch, so that what is random is the same on any devices.
                seen = problem.training_inputs(inputs[batch], generator)
                loss = self._loss(devices.part(seen), devices.part(targets[batch]))
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self._schedule.step()
                total += loss.detach()
            # The only wait for the device in an epoch: it also makes the clock tell the truth.
            train_loss = devices.total(total).item() / (self._steps * devices.count)
            seconds = time.perf_counter() - started
        devices.align(self.network)
        loss_value, score = self._evaluate(problem.watched)
        return Epoch(number, train_loss, loss_value, score, seconds)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with _numbers(self._problem, self._half):
            return self._problem.loss(self._spread(_laid_out(inputs, self._half)), targets)

    def run(self) -> Run:
        """What is known of the run, which has ended."""
        last = self.epochs[-1]
        train_score = test_loss = test_score = None
        if not last.diverged and self.key.trial == FINAL:
            problem = self._problem
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
        return evaluate(self._problem, self.network, examples, self._half, self._devices)

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
    size = min(EVALUATION_BATCH, max(1, EVALUATION_NUMBERS // examples.inputs[0].numel()))
    total = torch.zeros((), device=problem.device)
    right = torch.zeros((), dtype=torch.int64, device=problem.device)
    for batch in map(Examples, *(torch.split(one, size) for one in examples)):
        (inputs, targets), counts = devices.share(batch)
        prepared = problem.prepare(inputs)
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
