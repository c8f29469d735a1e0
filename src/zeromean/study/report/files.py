"""Write the report of a finished study as HTML, Markdown and CSV files."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.html import template
from zeromean.study.engine.results import Results
from zeromean.study.report import curves, forest, profile, rates
from zeromean.study.report.content import Section, content, sections
from zeromean.study.report.drawing import styles, svg

FOLDER = Path(__file__).parent
# Followed by a column per tuned value of a program.
RUN_COLUMNS = (
    "task",
    "optimizer",
    "method",
    "seed",
    "trial",
    "learning_rate",
    "weight_decay",
    "status",
    "train_score",
    "test_loss",
    "test_score",
)
# Followed by a column per recorded metric.
EPOCH_COLUMNS = ("task", "optimizer", "method", "seed", "trial", "epoch", "seconds")


def write(results: Results, min_effect: float | None = None) -> Path:
    """Write ``report.html``, one self-contained file, into the study's folder.

    Args:
        results: Finished study.
        min_effect: Difference of scores (0.01 is one point of accuracy) for which the tables show
            the number of seeds that detect it; None (default) shows none.

    Raises:
        ZeromeanError: ``min_effect`` is not above 0, or the file cannot be written. The database
            does not change.
    """
    parts = sections(results, min_effect)
    page = template(FOLDER, "report.html").render(
        content(results, parts),
        styles=styles(results.study.method_labels),
        **_charts(results, parts),
    )
    return _replace(results.out / "report.html", page)


def write_markdown(results: Results, min_effect: float | None = None) -> Path:
    """Write ``report.md``, the text and tables of the report, into the study's folder.

    The argument and the errors are those of :func:`write`.
    """
    words = content(results, sections(results, min_effect))
    text = template(FOLDER, "report.md", autoescape=False).render(words)
    return _replace(results.out / "report.md", text)


def write_csv(results: Results) -> list[Path]:
    """Write ``runs.csv`` and ``epochs.csv`` into the study's folder; unknown values stay empty.

    Raises:
        ZeromeanError: The files cannot be written.
    """
    tuned = dict.fromkeys(name for run in results.runs for name, _ in run.candidate.values)
    runs = [
        (
            *run.key,
            None if math.isnan(run.candidate.lr) else run.candidate.lr,
            run.candidate.weight_decay,
            run.status.value,
            run.train_score,
            run.test_loss,
            run.test_score,
            *map(dict(run.candidate.values).get, tuned),
        )
        for run in results.runs
    ]
    names = list(
        dict.fromkeys(
            name for run in results.runs for epoch in run.epochs for name in epoch.metrics
        )
    )
    epochs = [
        (*run.key, one.number, one.seconds, *(one.metrics.get(name) for name in names))
        for run in results.runs
        for one in run.epochs
    ]
    return [
        _replace(results.out / "runs.csv", _csv((*RUN_COLUMNS, *tuned), runs)),
        _replace(results.out / "epochs.csv", _csv((*EPOCH_COLUMNS, *names), epochs)),
    ]


def _csv(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def _replace(path: Path, text: str) -> Path:
    """Write a file atomically; if the path is a symbolic link, replace the link, not its target."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        new.unlink(missing_ok=True)
        with new.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(new, path)
    except OSError as error:
        raise ZeromeanError(
            f"{path} cannot be written ({error.strerror})",
            f"Make it writable, then run: zeromean report {path.parent}; the results are safe in"
            " its study.sqlite",
        ) from error
    finally:
        if path.parent.is_dir():
            new.unlink(missing_ok=True)
    return path


def _charts(results: Results, parts: list[Section]) -> dict[str, Any]:
    """Draw all charts as SVG."""
    tables = [part.summaries for part in parts]
    comparisons = [part.comparison for part in parts]
    return {
        "forest": svg(forest.draw(results, tables), "forest"),
        "rates": [
            svg(rates.draw(results, one), f"rates-{number}")
            for number, one in enumerate(comparisons)
            if results.study.tuning is not None
        ],
        "scores": [
            svg(curves.draw_scores(one), f"scores-{number}")
            for number, one in enumerate(comparisons)
        ],
        "training": [
            chart and svg(chart, f"training-{number}")
            for number, chart in enumerate(map(curves.draw_training, comparisons))
        ],
        "profile": svg(profile.draw(results, tables), "profile") if len(parts) > 1 else None,
        "captions": {"forest": forest.CAPTION, "rates": rates.CAPTION, "profile": profile.CAPTION},
    }
