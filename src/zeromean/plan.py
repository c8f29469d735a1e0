"""The plan: which parameters are centered, over which axes, and why the others are not.

Knows no framework. An adapter says who owns each parameter; this file decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn
from zeromean.tables import Table

Layers = Literal["all", "conv", "linear"] | Callable[[str, Any], bool]
Scope = Literal["vector", "tensor"]


@dataclass(frozen=True)
class Owner:
    """One parameter as one module holds it; a tied parameter has several owners.

    Args:
        name: The parameter's full name in the model.
        parameter: The framework's own parameter.
        shape: Its shape.
        module_name: The full name of the module that holds it.
        module: That module, or None where only shapes are known.
        fan_in: What the module's rule says, or None for no fan-in axes.
        reason: Why there are none, or what the module is.
    """

    name: str
    parameter: Any
    shape: tuple[int, ...]
    module_name: str
    module: Any
    fan_in: FanIn | None
    reason: str


@dataclass(frozen=True)
class Row:
    """One parameter of a :class:`Plan`.

    Args:
        name: Its full name in the model; a tied parameter's first name.
        shape: Its shape.
        fan_in: Its fan-in axes where they are known, whether or not it is centered.
        centered: Whether the mean over those axes is taken away.
        reason: Why, or why not.
        parameter: The framework's own parameter.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: FanIn | None
    centered: bool
    reason: str
    parameter: Any = field(repr=False, compare=False)

    @property
    def role(self) -> str:
        """The layer's kind: "conv", "linear" or "embedding"; "-" without fan-in axes."""
        return self.fan_in.role if self.fan_in else "-"

    @property
    def axes(self) -> tuple[int, ...]:
        """The fan-in axes; empty where there are none."""
        return self.fan_in.axes if self.fan_in else ()

    @property
    def groups(self) -> int:
        """How many blocks axis 0 splits into."""
        return self.fan_in.groups if self.fan_in else 1

    @property
    def described(self) -> tuple[str, str, str, str]:
        """Its name, shape, role and axes as text, as tables show them."""
        axes = ",".join(map(str, self.axes)) or "-"
        if self.groups > 1:
            axes = f"{axes} in {self.groups} groups"
        return self.name, "x".join(map(str, self.shape)) or "scalar", self.role, axes

    def left_alone(self, reason: str) -> Row:
        """The same parameter, not centered, and why."""
        return replace(self, centered=False, reason=reason)


@dataclass(frozen=True)
class Plan(Sequence[Row]):
    """Which parameters are centered, over which axes, and why: a sequence of :class:`Row`.

    Printing it gives a table.

    Example:
        >>> import torch, zeromean
        >>> plan = zeromean.explain(torch.nn.Linear(4, 2))
        >>> [row.name for row in plan if row.centered]
        ['weight']
        >>> print(plan)
        parameter  shape  role    axes  centered  reason
        weight     2x4    linear  1     yes       Linear, fan-in 4
        bias       2      -       -     no        a bias has no fan-in
        centered: 1 of 2 parameters, 8 of 10 entries
    """

    rows: tuple[Row, ...]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def centered(self) -> tuple[Row, ...]:
        """The rows that are centered."""
        return tuple(row for row in self.rows if row.centered)

    def table(self) -> Table:
        """Return the printed table: one row per parameter."""
        header = ("parameter", "shape", "role", "axes", "centered", "reason")
        return Table(
            header,
            [(*row.described, "yes" if row.centered else "no", row.reason) for row in self],
            left=len(header),
        )

    def total(self) -> str:
        """How much of the model is centered, in one line."""
        entries = [math.prod(row.shape) for row in self.rows]
        centered = sum(math.prod(row.shape) for row in self.centered)
        return (
            f"centered: {len(self.centered)} of {len(self)} parameters,"
            f" {centered:,} of {sum(entries):,} entries"
        )

    def __str__(self) -> str:
        return f"{self.table()}\n{self.total()}"


