"""What the commands that train a study share: progress, interruption, and what is shown."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from zeromean.study.spec.study import Study


@dataclass(frozen=True)
class Ways:
    """How a study is trained, as the options of that name say."""

    jobs: int
    ray: str | None
    tensorboard: bool


def run_study(study: Study, out: Path, ways: Ways, gain: float | None) -> None:
    """Runs the study and shows its results."""
    from zeromean.study.report import check_gain

    check_gain(gain)  # not after hours of training
    train_study(study, out, ways)
    show(out, gain)


def train_study(study: Study, out: Path, ways: Ways, command: str | None = None) -> None:
    """Runs the study; Ctrl-C ends it with what is kept and how to go on.

    Args:
        study, out, ways: What is trained, where it is kept, and how.
        command: What was typed, where that is more than the study.
    """
    from zeromean.study.engine.results import count_runs, missing_runs
    from zeromean.study.engine.resume import check_folder
    from zeromean.study.engine.run import run
    from zeromean.study.engine.watcher import Watcher
    from zeromean.study.watchers.display import LiveProgress

    check_folder(study, out)  # before it is asked what it holds
    with LiveProgress(study, missing_runs(study, out)) as progress:
        watcher: Watcher = progress
        if ways.tensorboard:
            from zeromean.study.engine.tensorboard import TensorBoard

            watcher = TensorBoard(out / "tensorboard", progress)
        try:
            run(
                study,
                out,
                jobs=ways.jobs,
                ray=ways.ray,
                watcher=watcher,
                command=command,
            )
        except KeyboardInterrupt:
            runs, wanted = count_runs(study, out)
            print(
                f"zeromean: interrupted with {runs} of {wanted} runs kept in {out}; "
                "the same command goes on",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None


def show(out: Path, gain: float | None) -> None:
    """Prints the tables and sentences of a finished study, and writes its report."""
    from rich.console import Console

    from zeromean.study import report
    from zeromean.study.engine import results
    from zeromean.study.watchers.display import show_table

    found = results.read(out)
    # First what cannot fail any more.
    several = report.headline(found)
    if found.study.note:
        print(f"{found.study.note}\n")
    for section in report.sections(found, gain):
        if several:
            print(f"{section.comparison.name}\n")
        show_table(section.table, found.study.method_labels, Console())
        print()
        for sentence in section.conclusions:
            print(sentence)
        print()
    if several:
        print(f"{several}\n")
    page, *pictures = report.write(found, gain)
    print("\n".join(map(str, (page, *pictures, out / "study.sqlite"))))
