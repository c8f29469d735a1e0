"""The record of what zeromean did in a program: one file per process, merged per command."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from zeromean.tables import amount

# The end of the reason why an optimizer is left alone whose parameters another one steps.
REACHED = "is reached itself"
State = Literal["centered", "plain", "already centralized", "left alone", "refused"]


@dataclass
class OptimizerRecord:
    """The record of the optimizers of one kind in one process, or in all of them.

    Args:
        optimizer: Class of the optimizer.
        state: Treatment by zeromean: "centered", "plain" (observed only), "already
            centralized" by the program, "left alone" or "refused".
        reason: Reason why it was left alone or refused.
        at: Place where it was centered, in the words of :attr:`zeromean.Handle.how`.
        parameters, entries: Number of parameters and of their entries that the optimizer owns.
        centered, centered_entries: Number of those that are centered.
        optimizers: Number of optimizers of this kind.
        steps: Largest number of steps of one of them.
        step: Step that was used: "torch's own", or a name of :attr:`zeromean.Handle.way`.
        mean_change: Largest change of a weight vector's mean across a checked step.
        gradient_mean: Largest mean of a weight vector's gradient that the optimizer saw, relative
            to the largest entry of that gradient.
        holds: Whether the guarantee held at every checked step; None if no step was checked.
        notes: Further remarks.
    """

    optimizer: str
    state: State
    reason: str = ""
    at: str = ""
    parameters: int = 0
    entries: int = 0
    centered: int = 0
    centered_entries: int = 0
    optimizers: int = 1
    steps: int = 0
    step: str = ""
    mean_change: float | None = None
    gradient_mean: float | None = None
    holds: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> tuple[object, ...]:
        """The values that optimizers of one kind have in common."""
        return (
            self.optimizer,
            self.state,
            self.reason,
            self.at,
            self.parameters,
            self.entries,
            self.centered_entries,
        )

    @property
    def missed(self) -> bool:
        """Whether parameters are not centered that no other entry is responsible for."""
        return self.state in ("refused", "left alone") and not self.reason.endswith(REACHED)

    def add(self, other: OptimizerRecord) -> None:
        """Add another record of the same kind."""
        self.optimizers += other.optimizers
        self.steps = max(self.steps, other.steps)
        self.step = self.step or other.step
        self.mean_change = _largest(self.mean_change, other.mean_change)
        self.gradient_mean = _largest(self.gradient_mean, other.gradient_mean)
        if other.holds is not None:
            self.holds = other.holds and self.holds is not False
        self.notes += [note for note in other.notes if note not in self.notes]

    def sentence(self) -> str:
        """Return in a few words what happened."""
        times = f"{self.optimizers} x " if self.optimizers > 1 else ""
        steps = amount(self.steps, "step")
        if self.state in ("left alone", "refused"):
            return f"{times}{self.optimizer} {self.state}: {self.reason}"
        if self.state == "plain":
            return f"{times}{self.optimizer} observed without GC, {steps}"
        if self.state == "already centralized":
            return f"{times}{self.optimizer} centralized by the program itself, {steps}"
        text = (
            f"{times}{self.optimizer} {self.at}, {self.centered} of {self.parameters} parameters"
            f" ({self.centered_entries:,} of {self.entries:,} entries) centered, {steps}"
        )
        if self.step:
            text += f" ({self.step})"
        if self.mean_change is not None:
            text += f", weight means changed by at most {self.mean_change:.1g} per step"
        if self.gradient_mean is not None:
            text += f", gradient means at most {self.gradient_mean:.1g} of the largest entry"
        if self.holds is False:
            text += ", NOT CENTERED as expected"
        return text


@dataclass
class Record:
    """The record of one process, or of all processes of a command.

    Args:
        optimizers: Its optimizers, one entry per kind.
        processes: Number of processes with an optimizer.
        torch: Whether a process imported torch.
        keras: Whether a process imported Keras.
        refused: Reason why the program was stopped, or "".
        errors: Errors of zeromean itself.
        missing: Python interpreters that imported torch and have no zeromean.
        ranks: Ranks of the processes with an optimizer, if a launcher set them.
        finished: Whether every process with an optimizer ended by itself, so that ``steps`` is
            exact.
        weights, gradient: Hashes of the first optimizer's weights and gradient at its first step,
            before centering; "" without one.
    """

    optimizers: list[OptimizerRecord] = field(default_factory=list)
    processes: int = 0
    torch: bool = False
    keras: bool = False
    refused: str = ""
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    finished: bool = True
    weights: str = ""
    gradient: str = ""

    @property
    def acted(self) -> bool:
        """Whether GC, or the observation that was asked for, acted on an optimizer."""
        return any(
            entry.centered or entry.state in ("plain", "already centralized")
            for entry in self.optimizers
        )

    @property
    def faults(self) -> list[str]:
        """The failures of zeromean, one sentence each."""
        return [
            *([self.refused] if self.refused else []),
            *(f"error in zeromean: {error}" for error in self.errors),
            *(f"{python} has no zeromean, install it there" for python in self.missing),
        ]

    @property
    def warnings(self) -> list[str]:
        """The failed checks and the remarks, one sentence each."""
        failed = [one for one in self.optimizers if one.holds is False]
        return [
            *(f"{one.optimizer} {one.at} was NOT CENTERED as expected" for one in failed),
            *self.notes,
        ]

    @property
    def notes(self) -> list[str]:
        """The remarks about all optimizers, each once."""
        return [*dict.fromkeys(note for entry in self.optimizers for note in entry.notes)]

    def causes(self) -> str:
        """Return the reason why no optimizer was centered, as far as the record shows it."""
        if self.optimizers:
            return "; ".join(entry.sentence() for entry in self.optimizers)
        if self.keras:
            return "the program trains with Keras: use zeromean.keras"
        if self.torch:
            return (
                "no torch.optim.Optimizer made a step: the program has a hand-written update loop,"
                " an optimizer that is no torch.optim.Optimizer, or did not train"
            )
        return (
            "no Python process imported torch, or it ran with python -I, -E or -S, or in workers"
            " that another program had started"
        )

    def summary(self) -> str:
        """Return one line about the whole command."""
        faults = "; ".join(self.faults)
        if not self.acted:
            return f"nothing was centered: {faults or self.causes()}"
        text = "; ".join(entry.sentence() for entry in self.optimizers)
        if self.processes > 1:
            text += f"; {self.processes} processes"
        if not self.finished:
            text += "; steps counted at 1, 10, 100, ... because a process did not exit by itself"
        return "; ".join([text, *self.notes, *([faults] if faults else [])])

    def dumps(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self), indent=1)


def merge(records: Iterable[Record]) -> Record:
    """Merge the records of the processes of one command.

    Equal kinds of optimizers in several processes become one entry, which counts the optimizers of
    the process that has most of them.
    """
    merged = Record()
    kinds: dict[tuple[object, ...], OptimizerRecord] = {}
    for record in sorted(records, key=lambda record: record.ranks or [0]):
        for entry in record.optimizers:
            mine = kinds.get(entry.kind)
            if mine is None:
                kinds[entry.kind] = replace(entry, notes=[*entry.notes])
            else:
                count = max(mine.optimizers, entry.optimizers)
                mine.add(entry)
                mine.optimizers = count
        merged.processes += record.processes
        merged.torch |= record.torch
        merged.keras |= record.keras
        merged.refused = merged.refused or record.refused
        merged.errors += [error for error in record.errors if error not in merged.errors]
        merged.missing += [python for python in record.missing if python not in merged.missing]
        merged.ranks += record.ranks
        merged.finished &= record.finished
        if not merged.weights:
            merged.weights, merged.gradient = record.weights, record.gradient
    merged.optimizers = list(kinds.values())
    return merged


def read_records(folder: Path) -> Record:
    """Read and merge the records that the processes of one command wrote.

    Args:
        folder: Folder of the records.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if path.name.endswith(".boot.json"):
            errors = [content["error"]] if "error" in content else []
            missing = [content["missing"]] if "missing" in content else []
            found.append(Record(torch=True, errors=errors, missing=missing))
        else:
            found.append(loads(content))
    return merge(found)