def make_plan(
    owners: Iterable[Owner],
    *,
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> Plan:
    """Decide for every parameter whether it is centered.

    Args:
        owners: Every (parameter, owner) pair of the model.
        layers: "all"; "conv", every convolution; "linear", everything else that has fan-in axes;
            or a predicate of a module's full name and the module.
        embeddings: Whether embeddings are centered, over their tokens.
        scope: "vector", or "tensor" for the ablation that takes a tensor as one vector.

    Raises:
        ZeromeanError: An option has a value that does not exist.
    """
    is_predicate = callable(layers) and not isinstance(layers, type)
    check_option("layers", layers, ("all", "conv", "linear"), is_predicate)
    check_option("embeddings", embeddings, (True, False))
    check_option("scope", scope, ("vector", "tensor"))
    by_parameter: dict[int, list[Owner]] = {}
    for owner in owners:
        by_parameter.setdefault(id(owner.parameter), []).append(owner)
    return Plan(tuple(_decide(tied, layers, embeddings, scope) for tied in by_parameter.values()))


def check_option(
    name: str, value: object, allowed: Sequence[object], otherwise: bool = False
) -> None:
    """Raise unless ``value`` is one of ``allowed``, or is allowed ``otherwise``."""
    if otherwise or any(value is choice or value == choice for choice in allowed):
        return
    choices = ", ".join(map(repr, allowed))
    raise ZeromeanError(f"{name}={value!r}", f"one of {choices}", f"pass one of these as {name}")


def check_without_model(layers: Layers, embeddings: bool) -> None:
    """Refuse options that would have no effect where only shapes are known."""
    if callable(layers):
        raise ZeromeanError(
            "a layers predicate without a model",
            "the model whose modules it chooses from",
            "call centralize(optimizer, model, layers=...)",
        )
    if embeddings:
        raise ZeromeanError(
            "embeddings=True without a model",
            "the model, because a shape alone does not tell an embedding",
            "call centralize(optimizer, model, embeddings=True)",
        )


def _decide(owners: list[Owner], layers: Layers, embeddings: bool, scope: Scope) -> Row:
    first = owners[0]
    fan_in = first.fan_in
    row = Row(first.name, first.shape, fan_in, False, first.reason, first.parameter)
    if any(owner.fan_in != fan_in for owner in owners):
        claims = ", ".join(
            f"{owner.name} {f'has axes {owner.fan_in.axes}' if owner.fan_in else 'has none'}"
            for owner in owners
        )
        return replace(row, fan_in=None).left_alone(f"tied owners disagree on its axes: {claims}")
    if fan_in is None:
        return row
    if not fan_in.fits(first.shape):
        return replace(row, fan_in=None).left_alone(
            f"{first.reason} has axes {fan_in.axes}, which this shape does not have"
        )
    size = fan_in.size(first.shape)
    if size == 1:
        return row.left_alone("fan-in 1: centering would make its gradient zero and freeze it")
    if math.prod(first.shape) == 0:
        return row.left_alone("it is empty")
    if fan_in.role == "embedding" and not embeddings:
        return row.left_alone("an embedding, off by default: embeddings=True centers its tokens")
    if fan_in.zero_mean:
        return row.left_alone(f"{first.reason}: its gradient is zero-mean already")
    unselected = [owner.module_name for owner in owners if not _selected(owner, fan_in, layers)]
    if unselected:
        chosen = f"layers={layers!r}" if isinstance(layers, str) else "the layers predicate"
        return row.left_alone(f"{chosen} leaves out {unselected[0] or 'the model itself'}")
    if scope == "tensor":
        return replace(
            row,
            fan_in=fan_in.over_tensor(first.shape),
            centered=True,
            reason=f"{first.reason}, the whole tensor as one vector",
        )
    return replace(row, centered=True, reason=f"{first.reason}, fan-in {size}")


def _selected(owner: Owner, fan_in: FanIn, layers: Layers) -> bool:
    if callable(layers):
        return bool(layers(owner.module_name, owner.module))
    return layers == "all" or (fan_in.role == "conv") == (layers == "conv")
