"""A chart of tuning: the validation score of each method over the tuned value."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from zeromean.study.engine.results import Comparison, Results
from zeromean.study.report.drawing import figure, literal, styles, tidy
from zeromean.study.spec.metric import with_unit
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import FINAL, Candidate, Run

CAPTION = (
    "Score at the end of each tuning trial, mean over its seeds with one standard deviation to each"
    " side. A ring marks the value that the comparison uses."
)


def trials(results: Results, comparison: Comparison, method: str) -> dict[Candidate, list[Run]]:
    """Return the tuning runs of a method by candidate, in ascending order of the tuned value."""
    found: dict[Candidate, list[Run]] = {}
    for run in results.runs:
        key = run.key
        own = (key.task, key.optimizer, key.method) == (
            comparison.task.label,
            comparison.optimizer,
            method,
        )
        if own and key.trial != FINAL:
            found.setdefault(comparable(run.candidate), []).append(run)
    return dict(sorted(found.items(), key=lambda item: _position(item[0])))


def comparable(candidate: Candidate) -> Candidate:
    """Return the candidate in a form that compares equal even if it has no learning rate."""
    # Tuples compare the same object as equal, even if it is nan.
    return candidate._replace(lr=math.nan) if math.isnan(candidate.lr) else candidate


def _position(candidate: Candidate) -> float:
    """Return the learning rate, or the first tuned value of a program."""
    if math.isnan(candidate.lr):
        return candidate.values[0][1] if candidate.values else 0.0
    return candidate.lr


def draw(results: Results, comparison: Comparison) -> Figure:
    """Draw one line per method; of several trials with the same tuned value, it shows the best.

    Args:
        results: Results of a tuned study.
        comparison: Comparison to draw.
    """
    metric = comparison.info.tuning_metric
    look = styles(comparison.study.method_labels)
    chart = figure(3.4 + 0.12 * len(comparison.methods))
    axes = chart.subplots()
    for method in comparison.methods:
        style = look[method]
        best: dict[float, np.ndarray] = {}
        for candidate, runs in trials(results, comparison, method).items():
            if any(run.diverged for run in runs):
                continue
            scores = metric.scale * np.array([run.epochs[-1].score for run in runs])
            known = best.get(_position(candidate))
            if known is None or metric.gain(scores.mean() - known.mean()) > 0:
                best[_position(candidate)] = scores
        rates, means = [*best], [scores.mean() for scores in best.values()]
        deviations = [scores.std(ddof=1) if len(scores) > 1 else 0.0 for scores in best.values()]
        axes.errorbar(
            rates,
            means,
            deviations,
            color=style.color,
            linestyle=style.line,
            marker=style.marker,
            markersize=4,
            capsize=2,
            linewidth=1.5,
            label=literal(method),
        )
        chosen = {_position(run.candidate) for run in comparison.of(method).values()}
        rings = [(rate, best[rate].mean()) for rate in chosen if rate in best]
        if rings:
            axes.plot(*zip(*rings, strict=True), "o", mfc="none", mec=style.color, ms=11, mew=1.8)
    first = comparison.runs[0].candidate
    positions = [x for line in axes.lines for x in np.asarray(line.get_xdata(), dtype=float)]
    if positions and min(positions) > 0:
        axes.set_xscale("log")
    axes.set_xlabel("Learning rate" if math.isfinite(first.lr) else first.values[0][0])
    program = isinstance(comparison.task, ProgramTask)  # the program decides what it is scored on
    score = metric.name if program else f"Validation {metric.name}"
    axes.set_ylabel(literal(with_unit(score, metric.unit)))
    chart.legend(loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    tidy(axes)
    return chart
