"""The report of what a re-parametrization did to each parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.plan import Row
from zeromean.projection import center
from zeromean.tables import Table, TabularSequence


@dataclass(frozen=True)
class Change:
    r"""The change of one parameter.

    Args:
        row: Row of the plan for the parameter as it was; ``row.reason`` says why it was
            re-parametrized or left alone.
        done: Whether the parameter was re-parametrized.
        moved: Relative change of its value, :math:`\lVert w' - w \rVert / \lVert w \rVert`.
        mean_lost: Share of its norm that was in the means of its weight vectors and is lost.
    """

    row: Row
    done: bool = False
    moved: float = 0.0
    mean_lost: float = 0.0


@dataclass(frozen=True, repr=False)
class Report(TabularSequence[Change]):
    """The result of :func:`zeromean.reparametrize`: a sequence of :class:`Change`.

    Printing it gives a table.

    Args:
        method: Name of the re-parametrization.
        changes: One entry per parameter of the model.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(2, 1)
        >>> model.weight.data = torch.tensor([[3.0, 1.0]])
        >>> report = zeromean.reparametrize(model, "cwn")
        >>> print(report)
        parameter  shape  role    axes  cwn  moved   reason
        weight     1x2    linear  1     yes  89.4 %  Linear, fan-in 2
        bias       1      -       -     no   -       a bias has no fan-in
        cwn: 1 of 2 parameters, 2 of 3 entries; largest share of a norm lost with its means: 89.4 %
        >>> report
        Report(cwn: 1 of 2 parameters, 2 of 3 entries)
    """

    method: str
    changes: tuple[Change, ...]

    @property
    def _entries(self) -> tuple[Change, ...]:
        return self.changes

    @property
    def done(self) -> tuple[Change, ...]:
        """The changes of the parameters that were re-parametrized."""
        return tuple(change for change in self if change.done)

    def table(self) -> Table:
        """Return the printed table: one row per parameter."""
        header = ("parameter", "shape", "role", "axes", self.method, "moved", "reason")
        rows = [
            (
                *change.row.cells,
                "yes" if change.done else "no",
                _percent(change.moved) if change.done else "-",
                change.row.reason,
            )
            for change in self
        ]
        return Table(header, rows, left=len(header))

    def total(self) -> str:
        """Return the number of re-parametrized parameters and entries in one line."""
        entries = sum(math.prod(change.row.shape) for change in self)
        done = sum(math.prod(change.row.shape) for change in self.done)
        return (
            f"{self.method}: {len(self.done)} of {len(self)} parameters,"
            f" {done:,} of {entries:,} entries"
        )

    def __repr__(self) -> str:
        return f"Report({self.total()})"

    def _conclusions(self) -> list[str]:
        lost = max((change.mean_lost for change in self), default=0.0)
        note = f"; largest share of a norm lost with its means: {_percent(lost)}" if lost else ""
        return [f"{self.total()}{note}"]


def compare(row: Row, before: Tensor, after: Tensor, lost_over: FanIn | None = None) -> Change:
    """Return the change of a re-parametrized weight, whose means over some axes may be lost."""
    dtype = torch.promote_types(before.dtype, torch.float32)
    before, after = before.to(dtype), after.to(dtype)
    if before.is_meta or not (norm := before.norm()):
        return Change(row, done=True)
    mean_lost = 0.0
    if lost_over:
        means = before - center(before, lost_over.axes, lost_over.groups)
        mean_lost = float(means.norm() / norm)
    return Change(row, True, float((after - before).norm() / norm), mean_lost)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 5e-4 else f"{share:.0e}" if share else "0"
