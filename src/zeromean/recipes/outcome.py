"""The outcome of a recipe: a small file in its folder that the package can keep."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from zeromean.recipes.comparison import measured
from zeromean.recipes.metrics import METRICS, RunMetric, unfinished
from zeromean.recipes.recipe import Recipe
from zeromean.recipes.run_conditions import RunConditions
from zeromean.study.engine.results import Results
from zeromean.study.report.statistics import spread
from zeromean.study.report.table import MISSING
from zeromean.tables import amount

# Mean, standard deviation, and number of runs that finished.
Measured = tuple[float | None, float | None, int]


@dataclass(frozen=True)
class Outcome:
    """The numbers of a finished recipe.

    Args:
        recipe: Name of the recipe.
        scale: Share of the published training.
        published_data: Whether the data are those of the published numbers.
        data: One line on the data.
        seeds: Number of seeds.
        device: Devices and machines.
        precision: Precision of the computation.
        measured: Numbers by metric and method.
        page: Path of a page with the details; may be empty.
        note: How it differs from the recipe as it is now; may be empty.
    """

    recipe: str
    scale: float
    published_data: bool
    data: str
    seeds: int
    device: str
    precision: str
    measured: Mapping[str, Mapping[str, Measured]]
    page: str = ""
    note: str = ""

    @classmethod
    def of(cls, conditions: RunConditions, results: Results) -> Outcome:
        """Summarize the results of a recipe."""
        return cls(
            conditions.recipe.name,
            conditions.scale,
            conditions.published_data,
            conditions.data,
            results.study.seeds,
            ", ".join(dict.fromkeys(session["device"] for session in results.sessions)),
            results.study.precision,
            {
                name: {
                    method: _summary([*values.values()])
                    for method, values in measured(results, METRICS[name]).items()
                }
                for name in conditions.recipe.metrics
            },
        )

    def text(self) -> str:
        """Return the content of its file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def lines(self, without: Collection[str] = ()) -> list[str]:
        """Return one line per metric with all methods, except for those in ``without``."""
        return [
            f"{METRICS[name].label}: "
            + ", ".join(
                f"{method} {self._cell(METRICS[name], *cell)}"
                for method, cell in cells.items()
                if method not in without
            )
            for name, cells in self.measured.items()
        ]

    def _cell(
        self, metric: RunMetric, mean: float | None, deviation: float | None, runs: int
    ) -> str:
        number = MISSING if mean is None else metric.average(mean, deviation)
        lost = unfinished(runs, self.seeds)
        return f"{number} ({lost})" if lost else number

    @property
    def conditions(self) -> str:
        """The conditions that readers of the numbers have to know."""
        parts = [amount(self.seeds, "seed"), self.device]
        if self.scale != 1:
            parts.append(f"training shortened to {self.scale:g}")
        if self.precision != "float32":
            parts.append(f"computed in {self.precision}")
        if not self.published_data:
            parts.append(f"other data than published: {self.data}")
        return "; ".join([*parts, *filter(None, (self.note, self.page))])


def status(recipe: Recipe) -> str:
    """Return whether a recipe ran on the published data, on a stand-in or only in the tests."""
    found = [one for one in kept() if one.recipe == recipe.name]
    if not found:
        return "only end to end"
    if not recipe.data.form:
        return "run"
    published = [one for one in found if one.published_data]
    if not published:
        return "run on a stand-in"
    whole = any(one.scale == 1 for one in published)
    return f"run on the published data{'' if whole else ', shortened'}"


def _summary(values: list[float]) -> Measured:
    if not values:
        return None, None, 0
    found = spread(values)
    deviation = None if found.deviation is None else round(found.deviation, 4)
    return round(found.mean, 4), deviation, len(values)


def read(text: str) -> Outcome:
    """Return the outcome that :meth:`Outcome.text` wrote."""
    return Outcome(**json.loads(text))


def write(outcome: Outcome, out: Path) -> Path:
    """Write ``outcome.json`` into the study's folder."""
    path = out / "outcome.json"
    path.write_text(outcome.text(), encoding="utf-8")
    return path


@cache
def kept() -> tuple[Outcome, ...]:
    """Return the outcomes that the package contains."""
    folder = files("zeromean.recipes") / "results"
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return tuple(
        read(file.read_text(encoding="utf-8")) for file in found if file.name.endswith(".json")
    )
