"""What one Keras optimizer centers: planned when it is built, and saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.keras.model import owners_by_shape, plan_of
from zeromean.plan import Layers, Plan, Row, Scope, make_plan

At = Literal["gradient", "update"]


class Planner(Protocol):
    """Where a plan comes from: a model, shapes alone, or a file."""

    def plan(self, variables: Sequence[Any]) -> Plan:
        """One row at least for each of these variables, which an optimizer was built with."""

    def config(self) -> dict[str, Any]:
        """What :func:`planner` makes it from, before there are variables.

        Raises:
            ZeromeanError: That cannot be told yet.
        """


@dataclass
class ByModel:
    """A plan by a model's layers."""

    model: Any
    layers: Layers
    embeddings: bool
    scope: Scope

    def plan(self, variables: Sequence[Any]) -> Plan:
        """The model's plan, and a row for what the optimizer holds beside it."""
        held = {id(variable) for variable in variables}
        rows = [
            row.left_alone("not a variable of this optimizer")
            if row.centered and id(row.parameter) not in held
            else row
            for row in plan_of(self.model, self.layers, self.embeddings, self.scope)
        ]
        owned = {id(row.parameter) for row in rows}
        strangers = [
            Row(v.path, tuple(v.shape), None, False, "not a variable of the model", v)
            for v in variables
            if id(v) not in owned
        ]
        if strangers and len(strangers) == len(variables):
            raise ZeromeanError(
                "an optimizer and a model that share no variable",
                "the model whose variables the optimizer updates",
                "pass that model to centralize",
            )
        if strangers:
            warn(
                f"{len(strangers)} of the optimizer's variables ({strangers[0].name} first) do not"
                " belong to the model and are not centered; pass the model that holds them all"
            )
        return Plan((*rows, *strangers))

    def config(self) -> dict[str, Any]:
        variables = self.model.trainable_variables
        return to_config(self.plan(variables), variables)


@dataclass
class ByShape:
    """A plan by shapes alone: all axes but the last."""

    layers: Layers
    scope: Scope

    def plan(self, variables: Sequence[Any]) -> Plan:
        """The plan of these variables."""
        return make_plan(owners_by_shape(variables), layers=self.layers, scope=self.scope)

    def config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class AsSaved:
    """A plan that was saved with an optimizer, for the same variables in the same order."""

    rows: Sequence[dict[str, Any]]

    def plan(self, variables: Sequence[Any]) -> Plan:
        """The saved rows for these variables.

        Raises:
            ZeromeanError: There are others than when it was saved.
        """
        shapes = [list(variable.shape) for variable in variables]
        if shapes != [list(row["shape"]) for row in self.rows]:
            raise ZeromeanError(
                f"a centralized optimizer that was saved for {len(self.rows)} other variables",
                "the variables that it was made for, in their order",
                "centralize a new optimizer with this model",
            )
        return Plan(
            tuple(
                Row(
                    getattr(variable, "path", variable.name),
                    tuple(variable.shape),
                    _read_fan_in(row["fan_in"]),
                    row["centered"],
                    row["reason"],
                    variable,
                )
                for variable, row in zip(variables, self.rows, strict=True)
            )
        )

    def config(self) -> dict[str, Any]:
        return asdict(self)


def planner(config: dict[str, Any]) -> Planner:
    """The planner that this was the config of."""
    return AsSaved(**config) if "rows" in config else ByShape(**config)


def to_config(plan: Plan, variables: Sequence[Any]) -> dict[str, Any]:
    """The config of a plan that has been made: a row for each variable, in this order."""
    row_of = {id(row.parameter): row for row in plan}
    rows = [row_of[id(variable)] for variable in variables]
    return {
        "rows": [
            {
                "shape": list(row.shape),
                "fan_in": None if row.fan_in is None else asdict(row.fan_in),
                "centered": row.centered,
                "reason": row.reason,
            }
            for row in rows
        ]
    }


def _read_fan_in(saved: dict[str, Any] | None) -> FanIn | None:
    return None if saved is None else FanIn(**{**saved, "axes": tuple(saved["axes"])})
