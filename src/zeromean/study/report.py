"""The files of a finished comparison: the picture, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from zeromean.errors import ZeromeanError
from zeromean.study import curves, methods
from zeromean.study.compare import Comparison
from zeromean.study.conclusion import conclude
from zeromean.study.methods import BASELINE
from zeromean.study.optimizers import OPTIMIZERS
from zeromean.study.summary import summarize, target_accuracy
from zeromean.study.table import Row, rows


def conclusions(comparison: Comparison) -> list[str]:
    """One sentence for each method but the baseline."""
    summaries = summarize(comparison)
    baseline = next(summary for summary in summaries if summary.method == BASELINE)
    return [
        conclude(summary, baseline, comparison.settings)
        for summary in summaries
        if summary is not baseline
    ]


def table(comparison: Comparison) -> list[Row]:
    """The rows that terminal and page both show."""
    return rows(summarize(comparison), comparison.settings, target_accuracy(comparison))


def write(comparison: Comparison) -> tuple[Path, Path]:
    """Writes ``curves.png`` and ``report.html`` beside the database.

    Returns:
        The paths of both.

    Raises:
        ZeromeanError: They cannot be written; the database is not touched.
    """
    picture = comparison.settings.out / "curves.png"
    page = comparison.settings.out / "report.html"
    try:
        curves.draw(comparison, picture)
        encoded = base64.b64encode(picture.read_bytes()).decode()
        page.write_text(_render(comparison, encoded), encoding="utf-8")
    except OSError as error:
        raise ZeromeanError(
            f"{comparison.settings.out}, which cannot be written any more ({error})",
            "room for curves.png and report.html",
            f"make room; all results are in {comparison.settings.database}",
        ) from error
    return picture, page


def _render(comparison: Comparison, picture: str) -> str:
    settings = comparison.settings
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((files("zeromean.study") / "report.html").read_text(encoding="utf-8"))
    return template.render(
        title=f"{' / '.join(settings.methods)} on {settings.data}",
        conclusions=conclusions(comparison),
        methods=settings.methods,
        descriptions={method: methods.describe(method) for method in settings.methods},
        baseline=BASELINE,
        colours=curves.COLOURS,
        rows=table(comparison),
        picture=picture,
        caption=curves.CAPTION,
        settings=_settings(comparison),
        environment=comparison.environment,
        comparisons=len(settings.methods) - 1,
        command=settings.command(),
    )


def _settings(comparison: Comparison) -> dict[str, str]:
    settings = comparison.settings
    lr_source = "as given" if settings.lr is not None else "this tool's default for the pair"
    return {
        "Data": f"{settings.data}: {comparison.data}",
        "Test set": comparison.split,
        "Preparation": "each channel standardized by the training images; no augmentation",
        "Network": settings.model,
        "Optimizer": f"{settings.optimizer}, {OPTIMIZERS[settings.optimizer].note}",
        "Learning rate": f"{settings.learning_rate:g} ({lr_source}), cosine schedule to 0 by step",
        "Epochs": str(settings.epochs),
        "Batch size": f"{settings.batch_size}, an incomplete last batch is left out",
        "Seeds": f"{settings.seeds}, from 0; a seed sets initial weights and batches "
        "for every method alike",
    }
