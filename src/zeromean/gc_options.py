"""The options of Gradient Centralization, shared by every way to attach it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from zeromean.errors import ZeromeanError
from zeromean.plan import Layers, Scope, check_option, check_selection

WeightDecay = Literal["coupled", "decoupled"]


@dataclass(frozen=True)
class GCOptions:
    """The options of :func:`zeromean.centralize`, validated together.

    Args:
        at: "gradient", "update" or "backward".
        layers: "all", "conv", "linear", or a predicate of a module's full name and the module.
        embeddings: Whether embeddings are centered, over their tokens.
        scope: "vector" or "tensor".
        weight_decay: "auto", "coupled" or "decoupled".
        project_state: Whether momentum buffers are projected once when attaching.
        fused: Whether zeromean's kernels make the whole step: None, True or False.

    Raises:
        ZeromeanError: An option has an unknown value, or no effect with this ``at``.
    """

    at: Literal["gradient", "update", "backward"] = "gradient"
    layers: Layers = "all"
    embeddings: bool = False
    scope: Scope = "vector"
    weight_decay: Literal["auto"] | WeightDecay = "auto"
    project_state: bool = False
    fused: bool | None = None

    def __post_init__(self) -> None:
        check_option("at", self.at, ("gradient", "update", "backward"))
        check_selection(self.layers, self.embeddings, self.scope)
        check_option("weight_decay", self.weight_decay, ("auto", "coupled", "decoupled"))
        check_option("project_state", self.project_state, (True, False))
        check_option("fused", self.fused, (None, True, False))
        if self.at == "backward" and self.fused is not None:
            raise ZeromeanError(
                f'fused={self.fused} has no effect with at="backward"',
                'Leave fused out, or use at="gradient"',
            )
        if self.at == "update" and self.weight_decay != "auto":
            raise ZeromeanError(
                f'weight_decay="{self.weight_decay}" has no effect with at="update", which projects'
                " the whole change of the weights",
                "Leave weight_decay out",
            )
        if self.at == "update" and self.project_state:
            raise ZeromeanError(
                'project_state=True has no effect with at="update", which projects the whole change'
                " of the weights",
                "Leave project_state out",
            )

    def describe(self, **facts: str) -> str:
        """Return one line that is equal for two optimizers that are centralized alike.

        It names no parameter, so it stays the same under wrapping and resharding.

        Args:
            facts: Further entries of the line, such as ``axes="model"``.
        """
        texts = {
            "at": self.at,
            "layers": self.layers
            if isinstance(self.layers, str)
            else getattr(self.layers, "__qualname__", type(self.layers).__qualname__),
            "embeddings": self.embeddings,
            "scope": self.scope,
            **facts,
        }
        if self.weight_decay != "auto":
            texts["weight_decay"] = self.weight_decay
        return ", ".join(f"{name}={text}" for name, text in texts.items())

    @classmethod
    def from_mapping(cls, options: dict[str, Any], where: str) -> GCOptions:
        """Make options from a dictionary, such as a part of a configuration file.

        Args:
            options: Values by option name.
            where: Place of the dictionary, for the error.

        Raises:
            ZeromeanError: It is no dictionary, or names an unknown option.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(options, dict) or not set(options) <= set(names):
            raise ZeromeanError(
                f"{where} is {options!r}, not a dict of options of zeromean.centralize"
                f" ({', '.join(names)})",
                f'Write dict(at="update"), for example, or leave {where} out',
            )
        return cls(**options)
