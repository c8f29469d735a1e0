"""Results that are made up, for what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from zeromean.study import ImageTask, Method, Study
from zeromean.study.engine.results import Results
from zeromean.study.spec import presets
from zeromean.study.spec.metric import ACCURACY, Metric
from zeromean.study.spec.records import Candidate, Epoch, Key, Run
from zeromean.study.tasks.interface import TaskInfo

Curves = Sequence[Sequence[float]]


def make_run(
    method: str,
    seed: int,
    scores: Sequence[float],
    seconds: float = 1.0,
    diverged: bool = False,
    task: str = "digits/cnn",
) -> Run:
    """A run with the given score after each epoch; a diverged one ends in a NaN loss."""
    epochs = [
        Epoch(number, _metrics(1 / number, 2 / number, score), seconds)
        for number, score in enumerate(scores, start=1)
    ]
    last = scores[-1]
    if diverged:
        epochs[-1] = Epoch(len(epochs), _metrics(math.nan, math.nan, last), seconds)
    end = (None, None, None) if diverged else (last + 0.05, epochs[-1].loss, last)
    return Run(Key(task, "sgd", method, seed), Candidate(0.05), tuple(epochs), *end)


def make_results(
    out: Path,
    *tasks: dict[str, Curves],
    seconds: dict[str, Sequence[float]] | None = None,
    diverged: Sequence[tuple[str, int]] = (),
    metric: Metric = ACCURACY,
) -> Results:
    """One run a curve.

    Args:
        out: Folder for results.
        tasks: For each task, method and seed, the scores by epoch.
        seconds: For each method, the seconds an epoch of each seed; 1 where not given.
        diverged: Methods and seeds whose run ends in a NaN loss.
        metric: What the scores are.
    """
    curves = tasks[0]
    epochs = max(len(scores) for seeds in curves.values() for scores in seeds)
    declared = [ImageTask(data=f"digits{number or ''}", epochs=epochs) for number in range(len(tasks))]
    runs = tuple(
        make_run(
            method,
            seed,
            scores,
            seconds[method][seed] if seconds else 1.0,
            (method, seed) in diverged,
            task.label,
        )
        for task, methods in zip(declared, tasks, strict=True)
        for method, seeds in methods.items()
        for seed, scores in enumerate(seeds)
    )
    study = Study(tasks=tuple(declared), methods=tuple(map(_method, curves)), seeds=len(curves["plain"]))
    info = TaskInfo("12 images", "its own", "as bytes", "test", metric, 10, "-")
    return Results(
        study=study,
        out=out,
        runs=runs,
        infos={task.label: info for task in declared},
        sessions=({"torch": "2"},),
        command=study.command(out),
        threads=1,
    )


def _metrics(train_loss: float, loss: float, score: float) -> dict[str, float]:
    return {
        "train_loss": train_loss, "train_score": score, "loss": loss, "score": score,
        "learning_rate": 0.05,
    }  # fmt: skip


def _method(label: str) -> Method:
    """Return the method of a label; labels that are no short names stand for some method."""
    if label in presets.METHOD_NAMES:
        return presets.method(label)
    return Method(label, clip_norm=1.0 + hash(label) % 10_000)
