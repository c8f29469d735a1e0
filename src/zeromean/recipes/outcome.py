"""What came out of a recipe, in a small file: beside its study, and, once kept, in the package."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from zeromean.recipes.conditions import Conditions
from zeromean.recipes.measures import MEASURES, Measure
from zeromean.recipes.side_by_side import Table
from zeromean.study.engine.results import Results
from zeromean.study.report.table import NOTHING

# Mean, standard deviation and number of runs that did not diverge.
Measured = tuple[float | None, float | None, int]


@dataclass(frozen=True)
class Outcome:
    """Of one study that was run to its end.

    Args:
        recipe: Its name.
        scale: Of the training.
        published_data: Whether it was on the data that the published numbers are about.
        data: What it was on.
        seeds: How many.
        device: And what else is known of the machine.
        precision: That was computed in.
        measured: By measure and method.
        page: With all of it; empty where there is none.
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

    @classmethod
    def of(cls, conditions: Conditions, results: Results, tables: Sequence[Table]) -> Outcome:
        names = {measure.name: name for name, measure in MEASURES.items()}
        measured: dict[str, dict[str, Measured]] = {}
        for column in itertools.chain(*(table.columns for table in tables)):
            for cell in column.cells:
                found = cell.measured
                measured.setdefault(names[column.measure.name], {})[cell.method] = (
                    None if found is None else round(found.mean, 4),
                    None if found is None or found.deviation is None else round(found.deviation, 4),
                    cell.runs - cell.diverged,
                )
        return cls(
            conditions.recipe.name,
            conditions.scale,
            conditions.published_data,
            conditions.data,
            results.study.seeds,
            results.sessions[-1]["device"],
            results.study.precision,
            measured,
        )

    def text(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def lines(self, methods: Iterable[str]) -> list[str]:
        """Each measure of the methods."""
        return [
            f"{MEASURES[name].label}: "
            + ", ".join(
                f"{method} {self._told(MEASURES[name], *cells[method])}"
                for method in methods
                if method in cells
            )
            for name, cells in self.measured.items()
        ]

    def _told(
        self, measure: Measure, mean: float | None, deviation: float | None, runs: int
    ) -> str:
        number = NOTHING if mean is None else measure.number(mean)
        spread = "" if deviation is None else f" ± {measure.number(deviation)}"
        diverged = f" ({self.seeds - runs} of {self.seeds} diverged)" if runs < self.seeds else ""
        return f"{number}{spread}{diverged}"

    @property
    def conditions(self) -> str:
        """What has to be known of the numbers."""
        parts = [f"{self.seeds} seed(s)", self.device]
        if self.scale != 1:
            parts.append(f"training shortened to {self.scale:g} of its length")
        if self.precision != "float32":
            parts.append(f"computed in {self.precision}")
        if not self.published_data:
            parts.append(f"on other data than published: {self.data}")
        return "; ".join([*parts, *([self.page] if self.page else [])])


def read(text: str) -> Outcome:
    """From what :meth:`Outcome.text` made."""
    return Outcome(**json.loads(text))


def write(outcome: Outcome, out: Path) -> Path:
    """Beside the study, as ``outcome.json``."""
    path = out / "outcome.json"
    path.write_text(outcome.text(), encoding="utf-8")
    return path


@cache
def kept() -> tuple[Outcome, ...]:
    """Those that the package carries: what has been run for these pages."""
    folder = files("zeromean.recipes") / "results"
    if not folder.is_dir():  # an installation that carries none
        return ()
    found = sorted(folder.iterdir(), key=lambda file: file.name)
    return tuple(
        read(file.read_text(encoding="utf-8")) for file in found if file.name.endswith(".json")
    )
