"""All diagnostics of one model, on one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from zeromean.diagnose.batches import Batches, pairs
from zeromean.diagnose.fisher_condition import FisherCondition, fisher_condition
from zeromean.diagnose.gradient_norms import GradientNorms, gradient_norms
from zeromean.diagnose.intensity_response import IntensityResponse, intensity_response
from zeromean.diagnose.preactivations import Preactivations, preactivations
from zeromean.diagnose.result import Diagnostic
from zeromean.diagnose.sharpness import Sharpness, sharpness
from zeromean.diagnose.weight_means import WeightMeans, weight_means
from zeromean.errors import ZeromeanError
from zeromean.html import template
from zeromean.model import explain

NOTE = (
    "Measured in evaluation mode on the samples named below, which say little about others. A"
    " diagnostic tells what centering does here, not whether it helps: zeromean compare does."
)


@dataclass(frozen=True)
class Section:
    """One diagnostic on the page.

    Args:
        title: Its heading.
        answer: What was found in one line, or why nothing was.
        table: Header and rows; empty where nothing was found.
        picture: PNG in base64, or "" for none.
        caption: Of the picture.
        source: The paper's figure or statement.
    """

    title: str
    answer: str
    table: list[tuple[str, ...]]
    picture: str = ""
    caption: str = ""
    source: str = ""

    @property
    def missing(self) -> bool:
        return not self.table

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def sections(
    model: nn.Module, batches: Batches, on_start: Callable[[str], None] = lambda title: None
) -> Iterator[Section]:
    """The plan, then every diagnostic; one that cannot be had says why and stops no other.

    Args:
        model: The model, in evaluation mode.
        batches: One (input, target) pair, or an iterable of them; targets are class indices.
        on_start: Told the title of what is measured next.
    """
    yield _plan(model)
    given = pairs(batches, model)
    measures: list[tuple[type[Diagnostic], Callable[[], Diagnostic]]] = [
        (WeightMeans, lambda: weight_means(model)),
        (GradientNorms, lambda: gradient_norms(model, given)),
        (Preactivations, lambda: preactivations(model, given)),
        (IntensityResponse, lambda: intensity_response(model, given)),
        (FisherCondition, lambda: fisher_condition(model, given)),
        (Sharpness, lambda: sharpness(model, given)),
    ]
    for kind, measure in measures:
        on_start(kind.title)
        # The model is the user's, and so is whatever it raises: no reason to keep the rest.
        try:
            result = measure()
        except Exception as error:
            said = (
                str(error)
                if isinstance(error, ZeromeanError)
                else f"{type(error).__name__}: {error}"
            )
            reason = " ".join(said.split()).rstrip(".")
            yield Section(kind.title, f"Not measured: {reason}.", [])
        else:
            yield Section(
                result.title,
                result.answer,
                result.table(),
                _picture(result),
                result.caption,
                result.source,
            )


def make_room(path: Path) -> None:
    """Make the folder that the page will be in, before anything is measured.

    Raises:
        ZeromeanError: The page cannot be written there.
    """
    if path.is_dir():
        raise ZeromeanError(f"--out {path}, which is a folder", "a file", "pass another --out")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write(
    path: Path, title: str, found: list[Section], facts: dict[str, str], command: str
) -> None:
    """Write the page.

    Raises:
        ZeromeanError: It cannot be written.
    """
    text = template(Path(__file__).parent, "page.html").render(
        title=title, sections=found, note=NOTE, facts=facts, command=command
    )
    with _writing(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ZeromeanError(
            f"--out {path}, which cannot be written ({error})", "a file", "pass another --out"
        ) from error


def _plan(model: nn.Module) -> Section:
    plan = explain(model)
    table = plan.table()
    cells = [tuple(table.header), *map(tuple, table.rows)]
    return Section("What centering acts on", f"{plan.total().capitalize()}.", cells)


def _picture(result: Diagnostic) -> str:
    file = io.BytesIO()
    result.plot().savefig(file, format="png", dpi=150)
    return base64.b64encode(file.getvalue()).decode()
