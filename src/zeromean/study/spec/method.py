"""The methods that a study compares."""

from __future__ import annotations

import shlex
from typing import Literal

import msgspec

from zeromean.study.spec.validation import LARGEST_FLOAT32, SettingError, Spec, check_range

BASELINE = "plain"
# The re-parametrizations on which an option has no effect, with the reason.
_WITHOUT_EFFECT = {
    "layers": (("nnn",), "is for linear layers only"),
    "init": (("ws", "nnn"), "has no gain"),
    "mean": (("wn", "nnn"), "subtracts no mean"),
    "eps": (("wn", "cwn"), "has no eps"),
}


class Method(Spec, frozen=True):
    """The changes to plain training in a run; the fields act in this order.

    Args:
        label: Name in tables and in the database.
        normalization: Replacement of every batch or group normalization; a network without any
            gets one after each convolution and each linear layer but the last. None changes
            nothing.
        initialization: Distribution of the initial weights; None for the network's own.
        reparametrization: Argument of :func:`zeromean.reparametrize`.
        layers: Layers that ``reparametrization`` acts on: "all" (default) or "conv".
        init: "preserve" (default), or "unit" to start from gains of 1.
        mean: "drop" (default), or "keep" to keep the means of the weight vectors as fixed offsets.
        eps: The ``eps`` of ``reparametrization``; None for its default.
        clip_value: Bound of each entry of a gradient.
        clip_norm: Bound of the norm of all gradients together.
        gradient: Centering of gradients: "gc", "gc-conv" (convolutions only), "gc-tensor" (the mean
            of the whole tensor, an ablation) or "zscore" (standardized, an ablation).
        arguments: Words to add to the command of a program, for a variant of it.
        at: "gradient" (default) or "update", as in :func:`zeromean.centralize`.

    Raises:
        ZeromeanError: A value is not allowed, or has no effect.

    Example:
        >>> print(Method("ws-conv+gc", reparametrization="ws", layers="conv", gradient="gc").calls)
        reparametrize(model, "ws", layers="conv"); centralize(optimizer, model)
    """

    label: str
    normalization: Literal["batch", "group", "none"] | None = None
    initialization: Literal["torch", "lecun", "xavier", "he"] | None = None
    reparametrization: Literal["wn", "cwn", "ws", "nnn"] | None = None
    layers: Literal["all", "conv"] = "all"
    init: Literal["preserve", "unit"] = "preserve"
    mean: Literal["drop", "keep"] = "drop"
    eps: float | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    gradient: Literal["gc", "gc-conv", "gc-tensor", "zscore"] | None = None
    arguments: tuple[str, ...] = ()
    at: Literal["gradient", "update"] = "gradient"

    def _check(self) -> None:
        if not self.label:
            raise SettingError("label", "label is empty", "Name the method")
        changes = self.changed != ["label"]
        if changes == (self.label == BASELINE):
            raise SettingError(
                "label",
                f'the method "{self.label}" changes '
                + ("plain training" if changes else "nothing")
                + f'; "{BASELINE}" is the name of plain training',
                "Use another label" if changes else "Set one of its fields",
            )
        for name, (kinds, reason) in _WITHOUT_EFFECT.items():
            if name not in self.changed:
                continue
            if self.reparametrization is None:
                problem = f"{name} is given without reparametrization"
            elif self.reparametrization in kinds:
                problem = f'"{self.reparametrization}" {reason}'
            else:
                continue
            raise SettingError(name, problem, f"Remove {name}")
        if self.at == "update" and self.gradient in (None, "zscore"):
            raise SettingError("at", 'at = "update" needs gradient = "gc"', "Remove at")
        if self.clip_value is not None and self.clip_norm is not None:
            raise SettingError("clip_norm", "both clip_value and clip_norm are given", "Keep one")
        for name in ("eps", "clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 0, LARGEST_FLOAT32, exclusive=True)

    @property
    def changes(self) -> tuple[object, ...]:
        """Every field but the label; equal for methods that do the same."""
        return msgspec.structs.astuple(self)[1:]

    @property
    def calls(self) -> str:
        """The calls that the method stands for, as a user would write them."""
        return "; ".join(self._calls()) or "the optimizer as it is"

    def _calls(self) -> list[str]:
        calls = []
        if self.normalization is not None:
            calls.append(f"{self.normalization} normalization")
        if self.initialization is not None:
            calls.append(f"initial weights: {self.initialization}")
        if self.reparametrization is not None:
            calls.append(f'reparametrize(model, "{self.reparametrization}"{self._options()})')
        if self.clip_value is not None:
            calls.append(f"clip_grad_value_(parameters, {self.clip_value:g})")
        if self.clip_norm is not None:
            calls.append(f"clip_grad_norm_(parameters, {self.clip_norm:g})")
        if self.gradient == "zscore":
            calls.append("the gradient of each weight vector to mean 0 and deviation 1")
        elif self.gradient is not None:
            options = {"gc-conv": ', layers="conv"', "gc-tensor": ', scope="tensor"'}
            at = ', at="update"' if self.at == "update" else ""
            calls.append(f"centralize(optimizer, model{at}{options.get(self.gradient, '')})")
        if self.arguments:
            calls.append(f"the command with {shlex.join(self.arguments)}")
        return calls

    def _options(self) -> str:
        options = {
            "layers": self.layers if self.layers != "all" else None,
            "init": self.init if self.init != "preserve" else None,
            "mean": self.mean if self.mean != "drop" else None,
        }
        text = "".join(f', {name}="{value}"' for name, value in options.items() if value)
        return text + (f", eps={self.eps:g}" if self.eps is not None else "")
