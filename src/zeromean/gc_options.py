"""The options of Gradient Centralization, which all adapters share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from zeromean.errors import ZeromeanError
from zeromean.plan import Layers, Scope, check_option, check_selection

WeightDecay = Literal["coupled", "decoupled"]


@dataclass(frozen=True)
class GCOptions:
    """The options of :func:`zeromean.centralize`, validated; see its documentation.

    Args:
        at: Place of the projection, "gradient", "update" or "backward".
        layers: Layers to center, "all", "conv", "linear", or a predicate of a module's full name
            and the module.
        embeddings: Whether embeddings are centered, over their tokens.
        scope: Part of a parameter that shares one mean, "vector" or "tensor".
        weight_decay: Kind of weight decay, "auto", "coupled" or "decoupled".
        project_state: Whether momentum buffers are projected once when attaching.
        fused: Whether zeromean's kernels make the whole step; None where they can.

    Raises:
        ZeromeanError: An option has an unknown value, or has no effect with this ``at``.
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
        """Return one line of text, the same for all optimizers with these options.

        The line names no parameter, so wrapping and resharding do not change it.

        Args:
            facts: More entries of the line, such as ``axes="model"``.
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
        """Return the options in a dictionary, such as a section of a configuration file.

        Args:
            options: Values by option name.
            where: Name of the dictionary in error messages.

        Raises:
            ZeromeanError: ``options`` is not a dictionary, or has an unknown option or value.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(options, dict) or not set(options) <= set(names):
            raise ZeromeanError(
                f"{where} is {options!r}, not a dict of options of zeromean.centralize"
                f" ({', '.join(names)})",
                f'Write dict(at="update"), for example, or leave {where} out',
            )
        return cls(**options)
