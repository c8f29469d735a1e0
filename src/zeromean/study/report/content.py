"""The content of a report in any form: verdicts, tables, settings, tuning and environment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.study.engine.results import Comparison, Results
from zeromean.study.engine.scheduler import final_seeds
from zeromean.study.engine.search import budget
from zeromean.study.report.conclusion import TUNING_NOISE, Conclusion, conclude, overview
from zeromean.study.report.rates import comparable, trials
from zeromean.study.report.statistics import spread
from zeromean.study.report.summary import Summary, summarize
from zeromean.study.report.table import tabulate
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.records import Candidate, number_text
from zeromean.study.spec.task import TrainedTask
from zeromean.tables import Table, amount

# A title with more methods gives their number instead.
MAX_METHODS_IN_TITLE = 8


@dataclass(frozen=True)
class Section:
    """The content of a report on one comparison.

    Args:
        comparison: Comparison of the methods on one task with one optimizer.
        summaries: One summary per method.
        conclusions: One conclusion per method except the baseline.
        table: Numbers of the comparison, one column per method.
    """

    comparison: Comparison
    summaries: list[Summary]
    conclusions: list[Conclusion]
    table: Table


def sections(results: Results, min_effect: float | None = None) -> list[Section]:
    """Build one section per comparison.

    Args:
        results: Results of a finished study.
        min_effect: Difference of scores (0.01 is one point of accuracy) for which the tables show
            the number of seeds that detect it.

    Raises:
        ZeromeanError: ``min_effect`` is not a finite number above 0.
    """
    check_min_effect(min_effect)
    return [
        Section(
            comparison,
            summaries,
            _conclusions(comparison, summaries),
            tabulate(comparison, summaries, min_effect),
        )
        for comparison, summaries in zip(results.comparisons, summarize(results), strict=True)
    ]


def check_min_effect(min_effect: float | None) -> None:
    """Raise ZeromeanError unless ``min_effect`` is None or a finite number above 0."""
    if min_effect is not None and not 0 < min_effect < math.inf:
        raise ZeromeanError(
            f"min_effect is {min_effect:g}, which is not a difference of scores above 0",
            "Use a positive number, such as 0.01 for one point of accuracy",
        )


def headline(parts: list[Section]) -> list[str]:
    """Return the first lines of a report: each method's verdict, or its count of verdicts."""
    if len(parts) > 1:
        return overview([part.conclusions for part in parts])
    return [str(conclusion) for conclusion in parts[0].conclusions]


def _conclusions(comparison: Comparison, summaries: list[Summary]) -> list[Conclusion]:
    baseline = next(summary for summary in summaries if summary.method == BASELINE)
    early = comparison.early_epoch
    moment = f"{comparison.point} {early}" if early < comparison.epochs else None
    return [conclude(summary, baseline, moment) for summary in summaries if summary is not baseline]


def content(results: Results, parts: list[Section]) -> dict[str, Any]:
    """Return the values that the templates of all forms of the report show."""
    study = results.study
    methods = (
        " / ".join(study.method_labels)
        if len(study.methods) <= MAX_METHODS_IN_TITLE
        else f"{len(study.methods)} methods"
    )
    names = dict.fromkeys(task.title for task in study.tasks)
    return {
        "title": f"{methods} on {', '.join(names)}",
        "note": study.note,
        "headline": headline(parts),
        "sections": parts,
        "same": [part.comparison.notes for part in parts],
        "methods": study.method_labels,
        "descriptions": {one.label: one.calls for one in study.methods},
        "baseline": BASELINE,
        "point": results.comparisons[0].point,
        "unusable": results.comparisons[0].unusable,
        "settings": [_settings(part.comparison, results) for part in parts],
        "sessions": results.sessions,
        "budget": budget(study, {label: info.steps for label, info in results.infos.items()}),
        "tuned": [_tuned(part.comparison, results) for part in parts if study.tuning is not None],
        "tuning_noise": TUNING_NOISE,
        "comparisons": sum(len(part.conclusions) for part in parts),
        "corrected_for": max(
            (one.comparisons for part in parts for one in part.summaries if one.corrected),
            default=1,
        ),
        "command": results.command,
    }


