"""Progress of a study on standard error: a bar on terminals, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from zeromean.cli.output import printable
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import FINAL, Epoch, Key, Run
from zeromean.study.spec.study import Study

# Log files get a line at most this often, and one at the end.
SECONDS_BETWEEN_LINES = 10.0


class LiveProgress(Watcher):
    """Show the epochs of all runs that are left.

    Args:
        study: Study to run.
        left: Keys of the runs that its folder does not hold yet.
    """

    def __init__(self, study: Study, left: Iterable[Key]) -> None:
        self._study = study
        self._left = list(left)
        self._ended: dict[Key, int] = {}
        self._runs = 0
        self._first: dict[Key, Run] = {}
        self._repeats = False
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            # Long enough to average over methods of different speed.
            speed_estimate_period=120,
            # The results replace the bar.
            transient=True,
            disable=not self._console.is_terminal,
        )
        names = ", ".join(task.title for task in study.tasks)
        doing = "running" if study.programs else "reading"
        epochs = sum(map(study.epochs, self._left))
        self._task = self._bar.add_task(f"{doing} {names}", total=epochs)

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        """Advance by the epochs since the last one; a resumed run has earlier epochs."""
        advance = epoch.number - self._ended.get(key, 0)
        self._ended[key] = epoch.number
        part = _part(key)
        self._bar.update(
            self._task,
            advance=advance,
            description=printable(
                f"{key.task} {key.optimizer} {part} {key.method}"
                f" epoch {epoch.number}/{self._study.epochs(key)}"
            ),
        )

    def on_run(self, run: Run) -> None:
        """Count a run that ended, and name it if it diverged or failed."""
        self._runs += 1
        key = run.key
        part = _part(key)
        name = f"{key.task} {key.optimizer} {part} {key.method}"
        program = isinstance(self._study.task(key.task), ProgramTask)
        if run.diverged:
            # The rest of its epochs will never come.
            self._bar.advance(self._task, self._study.epochs(key) - self._ended.get(key, 0))
            # A program is one epoch, whatever it reports.
            where = "at its last value" if program else f"in epoch {len(run.epochs)}"
            reason = run.failure or f"diverged {where}"
            self._print(f"{name}: {reason}")
        elif program and key.trial == FINAL:
            self._compare_seeds(run, name)
        if self._bar.disable and self._is_due():
            # A grid that grows while it is tuned adds runs to those that were planned.
            total = f" of {len(self._left)}" if self._runs <= len(self._left) else ""
            self._print(f"{self._runs}{total} runs done, last {name}")

    def _compare_seeds(self, run: Run, name: str) -> None:
        """Say it at once if two seeds of a program are alike: the others may take hours."""
        first = self._first.setdefault(run.key._replace(seed=0), run)
        if first is not run and first.origin == run.origin and not self._repeats:
            self._repeats = True
            self._print(
                f"{name}: begins like another seed. If the program sets its own seed, all runs"
                " count as one; interrupt them, and make it use {seed}, or add --shift-seeds."
            )

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_line and self._runs != len(self._left):
            return False
        self._next_line = now + SECONDS_BETWEEN_LINES
        return True

    def _print(self, text: str) -> None:
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def _part(key: Key) -> str:
    return f"seed {key.seed}" if key.trial == FINAL else f"tuning trial {key.trial + 1}"
