"""One self-contained HTML page with every diagnostic of a model."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from zeromean.centralization.explain import explain
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
from zeromean.tables import Table

NOTE = (
    "Measured in evaluation mode on the samples named below; other samples may differ. A diagnostic"
    " shows what centering does here, not whether it helps: zeromean compare measures that."
)


@dataclass(frozen=True)
class Section:
    """One diagnostic on the page."""

    title: str
    answer: str  # the finding in one line, or the reason why there is none
    table: Table | None  # None if there is no result
    picture: str = ""  # PNG in base64
    caption: str = ""
    source: str = ""  # figure or statement of the paper

    @property
    def missing(self) -> bool:
        return self.table is None

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def sections(
    model: nn.Module, batches: Batches, on_start: Callable[[str], None] = lambda title: None
) -> Iterator[Section]:
    """Yield the plan and then every diagnostic; one that fails yields the reason instead.

    The model is in evaluation mode. ``on_start`` is called with the title of each
    diagnostic before its measurement.
    """
    plan = explain(model)
    yield Section("What centering acts on", f"{plan.total().capitalize()}.", plan.table())
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
        # The user's model may raise anything, which must not stop the other diagnostics.
        try:
            result = measure()
        except Exception as error:
            name = "" if isinstance(error, ZeromeanError) else f"{type(error).__name__}: "
            reason = " ".join(f"{name}{error}".split()).rstrip(".")
            yield Section(kind.title, f"Not measured: {reason}.", None)
        else:
            yield Section(
                result.title,
                result.answer,
                result.table(),
                _picture(result),
                result.caption,
                result.source,
            )


def prepare_folder(path: Path) -> None:
    """Create the folder of the page before anything is measured.

    Raises:
        ZeromeanError: The page cannot be written there.
    """
    if path.is_dir():
        raise ZeromeanError(f"--out {path} is a folder", "Pass the path of a file as --out")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ZeromeanError(
            f"--out {path} cannot be written", "Pass a file in a folder that can be written to"
        )


def write(
    path: Path, title: str, found: list[Section], facts: dict[str, str], command: str
) -> None:
    """Write the page.

    Raises:
        ZeromeanError: The page cannot be written.
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
            f"--out {path} cannot be written ({error})", "Pass another --out"
        ) from error


def _picture(result: Diagnostic) -> str:
    file = io.BytesIO()
    result.plot().savefig(file, format="png", dpi=150)
    return base64.b64encode(file.getvalue()).decode()
