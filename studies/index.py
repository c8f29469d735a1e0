"""Write the table and the forest plot of all comparisons, and the charts by epoch.

    python studies/index.py

Reads the databases in ``studies/results``, and the comparisons that ``comparisons.toml`` there
records. Writes ``docs/results/forest.svg``; the end of ``docs/results/index.md``, below its mark;
and for each study that names ``pictures`` the charts of its tasks, ``docs/results/NAME.png`` and
``NAME-training.png``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from zeromean.cli.output import one_line_errors
from zeromean.errors import ZeromeanError
from zeromean.study.engine import results
from zeromean.study.report import curves, sections
from zeromean.study.report.drawing import figure, tidy
from zeromean.study.report.statistics import LEVEL, min_seeds
from zeromean.study.report.table import MISSING
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.metric import ACCURACY, LOSS, MINUS, Metric, with_unit
from zeromean.study.spec.toml import read_table
from zeromean.tables import Table

STUDIES = Path(__file__).resolve().parent
PAGES = STUDIES.parent / "docs" / "results"
MARK = "<!-- Below this line: written by python studies/index.py -->\n"
# Marker and color of each verdict; the colors have a contrast of at least 4.5 on white.
LOOK = {"helped": ("^", "#00767d"), "harmed": ("v", "#b2182b")}
OTHER_LOOK = ("o", "#4d4d4d")
ROW_INCHES = 0.2


class Row(NamedTuple):
    """The comparison of a method with plain training.

    Args:
        task, optimizer, method: What was compared.
        page: Page of the results, in their folder.
        metric: The score.
        seeds: Number of pairs.
        mean: Mean difference of the scores.
        interval: Its 95% interval; None if there is none.
        p: Corrected p-value as text.
        verdict: Verdict of the report, or "not tested".
    """

    task: str
    optimizer: str
    method: str
    page: str
    metric: Metric
    seeds: int
    mean: float
    interval: tuple[float, float] | None
    p: str
    verdict: str

    @property
    def group(self) -> tuple[str, str]:
        """What a method is compared on."""
        return self.task, self.optimizer

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        interval = MISSING
        if self.interval is not None:
            interval = " to ".join(map(self.metric.difference, self.interval))
        difference = self.metric.difference(self.mean)
        name = f"**{self.verdict}**" if self.verdict in LOOK else self.verdict
        return self.method, str(self.seeds), difference, interval, self.p, name


def number(text: str) -> float:
    """Return the number of a page, which has a typographic minus."""
    return float(text.replace(MINUS, "-"))


def recorded(tables: list[dict[str, Any]]) -> Iterator[Row]:
    """Yield the comparisons that are recorded as text."""
    for one in tables:
        # An error counts as an accuracy, with its sign turned.
        metric = LOSS if one["metric"] == "loss" else ACCURACY
        factor = (-1 if one["metric"] == "error" else 1) / metric.scale
        for method in one["methods"]:
            mean = factor * number(method["difference"])
            ends = sorted(factor * number(end) for end in method.get("interval", ()))
            p = method.get("p", MISSING)
            seeds = method.get("seeds", one["seeds"])
            verdict = "no difference shown"
            if seeds < min_seeds(1):
                verdict = "too few seeds"
            elif p == MISSING:
                verdict = "not tested"
            elif not p.startswith(">") and float(p) <= LEVEL:
                verdict = "helped" if metric.gain(mean) > 0 else "harmed"
            yield Row(
                *(one["task"], one["optimizer"], method["name"], one["page"]),
                *(metric, seeds, mean, (ends[0], ends[1]) if ends else None, p, verdict),
            )


def measured(out: Path, words: dict[str, Any]) -> Iterator[Row]:
    """Yield the comparisons of a finished study."""
    found = results.read(out)
    labels = [task.label for task in found.study.tasks]
    titles = dict(zip(labels, words["tasks"], strict=True))
    for section in sections(found):
        verdicts = {one.method: one.verdict for one in section.conclusions}
        for summary in section.summaries:
            paired = summary.final.difference
            if summary.method != BASELINE and paired is not None:
                p = summary.corrected_p
                yield Row(
                    titles[section.comparison.task.label],
                    words.get("optimizer", section.comparison.optimizer),
                    summary.method,
                    words["page"],
                    summary.metric,
                    len(paired.differences),
                    paired.mean,
                    paired.interval,
                    MISSING if p is None else f"{p:.3g}",
                    verdicts[summary.method],
                )


class Collected(NamedTuple):
    """The comparisons of all studies.

    Args:
        rows: The comparisons.
        finished: Folder of the results of each finished study, and its words.
        unfinished: Name, stored runs and known runs of each unfinished study.
    """

    rows: list[Row]
    finished: list[tuple[Path, dict[str, Any]]]
    unfinished: list[tuple[str, int, int]]


def collect(folder: Path) -> Collected:
    """Collect the comparisons of all studies.

    Raises:
        ZeromeanError: A finished study has no words in ``comparisons.toml``.
    """
    file = folder / "results" / "comparisons.toml"
    table = read_table(file)
    words = {one["name"]: one for one in table.get("studies", ())}
    rows, finished, unfinished = [], [], []
    for out in sorted((folder / "results").glob("*")):
        if not results.holds_study(out):
            continue
        with results.open_store(out) as (_, study, _):
            stored, known = results.count_runs(study, out)
        if stored < known:
            unfinished.append((out.name, stored, known))
            continue
        if out.name not in words:
            raise ZeromeanError(
                f"{file} has no table [[studies]] with name = {out.name!r}",
                "Add one with page and tasks",
            )
        finished.append((out, words[out.name]))
        rows += measured(out, words[out.name])
    rows += recorded(table.get("recorded", []))
    metrics = list(dict.fromkeys([ACCURACY, LOSS, *(row.metric for row in rows)]))
    return Collected(sorted(rows, key=lambda row: metrics.index(row.metric)), finished, unfinished)


def label(noun: str, metric: Metric) -> str:
    """Return what the differences of a metric are, and their unit."""
    unit = metric.difference_unit.removeprefix(f"in {metric.name}")
    return with_unit(f"{noun} in {metric.name}", unit)


def page(rows: list[Row], unfinished: list[tuple[str, int, int]]) -> str:
    """Return the text below the mark."""
    text = ""
    for _, methods in itertools.groupby(rows, lambda row: row.group):
        group = list(methods)
        difference = label("Difference", group[0].metric)
        header = ("Method", "Seeds", difference, "95% interval", "p", "Verdict")
        table = Table(header, [row.cells() for row in group])
        task, link, optimizer = group[0].task, group[0].page, group[0].optimizer
        text += f"### [{task}]({link}), {optimizer}\n\n{table.markdown()}\n\n"
    if unfinished:
        table = Table(
            ("Study", "Runs stored", "Runs known"), [tuple(map(str, one)) for one in unfinished]
        )
        text += f"## Unfinished studies\n\nNothing follows from these yet.\n\n{table.markdown()}\n"
    return text.rstrip() + "\n"


def draw(rows: list[Row]) -> Figure:
    """Draw one panel per metric; right is better."""
    panels = [list(panel) for _, panel in itertools.groupby(rows, lambda row: row.metric)]
    heights = [len(panel) + len({row.group for row in panel}) for panel in panels]
    chart = figure(ROW_INCHES * sum(heights) + 0.7 * len(panels))
    axes = np.atleast_1d(chart.subplots(len(panels), 1, height_ratios=heights))
    for one, panel, height in zip(axes, panels, heights, strict=True):
        _draw_panel(one, panel)
        one.set_ylim(height - 0.5, -0.5)
    return chart


def _draw_panel(axes: Axes, rows: list[Row]) -> None:
    metric = rows[0].metric
    sign = metric.scale * metric.gain(1)
    sizes = [abs(sign * end) for row in rows for end in (row.mean, *(row.interval or ()))]
    limit = 1.2 * float(np.quantile(sizes, 0.95))
    axes.axvline(0, color=OTHER_LOOK[1], linewidth=1.2)
    axes.set_xlim(-limit, limit)
    left = blended_transform_factory(axes.figure.transFigure, axes.transData)
    ticks: list[tuple[int, str]] = []
    height = 0
    for group, methods in itertools.groupby(rows, lambda row: row.group):
        title = ", ".join(group)
        look = {"fontsize": 8.5, "weight": "bold", "va": "center", "backgroundcolor": "white"}
        axes.text(0.01, height, title, transform=left, **look).set_in_layout(False)
        for row in methods:
            height += 1
            ticks.append((height, row.method))
            _draw_row(axes, row, height, sign, limit)
        height += 1
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set_xlabel(label("Gain", metric))
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_row(axes: Axes, row: Row, height: int, sign: float, limit: float) -> None:
    marker, color = LOOK.get(row.verdict, OTHER_LOOK)
    mean = sign * row.mean
    if abs(mean) > limit:  # an arrow with the number at the edge
        side = np.sign(mean)
        text = row.metric.difference(mean / row.metric.scale)
        arrow = {"arrowstyle": "->", "color": color}
        ends = (side * limit, height), (side * 0.75 * limit, height)
        axes.annotate(text, *ends, color=color, va="center", ha="center", arrowprops=arrow)
        return
    if row.interval is not None:
        ends = [sign * end for end in row.interval]
        axes.plot(ends, [height, height], "-", color=color, linewidth=1.5)
    filled = row.verdict in LOOK
    axes.plot(mean, height, marker, color=color, markersize=5, mfc=color if filled else "white")


def draw_curves(out: Path, names: list[str], pages: Path) -> None:
    """Draw score and training by epoch of each task of a study."""
    for comparison, name in zip(results.read(out).comparisons, names, strict=True):
        curves.draw_scores(comparison).savefig(pages / f"{name}.png", dpi=100)
        training = curves.draw_training(comparison)
        if training is not None:
            training.savefig(pages / f"{name}-training.png", dpi=100)


def main() -> None:
    """Write page and pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=Path, default=STUDIES, help="folder of the studies")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder with index.md")
    arguments = parser.parse_args()
    with one_line_errors():
        rows, finished, unfinished = collect(arguments.studies)
        file = arguments.pages / "index.md"
        head, mark, _ = file.read_text(encoding="utf-8").partition(MARK)
        if not mark:
            raise ZeromeanError(f"{file} has no line {MARK.strip()!r}", "Add it at its end")
        file.write_text(f"{head}{mark}\n{page(rows, unfinished)}", encoding="utf-8")
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "forest"}):
            draw(rows).savefig(arguments.pages / "forest.svg", metadata={"Date": None})
        for out, words in finished:
            if "pictures" in words:
                draw_curves(out, words["pictures"], arguments.pages)
        print(f"{len(rows)} comparisons, {len(unfinished)} unfinished studies")


if __name__ == "__main__":
    main()
