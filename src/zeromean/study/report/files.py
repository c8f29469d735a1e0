"""The files of a finished study: pictures, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.html import template
from zeromean.study.engine.results import Comparison, Results
from zeromean.study.engine.search import budget, choice, is_at_edge, outcomes
from zeromean.study.report import curves, differences, profile
from zeromean.study.report.conclusion import conclude, overview
from zeromean.study.report.styles import styles
from zeromean.study.report.table import Row, rows
from zeromean.study.spec.method import BASELINE
from zeromean.study.spec.task import ImageTask as Task
from zeromean.study.summary import Summary, summarize

FOLDER = Path(__file__).parent
# Of more methods, a title says how many.
MOST_NAMES = 8
EDGE = "; the end of the range, so that a better one may lie beyond"


@dataclass(frozen=True)
class Section:
    """What a report says of one comparison.

    Args:
        comparison: Which one.
        conclusions: One sentence for each method but the baseline.
        table: The rows that terminal and page both show.
    """

    comparison: Comparison
    conclusions: list[str]
    table: list[Row]


def sections(results: Results, gain: float | None = None) -> list[Section]:
    """One a comparison.

    Args:
        results: Of the study.
        gain: The difference of scores (an accuracy's from 0 to 1) of which the tables tell how
            many seeds it takes to see it.
    """
    check_gain(gain)
    return [
        Section(comparison, _conclusions(comparison, summaries), rows(comparison, summaries, gain))
        for comparison, summaries in zip(results.comparisons, summarize(results), strict=True)
    ]


def check_gain(gain: float | None) -> None:
    """Refuses what is no difference that could be seen."""
    if gain is not None and not 0 < gain < math.inf:
        raise ZeromeanError(f"gain = {gain}", "a difference of scores above 0", "change it")


def headline(results: Results) -> str | None:
    """One sentence on all comparisons, where there are several."""
    tables = summarize(results)
    return overview(tables) if len(tables) > 1 else None


def write(results: Results, gain: float | None = None) -> list[Path]:
    """Writes ``report.html`` and a picture for each comparison beside the database.

    Returns:
        The paths of all, the page first.

    Raises:
        ZeromeanError: They cannot be written; the database is not touched.
    """
    page = results.out / "report.html"
    comparisons = results.comparisons
    numbers = [""] + [f"-{number}" for number in range(2, len(comparisons) + 1)]
    paths = [results.out / f"curves{number}.png" for number in numbers]
    try:
        pictures = [curves.draw(comparison) for comparison in comparisons]
        for path, picture in zip(paths, pictures, strict=True):
            _replace(path, picture)
        _replace(page, _render(results, pictures, gain).encode())
    except OSError as error:
        raise ZeromeanError(
            f"{results.out}, which cannot be written any more ({error})",
            "room for the report and its pictures",
            f"make room, then: zeromean report {results.out}; all results are in its study.sqlite",
        ) from error
    return [page, *paths]


def write_markdown(results: Results, gain: float | None = None) -> Path:
    """Writes ``report.md`` beside the database: the words and tables, for a page of one's own.

    Raises:
        ZeromeanError: It cannot be written.
    """
    path = results.out / "report.md"
    text = template(FOLDER, "report.md", autoescape=False).render(_words(results, gain))
    try:
        _replace(path, text.encode())
    except OSError as error:
        raise ZeromeanError(
            f"{path}, which cannot be written ({error})", "room for it", "make room"
        ) from error
    return path


def _replace(path: Path, content: bytes) -> None:
    """In one stroke: two processes may finish a study at once."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _conclusions(comparison: Comparison, summaries: list[Summary]) -> list[str]:
    baseline = next(summary for summary in summaries if summary.method == BASELINE)
    return [
        conclude(summary, baseline, comparison.task)
        for summary in summaries
        if summary is not baseline
    ]


def _render(results: Results, pictures: list[bytes], gain: float | None) -> str:
    parts, tables = sections(results, gain), summarize(results)
    return template(FOLDER, "report.html").render(
        _words(results, gain),
        others=[method for method in results.study.method_labels if method != BASELINE],
        styles=styles(results.study.method_labels),
        pictures=[_encode(picture) for picture in pictures],
        caption=curves.CAPTION,
        differences=[
            _encode(differences.draw(section.comparison, summaries))
            for section, summaries in zip(parts, tables, strict=True)
        ],
        differences_caption=differences.CAPTION,
        profile=_encode(profile.draw(results, tables)) if len(parts) > 1 else None,
        profile_caption=profile.CAPTION,
    )


def _words(results: Results, gain: float | None) -> dict[str, Any]:
    """What every form of the report says."""
    study = results.study
    return {
        "title": (
            " / ".join(study.method_labels)
            if len(study.method_labels) <= MOST_NAMES
            else f"{len(study.method_labels)} methods"
        )
        + " on "
        + ", ".join(dict.fromkeys(task.title for task in study.tasks)),
        "note": study.note,
        "headline": headline(results),
        "sections": (parts := sections(results, gain)),
        "methods": study.method_labels,
        "descriptions": {one.label: one.calls for one in study.methods},
        "baseline": BASELINE,
        "settings": [_settings(section.comparison, results) for section in parts],
        "sessions": results.sessions,
        "budget": budget(study, {label: one.steps for label, one in results.infos.items()}),
        "tuned": _tuned(results),
        "family": sum(len(one.methods) - 1 for one in results.comparisons),
        "command": results.command,
    }


def _encode(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _settings(comparison: Comparison, results: Results) -> dict[str, str]:
    study, task, facts = comparison.study, comparison.task, comparison.info
    optimizer = study.optimizer(comparison.optimizer)
    candidates = {run.candidate for run in comparison.runs}
    rates = ", ".join(f"{lr:g}" for lr in sorted({one.lr for one in candidates}))
    given = study.lr is not None or optimizer.lr is not None
    source = "as given" if given else "this tool's default for the pair"
    if study.tuning is not None:
        source = "tuned, see below"
    decays = {one.weight_decay for one in candidates}
    return {
        "Data": f"{task.title}: {facts.description}",
        **({"Cut": _cut(task)} if (task.train_size, task.imbalance) != (None, 1) else {}),
        "Test set": facts.split,
        "Preparation": facts.preprocessing,
        "Network": getattr(task, "model", "the task's own"),
        "Optimizer": f"{comparison.optimizer}, {optimizer.describe(decays)}",
        "Learning rate": f"{rates} ({source}); {task.schedule.description}",
        "Epochs": f"{task.epochs} of {facts.steps} steps",
        "Batch size": f"{task.batch_size}, an incomplete last batch is left out",
        "Seeds": f"{study.seeds}, from 0; a seed sets initial weights and batches "
        f"for every method alike{results.growth}",
        "Numbers": f"{study.precision}, {results.threads} thread(s) a run",
    }


def _cut(task: Task) -> str:
    size = "as many as there are" if task.train_size is None else f"{task.train_size:,}"
    how = "chosen at random within each class"
    if task.imbalance != 1:
        how = f"the first class has {task.imbalance:g} times as many as the last"
    return f"{size} training examples; {how}"


def _tuned(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each comparison its name and what each method chose, in words."""
    study = results.study
    if study.tuning is None:
        return []
    found = []
    for one in results.comparisons:
        rows = []
        for method in one.methods:
            done = [*outcomes(study, results.runs, one.task.label, one.optimizer, method).values()]
            candidate = choice(done, one.metric)
            failed = sum(trial.score is None for trial in done)
            decay = candidate.weight_decay
            rows.append(
                (
                    method,
                    f"learning rate {candidate.lr:.3g}"
                    + ("" if decay is None else f", weight decay {decay:.3g}")
                    + (f"; {failed} of {len(done)} trials diverged" if failed else "")
                    + (EDGE if is_at_edge(done, candidate) else ""),
                )
            )
        found.append((one.name, rows))
    return found
