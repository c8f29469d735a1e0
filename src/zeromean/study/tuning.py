"""Fair tuning: as many trials for every method, chosen by the validation examples alone."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zeromean.study.extras import of_extra
from zeromean.study.metric import Metric
from zeromean.study.run import FINAL, Candidate, Run
from zeromean.study.schedules import Schedule
from zeromean.study.settings import (
    LARGEST_FLOAT32,
    SettingError,
    check_at_least,
    check_name,
    check_unlike,
)

if TYPE_CHECKING:
    from zeromean.study.study import Study

SEARCHES = ("grid", "optuna")


@dataclass(frozen=True)
class Tuning:
    """The budget that every method gets to find its learning rate.

    Args:
        rates: Learning rates that a grid tries, or between whose ends Optuna looks.
        weight_decays: The same for the weight decay; none keeps the optimizer's customary one.
        search: ``grid`` or ``optuna``.
        trials: Of Optuna's, for each method; a grid has its own number.
        seeds: Of a trial; seeds that the comparison does not use.
        epochs: Of a trial; None for those of the task.
        validation: The share of the training examples that the choice is made by, above 0, at
            most a half; no run is trained on it.

    Raises:
        ZeromeanError: A number is out of range, or an option has no effect.

    Example:
        >>> Tuning(rates=(0.01, 0.1)).trial_count
        2
    """

    rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = ()
    search: str = "grid"
    trials: int | None = None
    seeds: int = 1
    epochs: int | None = None
    validation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("rates", "weight_decays"):
            values = tuple(float(one) for one in getattr(self, name))
            object.__setattr__(self, name, values)
            for one in values:
                if not 0 < one <= LARGEST_FLOAT32:
                    raise SettingError(
                        name, f"{name} with {one}", "positive float32 numbers", "mend it"
                    )
            if values or name == "rates":
                check_unlike(name, values)
        check_name("search", self.search, SEARCHES)
        if (self.search == "optuna") != (self.trials is not None):
            raise SettingError(
                "trials",
                f"search {self.search} with trials = {self.trials}",
                "a number of trials with optuna, none with a grid",
                "change one of them",
            )
        for name in ("trials", "seeds", "epochs"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        if self.search == "optuna" and len(self.rates) < 2:
            raise SettingError(
                "rates", "one rate for optuna", "the lowest and the highest", "add the other"
            )
        if not 0 < self.validation <= 0.5:
            raise SettingError(
                "validation", f"validation = {self.validation}", "above 0, at most 0.5", "change it"
            )

    @property
    def trial_count(self) -> int:
        """How many trials each method gets."""
        return self.trials or len(self.rates) * max(1, len(self.weight_decays))


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Args:
        candidate: What was tried.
        score: Mean over the trial's seeds on the validation examples at the end; None if one of
            its runs diverged, which makes it a failure.
    """

    candidate: Candidate
    score: float | None


def outcomes(
    study: Study, runs: Iterable[Run], task: str, optimizer: str, method: str
) -> list[Outcome | None]:
    """Of every trial of the method, None where runs of it are missing."""
    assert study.tuning is not None
    found: dict[int, list[Run]] = {}
    for run in runs:
        key = run.key
        if (key.task, key.optimizer, key.method) == (task, optimizer, method) and (
            key.trial != FINAL
        ):
            found.setdefault(key.trial, []).append(run)
    return [
        _outcome(found[trial]) if len(found.get(trial, ())) == study.tuning.seeds else None
        for trial in range(study.tuning.trial_count)
    ]


def _outcome(runs: list[Run]) -> Outcome:
    if any(run.diverged for run in runs):
        return Outcome(runs[0].candidate, None)
    return Outcome(runs[0].candidate, statistics.fmean(run.epochs[-1].score for run in runs))


def check_search(study: Study) -> None:
    """Refuses a search that cannot be made here.

    Raises:
        ZeromeanError: What it needs is not installed.
    """
    if study.tuning is not None and study.tuning.search == "optuna":
        _import_optuna()


def _import_optuna() -> ModuleType:
    with of_extra("tuning", "search optuna"):
        import optuna
    return optuna


def proposal(
    tuning: Tuning, trial: int, done: list[Outcome | None], metric: Metric
) -> Candidate | None:
    """What a trial is to try; None while trials that it learns from are not done."""
    if tuning.search == "grid":
        return grid(tuning)[trial]
    before = done[:trial]
    learned = [one for one in before if one is not None]
    return _suggested(tuning, trial, learned, metric) if len(learned) == len(before) else None


def grid(tuning: Tuning) -> list[Candidate]:
    """All that a grid search tries."""
    return [
        Candidate(lr, decay)
        for lr, decay in itertools.product(tuning.rates, tuning.weight_decays or (None,))
    ]


def _suggested(tuning: Tuning, trial: int, done: list[Outcome], metric: Metric) -> Candidate:
    """By Optuna's tree-structured Parzen estimator, from earlier trials alone.

    The sampler is made anew, seeded by the trial's number: an interrupted study goes on the same,
    and all methods try the same points until there is something to learn from.
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
    # Left out, failures would be tried again; as the worst, they are learned from.
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


def choice(done: list[Outcome | None], metric: Metric) -> Candidate | None:
    """The best trial's; None while some are not done. Where all failed, the lowest rate's."""
    finished = [one for one in done if one is not None]
    if len(finished) < len(done):
        return None
    sound = [(metric.gain(one.score), one) for one in finished if one.score is not None]
    if not sound:
        return min(one.candidate for one in finished)
    return max(sound, key=lambda one: one[0])[1].candidate


def at_the_edge(tuning: Tuning, candidate: Candidate) -> bool:
    """Whether the rate is the lowest or highest tried, so that a better one may lie beyond."""
    return len(tuning.rates) > 1 and candidate.lr in (min(tuning.rates), max(tuning.rates))


def budget(study: Study, steps: Mapping[str, int]) -> str:
    """What every method was given, in words.

    Args:
        study: Any.
        steps: Of an epoch of each task, by its label.
    """
    tuning = study.tuning
    if tuning is None:
        return "nothing was tuned: each optimizer's learning rate is the same for all methods"
    spans = [f"learning rates {', '.join(f'{one:g}' for one in tuning.rates)}"]
    if tuning.weight_decays:
        spans.append(f"weight decays {', '.join(f'{one:g}' for one in tuning.weight_decays)}")
    how = "a grid of" if tuning.search == "grid" else "Optuna's TPE within"
    epochs = "as many epochs as the runs"
    if tuning.epochs is not None:
        acts = all(
            Schedule.parse(task.schedule).fits(tuning.epochs, steps[task.label])
            for task in study.tasks
        )
        early = "" if acts else ", which end before all of the schedule acts"
        epochs = f"{tuning.epochs} epoch{'s' * (tuning.epochs > 1)}{early}"
    return (
        f"for each method on each task with each optimizer alike: {tuning.trial_count} trials,"
        f" {how} {' and '.join(spans)}, {tuning.seeds} seed(s) each that the comparison does not"
        f" use, {epochs}; chosen by the mean score on {tuning.validation:.0%} of the training"
        " examples, which no run is trained on; a trial that diverged is a failure"
    )
