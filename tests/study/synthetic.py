"""Invented results, for what is computed from results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zeromean.study.engine.results import Results
from zeromean.study.spec.metric import ACCURACY, Metric
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import Candidate, Epoch, Key, Run
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.tasks.interface import TaskInfo

Curves = Sequence[Sequence[float]]


def make_run(
    method: str,
    seed: int,
    scores: Sequence[float],
    *,
    seconds: float = 1.0,
    diverged: bool = False,
    task: str = "digits/cnn",
    optimizer: str = "sgd",
) -> Run:
    """Make a run with a score after each epoch; a diverged one ends in a NaN loss."""
    epochs = [
        Epoch(
            number,
            {
                "score": score,
                "loss": 2 / number,
                "train_loss": 1 / number,
                "train_score": score + 0.05,
                "learning_rate": 0.05 / number,
            },
            seconds,
        )
        for number, score in enumerate(scores, start=1)
    ]
    last = scores[-1]
    if diverged:
        broken = {**epochs[-1].metrics, "loss": math.nan, "train_loss": math.nan}
        epochs[-1] = Epoch(len(epochs), broken, seconds)
    end = (None, None, None) if diverged else (last + 0.05, epochs[-1].loss, last)
    return Run(Key(task, optimizer, method, seed), Candidate(0.05), tuple(epochs), *end)


def make_results(
    out: Path,
    *tasks: dict[str, Curves],
    seconds: dict[str, Sequence[float]] | None = None,
    diverged: Sequence[tuple[str, int]] = (),
    metric: Metric = ACCURACY,
    optimizer: str = "adam",
    **study: Any,
) -> Results:
    """Make a study with one run per curve.

    Args:
        out: Folder of the study.
        tasks: Scores by epoch, by method and seed, for each task.
        seconds: Seconds per epoch of each seed, by method (default 1).
        diverged: Methods and seeds whose run ends in a NaN loss.
        metric: Metric of the scores.
        optimizer: Optimizer; with "sgd", gc-update would be the same method as gc.
        study: More arguments of the study.
    """
    curves = tasks[0]
    epochs = max(len(scores) for seeds in curves.values() for scores in seeds)
    declared = tuple(
        ImageTask(data=f"digits{number or ''}", epochs=epochs) for number in range(len(tasks))
    )
    made = Study(
        tasks=declared,
        methods=tuple(curves),
        optimizers=(optimizer,),
        seeds=len(curves["plain"]),
        **study,
    )
    runs = tuple(
        make_run(
            method,
            seed,
            scores,
            seconds=seconds[method][seed] if seconds else 1.0,
            diverged=(method, seed) in diverged,
            task=task.label,
            optimizer=optimizer,
        )
        for task, methods in zip(declared, tasks, strict=True)
        for method, seeds in methods.items()
        for seed, scores in enumerate(seeds)
        if method in made.trained_methods(optimizer)
    )
    info = TaskInfo("12 images", "its own", "as bytes", "test", metric, 10, "-")
    return Results(
        study=made,
        out=out,
        runs=runs,
        infos={task.label: info for task in declared},
        sessions=({"torch": "2"},),
        command=made.command(out),
        threads=1,
    )


def make_program_results(out: Path, task: ProgramTask, curves: dict[str, Curves]) -> Results:
    """Make a study of a program with one run per curve.

    Args:
        out: Folder of the study.
        task: The program.
        curves: Values that each run reports, by method and seed.
    """
    study = Study(tasks=(task,), methods=tuple(curves), seeds=len(curves["plain"]))
    runs = tuple(
        replace(
            make_run(method, seed, scores, task=task.label, optimizer=study.optimizer_labels[0]),
            train_score=None,
            test_loss=None,
        )
        for method, seeds in curves.items()
        for seed, scores in enumerate(seeds)
    )
    info = TaskInfo("train.py", "its own", "its own", "test", task.metric_of(), 0, "-")
    made = make_results(out, curves)
    return replace(made, study=study, runs=runs, infos={task.label: info})
