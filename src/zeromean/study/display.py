"""What a terminal shows of a comparison: progress while it runs, the table at its end."""

from __future__ import annotations

from types import TracebackType

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

from zeromean.study.settings import Settings
from zeromean.study.table import Row
from zeromean.study.train import Epoch, Run


class LiveProgress:
    """A bar over all epochs of all runs, on standard error.

    Args:
        settings: Of the comparison.
    """

    def __init__(self, settings: Settings) -> None:
        self.kept = 0
        self.total = settings.seeds * len(settings.methods)
        self._settings = settings
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
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
        self._task = self._bar.add_task(
            f"reading {settings.data}", total=self.total * settings.epochs
        )

    def on_epoch(self, method: str, seed: int, epoch: Epoch) -> None:
        self._bar.update(
            self._task,
            advance=1,
            description=f"seed {seed + 1}/{self._settings.seeds} {method} "
            f"epoch {epoch.number}/{self._settings.epochs} {epoch.test_accuracy:.1%}",
        )

    def on_run(self, run: Run) -> None:
        self.kept += 1
        if run.diverged:
            # The rest of its epochs will never come.
            self._bar.advance(self._task, self._settings.epochs - len(run.epochs))
            self._bar.console.print(
                f"seed {run.seed + 1} {run.method}: diverged in epoch {run.epochs[-1].number}"
            )

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


def show_table(rows: list[Row], methods: tuple[str, ...], console: Console) -> None:
    """Prints the rows, one column a method."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for method in methods:
        table.add_column(method, justify="right", no_wrap=True)
    for label, cells in rows:
        table.add_row(label, *cells)
    console.print(table)
