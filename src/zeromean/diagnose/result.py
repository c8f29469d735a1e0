"""The result of a diagnostic: arrays, a one-line answer, a table and a picture."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from zeromean.errors import needs_extra
from zeromean.tables import Tabular

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that readers with any color vision can distinguish (Okabe and Ito).
GRAY, BLUE, ORANGE, GREEN = "#4d4d4d", "#0072b2", "#d55e00", "#009e73"
# Font size that stays readable in a picture 10 cm wide.
FONT_SIZE = 12


class Diagnostic(Tabular):
    """A result: its attributes are arrays, ``print`` gives a table, ``plot`` a picture."""

    title: ClassVar[str]
    caption: ClassVar[str]
    source: ClassVar[str]
    """Figure or statement of the paper that this result reproduces."""
    panels: ClassVar[int] = 1

    @property
    @abstractmethod
    def answer(self) -> str:
        """The finding in one line."""

    @abstractmethod
    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        """Draw into as many axes as there are panels."""

    def plot(
        self,
        axes: Sequence[Axes] | None = None,
        *,
        label: str | None = None,
        color: str = BLUE,
    ) -> Figure:
        """Draw the picture.

        Args:
            axes: Axes to draw into, one per panel, so that several results can share a picture;
                None (default) creates a new figure.
            label: Legend entry of this result.
            color: Color as matplotlib names it.

        Returns:
            The matplotlib figure; ``savefig`` writes it.
        """
        with needs_extra("study", "plot"):
            from matplotlib.figure import Figure

        if axes is None:
            figure = Figure(figsize=(5.6, 3.2 * self.panels), layout="constrained")
            axes = list(figure.subplots(self.panels, 1, squeeze=False)[:, 0])
        self._draw(axes, label, color)
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
            one.set_axisbelow(True)
            one.tick_params(labelsize=FONT_SIZE)
            for text in (one.xaxis.label, one.yaxis.label, one.title):
                text.set_fontsize(FONT_SIZE)
            if label is not None or one.get_legend() is not None:
                one.legend(frameon=False, fontsize=FONT_SIZE)
        # The root of a subfigure too; get_figure(root=True) needs matplotlib 3.10.
        return axes[0].figure.figure

    def _conclusions(self) -> list[str]:
        return [self.answer]


def number(value: float) -> str:
    """Format a number with three significant digits; an undefined one is "-"."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def percent(share: float) -> str:
    """Format a share as a percentage; an undefined one is "-"."""
    return "-" if math.isnan(share) else f"{share:.2%}"


def layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """Give each layer a place on the x-axis, named if the names fit."""
    axes.set_xlim(-0.6, len(names) - 0.4)
    if len(names) <= 8 and sum(map(len, names)) <= 60:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("layer")
    else:
        step = -(-len(names) // 12)
        axes.set_xticks(range(0, len(names), step), [str(n) for n in range(0, len(names), step)])
        axes.set_xlabel("layer, in the order of the table")
