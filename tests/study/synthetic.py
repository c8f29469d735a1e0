"""Comparisons with made-up results, for what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from zeromean.study.compare import Comparison
from zeromean.study.settings import Settings
from zeromean.study.train import Epoch, Run

Curves = Sequence[Sequence[float]]


def make_run(
    method: str,
    seed: int,
    accuracies: Sequence[float],
    seconds: float = 1.0,
    diverged: bool = False,
) -> Run:
    """A run with the given test accuracy after each epoch; a diverged one ends in a NaN loss."""
    epochs = [
        Epoch(number, 1 / number, 2 / number, accuracy, seconds)
        for number, accuracy in enumerate(accuracies, start=1)
    ]
    if diverged:
        epochs[-1] = Epoch(len(epochs), math.nan, math.nan, accuracies[-1], seconds)
    return Run(method, seed, tuple(epochs))


def make_comparison(
    out: Path,
    curves: dict[str, Curves],
    seconds: dict[str, Sequence[float]] | None = None,
    diverged: Sequence[tuple[str, int]] = (),
) -> Comparison:
    """One run a curve.

    Args:
        out: Folder for results.
        curves: For each method and seed, the test accuracies by epoch.
        seconds: For each method, the seconds an epoch of each seed; 1 where not given.
        diverged: Methods and seeds whose run ends in a NaN loss.
    """
    runs = tuple(
        make_run(
            method,
            seed,
            accuracies,
            seconds[method][seed] if seconds else 1.0,
            (method, seed) in diverged,
        )
        for method, seeds in curves.items()
        for seed, accuracies in enumerate(seeds)
    )
    settings = Settings(
        methods=tuple(curves),
        epochs=max(len(run.epochs) for run in runs),
        seeds=len(curves["plain"]),
        out=out,
    )
    return Comparison(settings, "12 images", "its own", runs, {"torch": "2"})
