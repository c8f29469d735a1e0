"""What a terminal shows of a study: progress while it runs, the table at its end."""

from __future__ import annotations

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
from rich.table import Table

from zeromean.study.report.table import Row
from zeromean.study.spec.records import FINAL, Epoch, Key, Run
from zeromean.study.spec.study import Study

# Of methods that are printed side by side.
COLUMNS = 4


class LiveProgress:
    """A bar over all epochs of the runs that are left, on standard error.

    Args:
        study: What is under way.
        left: Its runs that are not kept yet.
    """

    def __init__(self, study: Study, left: Iterable[Key]) -> None:
        self._study = study
        self._ended: dict[Key, int] = {}
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            # Long enough to average over the methods, which differ in speed.
            speed_estimate_period=120,
            # The results take its place; an error stands alone.
            transient=True,
            # A log file has no use for a bar.
            disable=not console.is_terminal,
        )
        total = sum(map(study.epochs, left))
        names = ", ".join(task.title for task in study.tasks)
        self._task = self._bar.add_task(f"reading {names}", total=total)

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        # A run that goes on from a checkpoint has earlier epochs behind it.
        behind = epoch.number - self._ended.get(key, 0)
        self._ended[key] = epoch.number
        part = f"seed {key.seed + 1}/{self._study.seeds}"
        if key.trial != FINAL:
            part = f"tuning trial {key.trial + 1}"
        self._bar.update(
            self._task,
            advance=behind,
            description=f"{key.task} {key.optimizer} {part} "
            f"{key.method} epoch {epoch.number}/{self._study.epochs(key)}",
        )

    def on_run(self, run: Run) -> None:
        if run.diverged:
            # The rest of its epochs will never come.
            missing = self._study.epochs(run.key) - len(run.epochs)
            self._bar.advance(self._task, missing)
            self._bar.console.print(
                f"{run.key.task} {run.key.optimizer} seed {run.key.seed + 1} {run.key.method}: "
                f"diverged in epoch {run.epochs[-1].number}",
                markup=False,
            )

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def show_table(rows: list[Row], methods: tuple[str, ...], console: Console) -> None:
    """Prints the rows, one column a method; with many methods, several tables one after another."""
    for start in range(0, len(methods), COLUMNS):
        shown = slice(start, start + COLUMNS)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("")
        for method in methods[shown]:
            table.add_column(method, justify="right", no_wrap=True)
        for label, cells in rows:
            table.add_row(label, *cells[shown])
        if start:
            console.print()
        console.print(table)
