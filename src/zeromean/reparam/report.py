"""What a re-parametrization did to each parameter, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from zeromean.plan import Row
from zeromean.tables import Table


@dataclass(frozen=True)
class Change:
    r"""What became of one parameter.

    Args:
        row: The parameter as it was, with its name and fan-in axes; ``row.reason`` tells why it
            was re-parametrized, or why not.
        done: Whether it was.
        moved: How far its value moved, :math:`\lVert w' - w \rVert / \lVert w \rVert`.
        mean_lost: The share of its norm that was in the means of its vectors and is lost.
    """

    row: Row
    done: bool = False
    moved: float = 0.0
    mean_lost: float = 0.0


@dataclass(frozen=True)
class Report(Sequence[Change]):
    """What :func:`zeromean.reparametrize` did: a sequence of :class:`Change`.

    Printing it gives a table.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(2, 1)
        >>> model.weight.data = torch.tensor([[3.0, 1.0]])
        >>> print(zeromean.reparametrize(model, "cwn"))
        parameter  shape  role    axes  cwn  moved   reason
        weight     1x2    linear  1     yes  89.4 %  Linear, fan-in 2
        bias       1      -       -     no   -       a bias has no fan-in
        cwn: 1 of 2 parameters, 2 of 3 entries; lost with a layer's means: up to 89.4 % of its norm
    """

    method: str
    changes: tuple[Change, ...]

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Change, ...]: ...
    def __getitem__(self, index: int | slice) -> Change | tuple[Change, ...]:
        return self.changes[index]

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    @property
    def done(self) -> tuple[Change, ...]:
        """Those that were re-parametrized."""
        return tuple(change for change in self if change.done)

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [
            ("parameter", "shape", "role", "axes", self.method, "moved", "reason")
        ]
        for change in self:
            moved = _percent(change.moved) if change.done else "-"
            done = "yes" if change.done else "no"
            table.append((*change.row.cells, done, moved, change.row.reason))
        entries = [math.prod(change.row.shape) for change in self]
        done_entries = sum(math.prod(change.row.shape) for change in self.done)
        last = (
            f"{self.method}: {len(self.done)} of {len(self)} parameters,"
            f" {done_entries:,} of {sum(entries):,} entries"
        )
        worst = max((change.mean_lost for change in self), default=0.0)
        if worst:
            last += f"; lost with a layer's means: up to {_percent(worst)} of its norm"
        return f"{Table(table[0], table[1:], left=7)}\n{last}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 5e-4 else f"{share:.0e}" if share else "0"
