"""The training loop: one run is a network trained from a seed by one method, epoch by epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zeromean.errors import ZeromeanWarning
from zeromean.memory import enough_memory
from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.spec.method import BASELINE, Method
from zeromean.study.spec.metric import ACCURACY
from zeromean.study.spec.optimizer import Optimizer
from zeromean.study.spec.records import FINAL, Candidate, Epoch, Run
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import TrainedTask
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.apply_method import attach, check_layers
from zeromean.study.tasks.build_optimizer import build_optimizer, build_scheduler
from zeromean.study.tasks.function import guard
from zeromean.study.tasks.interface import Job, Progress, TaskInfo
from zeromean.study.tasks.problem import Examples, Problem

EVALUATION_BATCH = 1000
EVALUATION_NUMBERS = 2**22
# More epochs than any run has, so that no two pairs of seed and epoch share a random state.
EPOCHS_PER_SEED = 2**20
# With more classes than this, top-5 accuracy is recorded.
TOP = 5


class TrainingTask:
    """A task that zeromean trains itself.

    Args:
        study: The study, which sets precision and device.
        spec: The settings of the task.
        problem: The loaded task.
    """

    def __init__(self, study: Study, spec: TrainedTask, problem: Problem) -> None:
        self.spec, self.problem = spec, problem
        self.half = study.precision == "bfloat16"

    @cached_property
    def info(self) -> TaskInfo:
        """Facts for the report and the database."""
        problem = self.problem
        return TaskInfo(
            description=problem.description,
            split=problem.split,
            preprocessing=problem.preprocessing,
            watched="test" if problem.watched is problem.test else "validation",
            metric=problem.metric,
            steps=problem.steps(self.spec.batch_size),
            fingerprint=problem.fingerprint(),
        )

    def check(self, methods: Sequence[Method], optimizers: Sequence[Optimizer]) -> None:
        """Check before any training that data, network, batches and methods fit together.

        Raises:
            ZeromeanError: They do not.
        """
        spec, problem = self.spec, self.problem
        count, steps = len(problem.train.targets), problem.steps(spec.batch_size)
        if spec.batch_size > count:
            raise SettingError(
                "batch_size",
                f"batch_size {spec.batch_size} is larger than the number of training examples,"
                f" {count}",
                "Lower batch_size",
                instead="Pass more training examples",
            )
        if spec.epochs * steps < spec.schedule.min_steps:
            raise SettingError(
                "schedule",
                f"the schedule {spec.schedule.label} needs {spec.schedule.min_steps} steps, but a"
                f" run has {spec.epochs * steps}",
                "Raise epochs, or change the schedule",
                instead="Pass more training examples",
            )
        with self._guard(""):
            baseline = problem.network(Method(BASELINE), seed=0)
            for method in methods:
                check_layers(baseline, method, spec.label)
                self._check_method(method, optimizers)

    def _check_method(self, method: Method, optimizers: Sequence[Optimizer]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ZeromeanWarning)
            try:
                network = self.problem.network(method, seed=0)
                for one in optimizers:
                    attach(build_optimizer(one, network, Candidate(1.0)), network, method)
            except ZeromeanWarning as warning:
                raise SettingError(
                    "methods",
                    f'a part of the method "{method.label}" changes nothing with {self.spec.label}'
                    f" ({warning})",
                    "Leave that part out",
                ) from warning
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        if self.spec.batch_size == 1 and any(isinstance(one, norms) for one in network.modules()):
            raise SettingError(
                "batch_size",
                f"batch_size is 1, but {self.spec.label} with the method {method.label} normalizes"
                " over the batch",
                "Raise batch_size, or use a model without batch normalization",
            )

    def start(self, job: Job, state: dict[str, Any] | None = None) -> Iterator[Progress]:
        """Train one run, and report after each epoch.

        Args:
            job: The run.
            state: The last state that it reported, to continue from; None to begin.

        Raises:
            ZeromeanError: The device has too little memory, or the user's code raised something.
        """
        with self._guard(""):
            training = Training(self, job)
        if state is not None:
            training.load_state_dict(state)
        while not training.ended:
            with self._guard(f", in epoch {len(training.epochs) + 1} of {job.key.method}"):
                epoch = training.advance()
                run = training.run() if training.ended else None
            yield Progress(epoch, None if run else training.state_dict(), run)

    @contextmanager
    def _guard(self, when: str) -> Iterator[None]:
        """Convert errors of the user's code, and those for a lack of memory."""
        function = self.problem.function
        too_little = SettingError(
            "batch_size",
            f"{self.spec.label} does not fit into the memory of {self.problem.device}, with the"
            " networks of all methods at once",
            "Lower batch_size, or name fewer methods",
            instead="Use a device with more memory, or fewer jobs on it",
        )
        inner = nullcontext() if function is None else guard(function, when)
        with inner, enough_memory(too_little):
            yield