def _settings(comparison: Comparison, results: Results) -> dict[str, str]:
    study, task, info = comparison.study, comparison.task, comparison.info
    optimizer = study.optimizer(comparison.optimizer)
    candidates = {run.candidate for run in comparison.runs}
    numbers = final_seeds(study)
    listed = ", from 0" if numbers[-1] < study.seeds else f": {', '.join(map(str, numbers))}"
    seeds = f"{study.seeds}{listed}"
    alike = "; a seed sets initial weights and batches of every method alike"
    if not isinstance(task, TrainedTask):
        better = "higher" if info.metric.higher_is_better else "lower"
        scored = "best" if task.best else "last"
        return {
            "Task": info.description,
            "Metric": f"{task.metric}; {better} is better; a run is scored by its {scored} value",
            "Seeds": f"{seeds}; runs of the same seed are paired{results.growth}",
        }
    rates = ", ".join(f"{lr:g}" for lr in sorted({one.lr for one in candidates}))
    given = study.lr is not None or optimizer.lr is not None
    source = "as given" if given else "customary for this optimizer and network"
    if study.tuning is not None:
        source = "tuned, see below"
    decays = {one.weight_decay for one in candidates}
    return {
        "Data": f"{task.title}: {info.description}",
        **({"Subset": _subset(task)} if (task.train_size, task.imbalance) != (None, 1) else {}),
        "Test set": info.split,
        "Preprocessing": info.preprocessing,
        "Network": getattr(task, "model", "from the task function"),
        "Optimizer": f"{comparison.optimizer}, {optimizer.describe(decays)}",
        "Learning rate": f"{rates} ({source}); {task.schedule.description}",
        "Epochs": f"{task.epochs} of {info.steps} steps",
        "Batch size": f"{task.batch_size}; an incomplete last batch is left out",
        "Seeds": f"{seeds}{alike}{results.growth}",
        "Computation": f"{study.precision}, {amount(results.threads, 'CPU thread')} per run",
    }


def _subset(task: TrainedTask) -> str:
    size = "all" if task.train_size is None else f"{task.train_size:,}"
    how = "drawn at random within each class"
    if task.imbalance != 1:
        how = f"the first class has {task.imbalance:g} times as many as the last"
    return f"{size} training examples; {how}"


def _tuned(comparison: Comparison, results: Results) -> list[tuple[str, str]]:
    """Describe what was chosen for each method, and its distance from the next best trial."""
    metric, found = comparison.info.tuning_metric, []
    for method in comparison.methods:
        chosen = comparable(next(iter(comparison.of(method).values())).candidate)
        done = trials(results, comparison, method)
        scores = {
            candidate: spread([run.epochs[-1].score for run in runs])
            for candidate, runs in done.items()
            if not any(run.diverged for run in runs)
        }
        text = _in_words(chosen)
        others = [one for one in scores if one != chosen]
        if chosen in scores and others:
            other = max(others, key=lambda one: metric.gain(scores[one].mean))
            lead = metric.difference(scores[other].mean - scores[chosen].mean)
            unit = f" {metric.difference_unit}" if metric.difference_unit else ""
            text += f"; the next best, {_in_words(other)}, scored {lead}{unit}"
            noise = scores[chosen].deviation
            if noise is not None:
                text += f" (deviation between seeds {metric.number(noise)})"
        failed = len(done) - len(scores)
        if failed:
            text += f"; {failed} of {len(done)} trials {comparison.unusable}"
        for name, value in _tuned_values(chosen).items():
            tried = {_tuned_values(one)[name] for one in done}
            if len(tried) > 1 and value in (min(tried), max(tried)):
                text += f"; this is the end of the range of the {name}: a better one may lie beyond"
        found.append((method, text))
    return found


def _tuned_values(candidate: Candidate) -> dict[str, float]:
    """Return the numbers of which a grid has a range, by their names."""
    lr = {} if math.isnan(candidate.lr) else {"learning rate": candidate.lr}
    return {**lr, **dict(candidate.values)}


def _in_words(candidate: Candidate) -> str:
    parts = [] if math.isnan(candidate.lr) else [f"learning rate {candidate.lr:.3g}"]
    if candidate.weight_decay is not None:
        parts.append(f"weight decay {candidate.weight_decay:.3g}")
    return ", ".join(
        [*parts, *(f"{name} {number_text(value)}" for name, value in candidate.values)]
    )
