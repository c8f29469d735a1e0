"""Tune with the same budget for every method, and choose by validation examples alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zeromean.errors import needs_extra
from zeromean.study.spec.metric import Metric
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.records import Candidate, Run, number_text
from zeromean.study.spec.study import Study
from zeromean.study.spec.tuning import Tuning
from zeromean.study.spec.validation import LARGEST_FLOAT32
from zeromean.tables import amount


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Args:
        candidate: The values that were tried.
        score: Mean over the trial's seeds on the validation examples at the end; None if one of its
            runs diverged or failed, which makes the trial a failure.
    """

    candidate: Candidate
    score: float | None


def outcomes(trials: Mapping[int, Sequence[Run]], seeds: int) -> dict[int, Outcome]:
    """Return the outcome of each trial that is complete, by its number.

    Args:
        trials: Runs of each trial of a method, by its number.
        seeds: Number of runs of a trial that is complete.
    """
    return {trial: _outcome(runs) for trial, runs in sorted(trials.items()) if len(runs) == seeds}


def _outcome(runs: Sequence[Run]) -> Outcome:
    if any(run.diverged or not run.epochs for run in runs):
        return Outcome(runs[0].candidate, None)
    return Outcome(runs[0].candidate, statistics.fmean(run.epochs[-1].score for run in runs))


def plan(
    tuning: Tuning, done: Mapping[int, Outcome], metric: Metric
) -> tuple[list[Candidate], bool]:
    """Return the candidates of all trials known so far, and whether there will be no more.

    A grid grows while its best rate is the lowest or the highest: by one rate, in the ratio of the
    two outer ones, at most ``tuning.extensions`` times on each side. The plan depends on the
    outcomes alone, so an interrupted study continues with the same trials.

    Args:
        tuning: The budget.
        done: The outcomes of the complete trials, by their numbers.
        metric: The score.
    """
    if tuning.search == "optuna":
        assert tuning.trials is not None
        tried = list(itertools.takewhile(lambda trial: trial in done, range(tuning.trials)))
        candidates = [done[trial].candidate for trial in tried]
        if len(tried) == tuning.trials:
            return candidates, True
        learned = [done[trial] for trial in tried]
        return [*candidates, _suggested(tuning, len(tried), learned, metric)], False
    candidates = grid(tuning)
    if tuning.values:
        return candidates, all(trial in done for trial in range(len(candidates)))
    left = {"lowest": tuning.extensions, "highest": tuning.extensions}
    while all(trial in done for trial in range(len(candidates))):
        best = choice([done[trial] for trial in range(len(candidates))], metric)
        rates = sorted({one.lr for one in candidates})
        side = "lowest" if best.lr == rates[0] else "highest" if best.lr == rates[-1] else ""
        if len(rates) < 2 or not side or not left[side]:
            return candidates, True
        ends = rates[:2] if side == "lowest" else rates[:-3:-1]
        rate = float(f"{ends[0] ** 2 / ends[1]:.12g}")
        if not 0 < rate <= LARGEST_FLOAT32:
            return candidates, True
        left[side] -= 1
        candidates += [Candidate(rate, decay) for decay in tuning.weight_decays or (None,)]
    return candidates, False


def grid(tuning: Tuning) -> list[Candidate]:
    """Return the candidates of a grid before it grows."""
    if tuning.values:
        names = sorted(tuning.values)
        return [
            Candidate(math.nan, None, tuple(zip(names, values, strict=True)))
            for values in itertools.product(*(tuning.values[name] for name in names))
        ]
    return [
        Candidate(lr, decay)
        for lr, decay in itertools.product(tuning.rates, tuning.weight_decays or (None,))
    ]


def choice(done: Iterable[Outcome], metric: Metric) -> Candidate:
    """Return the best candidate, or the lowest rate if all trials failed."""
    done = list(done)
    sound = [(metric.gain(one.score), one.candidate) for one in done if one.score is not None]
    if not sound:
        return min((one.candidate for one in done), key=lambda one: one.lr)
    return max(sound, key=lambda one: one[0])[1]


def check_search(study: Study) -> None:
    """Raise if the study's search needs a library that is not installed."""
    if study.tuning is not None and study.tuning.search == "optuna":
        _import_optuna()


def _import_optuna() -> Any:
    with needs_extra("tuning", "search optuna"):
        import optuna
    return optuna


def _suggested(tuning: Tuning, trial: int, done: Sequence[Outcome], metric: Metric) -> Candidate:
    """Return the suggestion of Optuna's tree-structured Parzen estimator from earlier trials.

    The sampler is new for each trial and seeded by its number. So an interrupted study continues
    with the same trials, and all methods try the same points until there is something to learn
    from.
    """
    optuna = _import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spans = {"lr": tuning.rates, "weight_decay": tuning.weight_decays}
    distributions: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(min(span), max(span), log=True)
        for name, span in spans.items()
        if span
    }
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=trial)
    )
    gains = [metric.gain(one.score) for one in done if one.score is not None]
    # The sampler learns from failures as the worst trials; without them it would try them again.
    worst = min(gains, default=0.0) - 1.0
    for one in done:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: getattr(one.candidate, name) for name in distributions},
                distributions=distributions,
                value=worst if one.score is None else metric.gain(one.score),
            )
        )
    params = study.ask(distributions).params
    return Candidate(params["lr"], params.get("weight_decay"))


def budget(study: Study, steps: Mapping[str, int]) -> str:
    """Return the budget of every method in words.

    Args:
        study: The study.
        steps: Number of steps per epoch of each task, by its label.
    """
    tuning = study.tuning
    if tuning is None:
        return "nothing was tuned: each optimizer's learning rate is the same for all methods"
    trials, seeds = amount(tuning.trial_count, "trial"), amount(tuning.seeds, "seed")
    if tuning.values:
        spans = [
            f"{name} {', '.join(map(number_text, values))}"
            for name, values in tuning.values.items()
        ]
        return (
            f"the same for each method: {trials}, a grid of"
            f" {' and '.join(spans)}, {seeds} per trial that the comparison does not"
            " use; chosen by the mean of the tuning metric; a trial with a failed or diverged run"
            " is a failure"
        )
    spans = [f"learning rates {', '.join(f'{one:g}' for one in tuning.rates)}"]
    if tuning.weight_decays:
        spans.append(f"weight decays {', '.join(f'{one:g}' for one in tuning.weight_decays)}")
    how = "a grid of" if tuning.search == "grid" else "Optuna's TPE within"
    grows = tuning.search == "grid" and len(tuning.rates) > 1 and tuning.extensions
    more = (
        f", on each side up to {tuning.extensions} more while the best one is at the edge"
        if grows
        else ""
    )
    epochs = "as many epochs as the runs"
    if tuning.epochs is not None:
        short = any(
            not task.schedule.fits(tuning.epochs, steps[task.label])
            for task in study.tasks
            if not isinstance(task, ProgramTask)
        )
        early = ", which end before all of the schedule acts" if short else ""
        epochs = f"{amount(tuning.epochs, 'epoch')}{early}"
    return (
        f"the same for each method on each task with each optimizer: {trials},"
        f" {how} {' and '.join(spans)}{more}, {seeds} per trial that the comparison"
        f" does not use, {epochs}; chosen by the mean score on {100 * tuning.validation:g}% of the"
        " training examples, which no run is trained on; a trial with a diverged run is a failure"
    )