class Training:
    """A run in progress.

    The seed and the number of an epoch determine all its random numbers, so a resumed run equals
    one that was never interrupted. Initial weights and batches depend on the seed alone, so all
    methods share them.

    Args:
        task: The loaded task.
        job: The run.
    """

    def __init__(self, task: TrainingTask, job: Job) -> None:
        self.job, self.half = job, task.half
        self.problem = problem = task.problem.for_seed(job.key.seed)
        self.epochs: list[Epoch] = []
        # Fit both now, so that the time of no epoch includes it.
        _ = problem.preprocess, problem.augment
        self.network = problem.network(job.method, job.key.seed)
        if problem.function is None:
            # Convolutions on a CPU are faster in this layout; other layers are unaffected.
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(job.optimizer, self.network, job.candidate)
        attach(self.optimizer, self.network, job.method)
        self.batch_size = task.spec.batch_size
        self.steps = problem.steps(self.batch_size)
        self.scheduler = build_scheduler(task.spec.schedule, self.optimizer, self.steps, job.epochs)

    @property
    def ended(self) -> bool:
        """Whether the run diverged or had its last epoch."""
        return bool(self.epochs) and (
            self.epochs[-1].diverged or len(self.epochs) == self.job.epochs
        )

    def advance(self) -> Epoch:
        """Train and score one more epoch."""
        problem, device = self.problem, self.problem.device
        number = len(self.epochs) + 1
        seed = self.job.key.seed * EPOCHS_PER_SEED + number
        rate = self.optimizer.param_groups[0]["lr"]
        with _random_state(device, seed):
            started = time.perf_counter()
            train_loss, right = self._train(seed)
            # Wait for the device, the only time in an epoch, before reading the clock.
            metrics = {"train_loss": train_loss.item() / self.steps}
            seconds = time.perf_counter() - started
        metrics["train_score"] = metrics["train_loss"]
        if problem.metric == ACCURACY:
            entries = problem.train.targets[0].numel() * self.batch_size * self.steps
            metrics["train_score"] = right.item() / entries
        metrics |= evaluate(problem, self.network, problem.watched, self.half)
        metrics["learning_rate"] = float(rate)
        self.epochs.append(Epoch(number, metrics, seconds))
        return self.epochs[-1]

    def _train(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return the sum of the batches' losses, and the number of right answers."""
        problem = self.problem
        order = batches(len(problem.train.targets), self.batch_size, seed)
        generator = torch.Generator(problem.device).manual_seed(seed)
        total = torch.zeros((), device=problem.device)
        right = torch.zeros((), dtype=torch.int64, device=problem.device)
        self.network.train()
        for inputs, targets in problem.train.batches(order):
            seen = problem.training_inputs(inputs, generator)
            self.optimizer.zero_grad()
            with _precision(problem, self.half):
                outputs = self.network(_laid_out(problem, seen))
                loss = problem.loss(outputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach()
            if problem.metric == ACCURACY:
                right += (outputs.detach().argmax(1) == targets).sum()
        return total, right

    def run(self) -> Run:
        """Return the record of the run, which has ended."""
        key, last = self.job.key, self.epochs[-1]
        train_score = test_loss = test_score = None
        if not last.diverged and key.trial == FINAL:
            problem = self.problem
            train_score = evaluate(problem, self.network, problem.train, self.half)["score"]
            test_loss, test_score = last.loss, last.score
            if problem.watched is not problem.test:
                found = evaluate(problem, self.network, problem.test, self.half)
                test_loss, test_score = found["loss"], found["score"]
        return Run(key, self.job.candidate, tuple(self.epochs), train_score, test_loss, test_score)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        return {
            "epochs": [(one.number, dict(one.metrics), one.seconds) for one in self.epochs],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "inputs": {name: [*layer._inputs] for name, layer in self._natural_layers()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name, layer in self._natural_layers():
            layer._inputs[:] = [one.to(layer.c.device) for one in state["inputs"][name]]
        self.epochs = [Epoch(*values) for values in state["epochs"]]

    def _natural_layers(self) -> list[tuple[str, NaturalLinear]]:
        """Return the layers that keep inputs between updates, outside their state_dict."""
        return [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, NaturalLinear)
        ]


def batches(count: int, batch_size: int, seed: int) -> Tensor:
    """Return the order of the training examples in an epoch, one row of indices per batch.

    An incomplete last batch is left out. The order changes with each epoch, so that every example
    is used.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count - count % batch_size].view(-1, batch_size)


@torch.no_grad()
def evaluate(
    problem: Problem, network: nn.Module, examples: Examples, half: bool = False
) -> dict[str, float]:
    """Return ``loss`` and ``score`` over examples, and ``top5_accuracy`` with more than 5 classes.

    Args:
        problem: The task.
        network: The network, which is left in evaluation mode.
        examples: The examples.
        half: Whether to compute in bfloat16.
    """
    network.eval()
    device = problem.device
    size = min(EVALUATION_BATCH, max(1, EVALUATION_NUMBERS // math.prod(examples.inputs.shape[1:])))
    total = torch.zeros((), device=device)
    right = torch.zeros(2, dtype=torch.int64, device=device)
    classes = 0
    with _random_state(device, seed=0):  # some networks and losses draw numbers here too
        for batch in examples.split(size):
            inputs = problem.scored_inputs(batch.inputs)
            with _precision(problem, half):
                outputs = network(_laid_out(problem, inputs))
                loss = problem.loss(outputs, batch.targets)
            total += loss * len(batch.targets)
            if problem.metric == ACCURACY:
                classes = outputs.shape[1]
                right[0] += (outputs.argmax(1) == batch.targets).sum()
                if classes > TOP:
                    best = outputs.topk(TOP, dim=1).indices
                    right[1] += (best == batch.targets.unsqueeze(1)).sum()
    mean = total.item() / len(examples.targets)
    if problem.metric != ACCURACY:
        return {"loss": mean, "score": mean}
    scores = [count / examples.targets.numel() for count in right.tolist()]
    found = {"loss": mean, "score": scores[0]}
    return {**found, "top5_accuracy": scores[1]} if classes > TOP else found


@contextmanager
def _random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch within the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _precision(problem: Problem, half: bool) -> torch.autocast:
    return torch.autocast(problem.device.type, torch.bfloat16, enabled=half)


def _laid_out(problem: Problem, inputs: Tensor) -> Tensor:
    """Return images in the memory layout of the network, and other inputs as they are."""
    # A user's network may call ``view``, which needs torch's own layout.
    if problem.function is None and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