def loads(content: dict[str, Any]) -> Record:
    """Return the record that JSON describes."""
    content = _known(Record, content)
    entries = [_known(OptimizerRecord, entry) for entry in content.pop("optimizers", [])]
    return Record(optimizers=[OptimizerRecord(**entry) for entry in entries], **content)


def _known(kind: type[Record | OptimizerRecord], content: dict[str, Any]) -> dict[str, Any]:
    """Leave out fields of other versions: a process may have its own zeromean."""
    known = {entry.name for entry in fields(kind)}
    return {name: value for name, value in content.items() if name in known}


class Recorder:
    """Write the record of this process, whole or not at all.

    ``os._exit``, SIGKILL and forked workers run no exit handlers. Therefore the record is also
    written at the first step of an optimizer and at steps 10, 100, 1000, ...

    Args:
        folder: Folder for the record.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._entries: list[OptimizerRecord] = []
        self._start()
        atexit.register(self.finish)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        """Begin the record of this process; a forked one counts its own steps."""
        self._lock = threading.RLock()
        self._kinds: dict[tuple[object, ...], OptimizerRecord] = {}
        for entry in self._entries:
            entry.steps = 0
        self._path = self._folder / f"{os.getpid()}-{time.time_ns()}.json"
        rank = os.environ.get("RANK", "")
        self._ranks = [int(rank)] if rank.isdecimal() else []
        self.record = Record(torch=True)

    def add(self, entry: OptimizerRecord) -> None:
        """Add an optimizer."""
        with self._lock:
            self._entries.append(entry)

    def retire(self, entry: OptimizerRecord) -> None:
        """Sum up an optimizer that was deleted, so that the record does not grow."""
        with self._lock:
            # New objects, because the garbage collector may call this in the middle of a write.
            entries, kinds = self._entries, self._kinds
            if any(entry is other for other in entries):
                entries = [other for other in entries if other is not entry]
                self._entries, self._kinds = entries, self._sum_up(kinds, [entry])

    def write(self, finished: bool = False) -> None:
        """Write the record as it is now."""
        with self._lock:
            entries, kinds = self._entries, self._kinds
            kinds = self._sum_up(kinds, entries)
            self.record.optimizers = list(kinds.values())
            self.record.processes = int(bool(kinds))
            self.record.ranks = self._ranks if kinds else []
            self.record.keras = "keras" in sys.modules
            self.record.finished = finished or not kinds
            temporary = self._path.with_suffix(".tmp")
            try:
                temporary.write_text(self.record.dumps())
                temporary.replace(self._path)
            except OSError:
                pass  # the command has ended, and the folder of its records was removed

    def finish(self) -> None:
        """Write the final record, at exit."""
        self.write(finished=True)

    @staticmethod
    def _sum_up(
        kinds: dict[tuple[object, ...], OptimizerRecord], entries: Iterable[OptimizerRecord]
    ) -> dict[tuple[object, ...], OptimizerRecord]:
        """Return the kinds with the entries added; both stay as they are."""
        kinds = {**kinds}
        for entry in entries:
            if not entry.steps and entry.state != "refused":
                continue  # no step has ended in this process
            known = kinds.get(entry.kind)
            if known is None:
                kinds[entry.kind] = replace(entry, notes=[*entry.notes])
            else:
                kinds[entry.kind] = replace(known, notes=[*known.notes])
                kinds[entry.kind].add(entry)
        return kinds


def _largest(a: float | None, b: float | None) -> float | None:
    return max((value for value in (a, b) if value is not None), default=None)
