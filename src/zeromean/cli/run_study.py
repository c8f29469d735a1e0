"""Train a study with its progress on the terminal, and show its results."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zeromean.cli.output import INTERRUPTED, echo, fill, note, refuse
from zeromean.study.spec.study import Study

if TYPE_CHECKING:
    from zeromean.study.engine.results import Results
    from zeromean.study.engine.watcher import Watcher


def run_study(
    study: Study,
    out: Path,
    jobs: int = 1,
    ray: str | None = None,
    tensorboard: bool = False,
    min_effect: float | None = None,
) -> None:
    """Run the study and show its results."""
    from zeromean.study.report import check_min_effect

    check_min_effect(min_effect)  # before hours of training
    train_study(study, out, jobs, ray, tensorboard)
    show(out, min_effect)


def train_study(
    study: Study,
    out: Path,
    jobs: int = 1,
    ray: str | None = None,
    tensorboard: bool = False,
    command: str | None = None,
) -> None:
    """Run the study; Ctrl-C ends it with one line that says what is kept.

    Args:
        study: Study to run.
        out: Folder of the results.
        jobs: Number of runs that train at the same time.
        ray: Address of a Ray cluster, or None.
        tensorboard: Whether to write logs for TensorBoard.
        command: Command that the report shows; None for the one that repeats the study.
    """
    from zeromean.cli.progress import LiveProgress
    from zeromean.study.engine.results import count_runs, missing_runs
    from zeromean.study.engine.resume import check_folder
    from zeromean.study.engine.run import run
    from zeromean.study.report.statistics import min_seeds

    check_folder(study, out)  # before its runs are counted
    comparisons = sum(len(study.trained_methods(optimizer)) - 1 for _, optimizer in study.cells)
    left = missing_runs(study, out)
    # With fewer than three seeds nobody expects a test.
    if left and comparisons and 2 < study.seeds < min_seeds(comparisons):
        several = f" among {comparisons} comparisons" if comparisons > 1 else ""
        note(
            f"{study.seeds} seeds are too few to show a difference{several}; use at least"
            f" {min_seeds(comparisons)}"
        )
    with ExitStack() as stack:
        progress = stack.enter_context(LiveProgress(study, left))
        watcher: Watcher = progress
        if tensorboard:
            from zeromean.study.engine.tensorboard import TensorBoard

            watcher = TensorBoard(out / "tensorboard", progress)
        try:
            run(study, out, jobs=jobs, ray=ray, watcher=watcher, command=command)
        except KeyboardInterrupt:
            stack.close()
            kept, wanted = count_runs(study, out)
            refuse(
                f"interrupted with {kept} of {wanted} runs kept in {out};"
                " the same command continues",
                INTERRUPTED,
            )


def show(out: Path, min_effect: float | None = None) -> Results:
    """Print the verdicts and tables of a finished study, and write its report."""
    from zeromean.study import report
    from zeromean.study.engine import results
    from zeromean.study.report.table import fold

    found = results.read(out)
    parts = report.sections(found, min_effect)
    several = len(parts) > 1
    if found.study.note:
        echo(f"{found.study.note}\n")
    for sentence in report.headline(parts):
        echo(f"{fill(sentence)}\n")
    width = shutil.get_terminal_size().columns
    for part in parts:
        if several:
            echo(f"{part.comparison.name}\n")
        for table in fold(part.table, width):
            echo(f"{table}\n")
        for sentence in [*(map(str, part.conclusions) if several else ()), *part.comparison.notes]:
            echo(f"{fill(sentence)}\n")
    page = report.write(found, min_effect)
    echo(f"{page}\n{out / 'study.sqlite'}")
    return found
