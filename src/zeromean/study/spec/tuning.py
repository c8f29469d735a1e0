"""The search for each method's own learning rate."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from zeromean.study.spec.task import MAX_EPOCHS
from zeromean.study.spec.validation import (
    LARGEST_FLOAT32,
    SettingError,
    Spec,
    check_distinct,
    check_range,
)

MAX_TRIALS = 100_000
MAX_FIRST_SEED = 1_000_000


class Tuning(Spec, frozen=True):
    """The budget that every method gets to find its learning rate.

    Args:
        rates: Learning rates of a grid; Optuna searches between the lowest and the highest.
        weight_decays: The same for the weight decay, from 0 (Optuna: above 0) to 1; empty keeps the
            optimizer's.
        search: "grid" or "optuna".
        trials: Number of trials per method, for Optuna; a grid has its own number.
        seeds: Number of runs per trial, with seeds that the comparison does not use.
        first_seed: First of these seeds, at most 1,000,000. The comparison leaves them out, so that
            it can get more seeds later.
        epochs: Number of epochs per trial; None for the task's.
        validation: Share of the training examples that the choice is based on, above 0 and at most
            a half; no run is trained on it.
        extensions: Number of times that a grid may grow on each side while its best rate is the
            lowest or the highest, at most 2.
        values: For programs, the values of each placeholder of the command, by its name; every
            combination is a trial. Only ``seeds`` and ``first_seed`` can be given with it.

    Raises:
        ZeromeanError: A number is out of range, or an option has no effect.

    Example:
        >>> Tuning(rates=(0.01, 0.1)).trial_count
        2
    """

    rates: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    search: Literal["grid", "optuna"] = "grid"
    trials: int | None = None
    seeds: int = 2
    first_seed: int = 1000
    epochs: int | None = None
    validation: float = 0.2
    extensions: int = 2
    values: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)

    def _check(self) -> None:
        check_range("seeds", self.seeds, 1, MAX_TRIALS)
        check_range("first_seed", self.first_seed, 0, MAX_FIRST_SEED)
        if self.values:
            self._check_values()
            return
        optuna = self.search == "optuna"
        check_distinct("rates", self.rates)
        for rate in self.rates:
            check_range("rates", rate, 0, LARGEST_FLOAT32, exclusive=True)
        if self.weight_decays:
            check_distinct("weight_decays", self.weight_decays)
        for decay in self.weight_decays:
            check_range("weight_decays", decay, 0, 1, exclusive=optuna)  # Optuna takes logarithms
        if optuna != (self.trials is not None):
            raise SettingError(
                "trials",
                'search = "optuna" needs trials'
                if optuna
                else "trials is given for a grid, which has its own number",
                "Add trials" if optuna else "Remove trials",
            )
        for name, most in (("trials", MAX_TRIALS), ("epochs", MAX_EPOCHS)):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, most)
        check_range("extensions", self.extensions, 0, 2)
        if optuna and "extensions" in self.changed:
            raise SettingError(
                "extensions", "extensions is given, but only a grid grows", "Remove extensions"
            )
        if len(self.rates) < 2 and self.extensions and "extensions" in self.changed:
            raise SettingError(
                "extensions",
                "extensions is given, but a grid of one rate does not grow",
                "Add a rate, or remove extensions",
            )
        if optuna and len(self.rates) < 2:
            raise SettingError(
                "rates", "search optuna has one rate; it needs the lowest and the highest",
                "Add the other",
            )  # fmt: skip
        check_range("validation", self.validation, 0, 0.5, exclusive=True)

    def _check_values(self) -> None:
        for name in self.changed:
            if name not in ("values", "seeds", "first_seed"):
                raise SettingError(name, f"{name} and values are both given", f"Remove {name}")
        for name, values in self.values.items():
            # TOML quotes a key that is not ASCII.
            if not (name.isidentifier() and name.isascii()):
                raise SettingError(
                    "values", f"{name!r} is not the name of a placeholder", "Use letters and _"
                )
            check_distinct(f"values of {name}", values)
            for value in values:
                check_range(f"values of {name}", value, -LARGEST_FLOAT32, LARGEST_FLOAT32)

    def __hash__(self) -> int:
        # ``values`` has no hash.
        return hash((*msgspec.structs.astuple(self)[:-1], frozenset(self.values.items())))

    @property
    def trial_count(self) -> int:
        """Number of trials per method before a grid grows."""
        if self.values:
            return math.prod(map(len, self.values.values()))
        return self.trials or len(self.rates) * max(1, len(self.weight_decays))
