"""What every diagnostic returns: arrays, one line that answers, a printed table, a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from zeromean.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that readers with any color vision can tell apart (Okabe and Ito).
GRAY, BLUE, ORANGE, GREEN = "#4d4d4d", "#0072b2", "#d55e00", "#009e73"
# Large enough to be read where the picture is a hand wide.
LETTERS = 12


class Diagnostic(ABC):
    """A result: its attributes are the arrays, ``print`` gives the table, ``plot`` the picture."""

    title: ClassVar[str]
    caption: ClassVar[str]
    source: ClassVar[str]
    """Which figure or statement of which paper this is."""
    panels: ClassVar[int] = 1

    @property
    @abstractmethod
    def answer(self) -> str:
        """What was found, in one line."""

    @abstractmethod
    def table(self) -> list[tuple[str, ...]]:
        """The header and the rows, as text."""

    @abstractmethod
    def _draw(self, axes: Sequence[Axes], label: str | None, color: str) -> None:
        """Draw into so many axes as there are panels."""

    def plot(
        self,
        axes: Sequence[Axes] | None = None,
        *,
        label: str | None = None,
        color: str = BLUE,
    ) -> Figure:
        """Draw the picture.

        Args:
            axes: Axes to draw into, one a panel, so that several results share a picture; None
                (default) makes a new figure.
            label: For a legend that tells this result from others in the same axes.
            color: As matplotlib names it.

        Returns:
            The matplotlib figure; ``savefig`` writes it.
        """
        from matplotlib.figure import Figure

        if axes is None:
            figure = Figure(figsize=(5.6, 3.2 * self.panels), layout="constrained")
            axes = list(figure.subplots(self.panels, 1, squeeze=False)[:, 0])
        self._draw(axes, label, color)
        for one in axes:
            one.spines[["top", "right"]].set_visible(False)
            one.set_axisbelow(True)
            one.tick_params(labelsize=LETTERS)
            for text in (one.xaxis.label, one.yaxis.label, one.title):
                text.set_fontsize(LETTERS)
            if label is not None or one.get_legend() is not None:
                one.legend(frameon=False, fontsize=LETTERS)
        return axes[0].get_figure(root=True)  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"{Table(self.table()[0], self.table()[1:])}\n{self.answer}"


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def layer_axis(axes: Axes, names: Sequence[str]) -> None:
    """A place a layer on the x-axis, named as far as the names can be read."""
    axes.set_xlim(-0.6, len(names) - 0.4)
    few = len(names) <= 8 and sum(map(len, names)) <= 60
    if few:
        axes.set_xticks(range(len(names)), names)
    else:
        step = -(-len(names) // 12)
        axes.set_xticks(range(0, len(names), step), [str(n) for n in range(0, len(names), step)])
    axes.set_xlabel("layer" if few else "layer, in the order of the table")
