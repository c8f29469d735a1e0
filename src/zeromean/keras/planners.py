"""Plan which variables a Keras optimizer centers, from a model, from shapes or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.keras.model import owners_by_shape, plan_of
from zeromean.plan import Layers, Plan, Row, Scope, make_plan

At = Literal["gradient", "update"]


@dataclass
class ByModel:
    """Plan by the layers of a model."""

    model: Any
    layers: Layers
    embeddings: bool
    scope: Scope

    def plan(self, variables: Sequence[Any]) -> Plan:
        """Return the plan of the model, with a row for each other variable of the optimizer."""
        held = {id(variable) for variable in variables}
        rows = [
            row.left_alone("not a variable of this optimizer")
            if row.centered and id(row.parameter) not in held
            else row
            for row in plan_of(self.model, self.layers, self.embeddings, self.scope)
        ]
        owned = {id(row.parameter) for row in rows}
        others = [
            Row(v.path, tuple(v.shape), None, False, "not a variable of the model", v)
            for v in variables
            if id(v) not in owned
        ]
        if others and len(others) == len(variables):
            raise ZeromeanError(
                "The optimizer and the model share no variable",
                "Pass to centralize the model whose variables the optimizer updates",
            )
        if others:
            warn(
                f"{len(others)} of the optimizer's variables ({others[0].name} first) do not"
                " belong to the model and are not centered; pass the model that holds them all"
            )
        return Plan((*rows, *others))

    def config(self) -> dict[str, Any]:
        """Return the config that :func:`planner` reads, before the optimizer is built.

        Raises:
            ZeromeanError: The model is not built yet.
        """
        variables = self.model.trainable_variables
        return to_config(self.plan(variables), variables)


@dataclass
class ByShape:
    """Plan by shapes alone: the fan-in axes are all axes but the last."""

    layers: Layers
    scope: Scope

    def plan(self, variables: Sequence[Any]) -> Plan:
        """Return the plan of these variables."""
        return make_plan(owners_by_shape(variables), layers=self.layers, scope=self.scope)

    def config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class AsSaved:
    """Read a plan that was saved with an optimizer, for the same variables in the same order."""

    rows: Sequence[dict[str, Any]]

    def plan(self, variables: Sequence[Any]) -> Plan:
        """Return the saved rows for these variables.

        Raises:
            ZeromeanError: The shapes differ from the saved ones.
        """
        shapes = [list(variable.shape) for variable in variables]
        if shapes != [list(row["shape"]) for row in self.rows]:
            raise ZeromeanError(
                f"This centralized optimizer was saved for {len(self.rows)} other variables",
                "Centralize a new optimizer with this model",
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


Planner = ByModel | ByShape | AsSaved


def planner(config: dict[str, Any]) -> Planner:
    """Return the planner of a config."""
    return AsSaved(**config) if "rows" in config else ByShape(**config)


def to_config(plan: Plan, variables: Sequence[Any]) -> dict[str, Any]:
    """Return the config of a finished plan: one row per variable, in this order."""
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
