"""The plan: which parameters are centered, over which axes, and why the others are not.

This module depends on no framework: an adapter lists the owners of each parameter, and
:func:`make_plan` decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.tables import Table, TabularSequence
from zeromean.user_function import accepts

__all__ = ["Layers", "Owner", "Plan", "Row", "Scope", "make_plan"]

Layers = Literal["all", "conv", "linear"] | Callable[[str, Any], bool]
Scope = Literal["vector", "tensor"]


@dataclass(frozen=True)
class Owner:
    """One parameter as one module holds it. A tied parameter has several owners.

    Args:
        name: Full name of the parameter in the model.
        parameter: The framework's own parameter.
        shape: Shape of the whole parameter.
        module_name: Full name of the module that holds it.
        module: That module, or None if only shapes are known.
        fan_in: Fan-in axes according to the module's rule, or None for no fan-in axes.
        reason: Reason why it has no fan-in axes; if it has some, the kind of module.
        undescribed: Class name of the module if no rule describes it, else empty.
    """

    name: str
    parameter: Any
    shape: tuple[int, ...]
    module_name: str
    module: Any
    fan_in: FanIn | None
    reason: str
    undescribed: str = ""


@dataclass(frozen=True)
class Row:
    """One parameter of a :class:`Plan`.

    Args:
        name: Full name of the parameter in the model; the first name of a tied parameter.
        shape: Shape of the parameter.
        fan_in: Fan-in axes if they are known, whether or not the parameter is centered.
        centered: Whether the mean over those axes is subtracted.
        reason: Reason for this decision.
        parameter: The framework's own parameter.
        undescribed: Class name of the module if no rule describes it, else empty.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: FanIn | None
    centered: bool
    reason: str
    parameter: Any = field(repr=False, compare=False)
    undescribed: str = field(default="", repr=False)

    @property
    def role(self) -> str:
        """The kind of layer, "conv", "linear" or "embedding"; "-" without fan-in axes."""
        return self.fan_in.role if self.fan_in else "-"

    @property
    def axes(self) -> tuple[int, ...]:
        """The fan-in axes; empty if there are none."""
        return self.fan_in.axes if self.fan_in else ()

    @property
    def groups(self) -> int:
        """The number of blocks that axis 0 splits into."""
        return self.fan_in.groups if self.fan_in else 1

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The name, shape, role and axes as text for a table."""
        axes = ",".join(map(str, self.axes)) or "-"
        if self.groups > 1:
            axes = f"{axes} in {self.groups} groups"
        return self.name, "x".join(map(str, self.shape)) or "scalar", self.role, axes

    @property
    def zero_mean_already(self) -> bool:
        """Whether a re-parametrization makes its gradient zero-mean without centering."""
        return not self.centered and self.fan_in is not None and self.fan_in.zero_mean

    def left_alone(self, reason: str) -> Row:
        """Return the same parameter, not centered for this reason."""
        return replace(self, centered=False, reason=reason)


@dataclass(frozen=True, repr=False)
class Plan(TabularSequence[Row]):
    """The decision for each parameter: whether it is centered, over which axes, and why.

    It is a sequence of :class:`zeromean.plan.Row`, and printing it gives a table.

    Args:
        rows: One row per parameter.
        note: A line that is printed below the table, such as how steps are made.

    Example:
        >>> import torch, zeromean
        >>> plan = zeromean.explain(torch.nn.Linear(4, 2))
        >>> plan
        Plan(centered: 1 of 2 parameters, 8 of 10 entries)
        >>> [row.name for row in plan if row.centered]
        ['weight']
        >>> print(plan)
        parameter  shape  role    axes  centered  reason
        weight     2x4    linear  1     yes       Linear, fan-in 4
        bias       2      -       -     no        a bias has no fan-in
        centered: 1 of 2 parameters, 8 of 10 entries
    """

    rows: tuple[Row, ...]
    note: str = ""

    @property
    def _entries(self) -> tuple[Row, ...]:
        return self.rows

    @property
    def centered(self) -> tuple[Row, ...]:
        """The rows that are centered."""
        return tuple(row for row in self.rows if row.centered)

    def table(self) -> Table:
        """Return the printed table: one row per parameter."""
        header = ("parameter", "shape", "role", "axes", "centered", "reason")
        return Table(
            header,
            [(*row.cells, _state(row), row.reason) for row in self],
            left=len(header),
        )

    def total(self) -> str:
        """Return one line that says how much of the model is centered."""
        already = [row for row in self if row.zero_mean_already]
        text = (
            f"centered: {len(self.centered)} of {len(self)} parameters,"
            f" {_entries(self.centered):,} of {_entries(self.rows):,} entries"
        )
        if already:
            text += (
                f"; zero-mean already by re-parametrization: {len(already)} parameters,"
                f" {_entries(already):,} entries"
            )
        return text

    def undescribed(self) -> str:
        """Return a sentence that names the modules without a rule if they hold most of the model.

        "Most" is more than half of the entries of matrices, which are parameters with at least two
        dimensions larger than 1. The sentence is empty otherwise.
        """
        matrices = [row for row in self.rows if sum(size > 1 for size in row.shape) > 1]
        unknown = [row for row in matrices if row.undescribed]
        if 2 * _entries(unknown) <= _entries(matrices):
            return ""
        first: dict[str, str] = {}
        for row in unknown:
            first.setdefault(row.undescribed, row.name)
        examples = ", ".join(f"{kind} ({name})" for kind, name in [*first.items()][:3])
        more = f" and {len(first) - 3} more" if len(first) > 3 else ""
        return (
            f"{_entries(unknown) / _entries(matrices):.0%} of the matrix entries belong to modules"
            f" that no rule describes and are not centered: {examples}{more}. Describe these"
            " classes with zeromean.fan_in.register"
        )

    def _conclusions(self) -> list[str]:
        return list(filter(None, (self.total(), self.undescribed(), self.note)))


def _state(row: Row) -> str:
    return "yes" if row.centered else "already" if row.zero_mean_already else "no"


def _entries(rows: Iterable[Row]) -> int:
    return sum(math.prod(row.shape) for row in rows)


def make_plan(
    owners: Iterable[Owner],
    *,
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> Plan:
    """Decide for every parameter whether it is centered.

    Args:
        owners: All owners of all parameters of the model.
        layers: Selection of layers: "all"; "conv" for every convolution; "linear" for everything
            else that has fan-in axes; or a predicate of a module's full name and the module.
        embeddings: Whether embeddings are centered, over their tokens.
        scope: Entries that share a mean: "vector", or "tensor" for the ablation that treats a
            tensor as one vector.

    Raises:
        ZeromeanError: An option has an unknown value.
    """
    check_selection(layers, embeddings, scope)
    by_parameter: dict[int, list[Owner]] = {}
    for owner in owners:
        by_parameter.setdefault(id(owner.parameter), []).append(owner)
    return Plan(tuple(_decide(tied, layers, embeddings, scope) for tied in by_parameter.values()))


def check_selection(layers: Layers, embeddings: bool, scope: Scope) -> None:
    """Raise if one of the options that select parameters has an unknown value."""
    if callable(layers) and not isinstance(layers, type):
        if not accepts(layers, "name", None):
            raise ZeromeanError(
                "the predicate layers= does not take two arguments, the name of a module and the"
                " module",
                "Use a predicate, such as layers=lambda name, module: name in (...)",
            )
    elif isinstance(layers, list | tuple | set):
        raise ZeromeanError(
            f'layers={layers!r} is a {type(layers).__name__}, not one of "all", "conv",'
            ' "linear" or a predicate',
            "Use a predicate, such as layers=lambda name, module: name in (...)",
        )
    else:
        check_option("layers", layers, ("all", "conv", "linear"))
    check_option("embeddings", embeddings, (True, False))
    check_option("scope", scope, ("vector", "tensor"))


def check_option(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    # Only texts are compared by value: 0 == False, but an option may be tested with "is False".
    if any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        return
    choices = [f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in allowed]
    given = f'"{value}"' if isinstance(value, str) else repr(value)
    raise ZeromeanError(
        f"{name}={given} is not one of {', '.join(choices)}", f"Use {name}={choices[0]}"
    )


def check_without_model(layers: Layers, embeddings: bool) -> None:
    """Raise if an option would have no effect because only shapes are known."""
    if callable(layers):
        raise ZeromeanError(
            "layers= is a predicate of modules, but there is no model",
            "Pass the model",
        )
    if embeddings:
        raise ZeromeanError(
            "embeddings=True needs the model, because a shape does not identify an embedding",
            "Pass the model",
        )


def _decide(owners: list[Owner], layers: Layers, embeddings: bool, scope: Scope) -> Row:
    first = owners[0]
    fan_in = first.fan_in
    undescribed = first.undescribed if fan_in is None else ""
    row = Row(first.name, first.shape, fan_in, False, first.reason, first.parameter, undescribed)
    if any(owner.fan_in != fan_in for owner in owners):
        claims = ", ".join(
            f"{owner.name} has {owner.fan_in.words() if owner.fan_in else 'none'}"
            for owner in owners
        )
        return replace(row, fan_in=None).left_alone(f"tied owners disagree on its axes: {claims}")
    if fan_in is None:
        return row
    if not fan_in.fits(first.shape):
        return replace(row, fan_in=None).left_alone(
            f"{first.reason} has {fan_in.words()}, which do not fit this shape"
        )
    averaged = fan_in.over_tensor(first.shape) if scope == "tensor" else fan_in
    size = averaged.size(first.shape)
    if size == 0 or math.prod(first.shape) == 0:
        return row.left_alone("it has no entries to average")
    if size == 1:
        return row.left_alone("fan-in 1: centering or normalizing one entry would freeze it")
    if fan_in.role == "embedding" and not embeddings:
        return row.left_alone(
            "an embedding, off by default: embeddings=True centers it over its tokens"
        )
    if fan_in.zero_mean:
        return row.left_alone(f"{first.reason}: its gradient is zero-mean already")
    unselected = [owner.module_name for owner in owners if not _selected(owner, fan_in, layers)]
    if unselected:
        chosen = f"layers={layers!r}" if isinstance(layers, str) else "the layers predicate"
        return row.left_alone(f"{chosen} leaves out {unselected[0] or 'the model itself'}")
    vectors = "the whole tensor as one vector" if scope == "tensor" else f"fan-in {size}"
    return replace(row, fan_in=averaged, centered=True, reason=f"{first.reason}, {vectors}")


def _selected(owner: Owner, fan_in: FanIn, layers: Layers) -> bool:
    if callable(layers):
        return bool(layers(owner.module_name, owner.module))
    return selects(layers, fan_in)


def selects(layers: str, fan_in: FanIn) -> bool:
    """Return whether ``layers``, which is no predicate, selects a layer of this role."""
    return layers == "all" or (fan_in.role == "conv") == (layers == "conv")
