"""The methods that a study can set side by side: named parts, joined by ``+``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from zeromean.centralization.centralize import centralize
from zeromean.errors import ZeromeanError
from zeromean.reparam import reparametrize
from zeromean.study.parts.clipping import clip_norm, clip_value
from zeromean.study.parts.initialization import INITIALIZATIONS, initialize
from zeromean.study.parts.normalization import normalize_by
from zeromean.study.parts.standardized import standardize

BASELINE = "plain"
# The order in which they act, whatever the order in which they are named: the published code clips
# gradients before it centers them.
FAMILIES = ("normalization", "initialization", "weights", "clipping", "gradient")


@dataclass(frozen=True)
class Part:
    """One thing that a method does.

    Args:
        family: One of ``FAMILIES``; a method has at most one part of each.
        call: As a reader would write it.
        prepare: Changes a fresh network, before it has an optimizer; None where nothing is to do.
        attach: Changes what the optimizer does; None where nothing is to do.
        needs: The role that a layer must have for the part to do anything; None for any.
    """

    family: str
    call: str
    prepare: Callable[[nn.Module], object] | None = None
    attach: Callable[[Optimizer, nn.Module], object] | None = None
    needs: str | None = None


def _centering(at: Any, layers: Any) -> Part:
    return Part(
        "gradient",
        f'centralize(optimizer, model, at="{at}", layers="{layers}")',
        attach=partial(centralize, at=at, layers=layers),
        needs="conv" if layers == "conv" else None,
    )


def _weights(method: Any, **options: Any) -> Part:
    said = "".join(f", {name}={value!r}" for name, value in options.items())
    return Part(
        "weights",
        f'reparametrize(model, "{method}"{said})',
        prepare=partial(reparametrize, method=method, **options),
        needs="linear" if method == "nnn" else None,
    )


def _clipping(call: str, clip: Callable[..., None], bound: float) -> Part:
    return Part("clipping", f"{call}(parameters, {bound:g})", attach=partial(clip, bound=bound))


PARTS: dict[str, Part] = {
    "gc": _centering("gradient", "all"),
    "gc-conv": _centering("gradient", "conv"),
    "gc-update": _centering("update", "all"),
    "zscore": Part(
        "gradient", "each weight vector's gradient to mean 0, deviation 1", attach=standardize
    ),
    **{name: _weights(name) for name in ("wn", "cwn", "ws")},
    "nnn": _weights("nnn", eps=0.1),
    # The papers' start: each gain at 1, whatever the length of the weight vector.
    **{f"{name}-unit": _weights(name, init="unit") for name in ("wn", "cwn")},
    **{
        f"norm={kind}": Part(
            "normalization", f"{kind} normalization", prepare=partial(normalize_by, kind=kind)
        )
        for kind in ("batch", "group", "none")
    },
    **{
        f"init={name}": Part(
            "initialization", f"initial weights: {note}", prepare=partial(initialize, name=name)
        )
        for name, note in INITIALIZATIONS.items()
    },
}
# Parts with a number after an equals sign.
NUMBERED: dict[str, Callable[[float], Part]] = {
    "clip-value": partial(_clipping, "clip_grad_value_", clip_value),
    "clip-norm": partial(_clipping, "clip_grad_norm_", clip_norm),
    "nnn-eps": lambda eps: _weights("nnn", eps=eps),
}
NAMES = ", ".join([BASELINE, *PARTS, *(f"{name}=NUMBER" for name in NUMBERED)])


@dataclass(frozen=True)
class Method:
    """A method by its name: ``plain``, or parts joined by ``+``, such as ``cwn+gc``.

    Example:
        >>> print(Method.parse("gc+clip-norm=1").describe())
        clip_grad_norm_(parameters, 1); centralize(optimizer, model, at="gradient", layers="all")
    """

    name: str
    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, name: str) -> Method:
        """The method of that name.

        Raises:
            ZeromeanError: A part is unknown, or two belong to one family.
        """
        if name == BASELINE:
            return cls(name, ())
        parts = sorted(
            (_part(name, text) for text in name.split("+")),
            key=lambda part: FAMILIES.index(part.family),
        )
        families = [part.family for part in parts]
        for family in families:
            if families.count(family) > 1:
                raise ZeromeanError(
                    f"method {name!r} with {families.count(family)} parts for the {family}",
                    "at most one part of a kind",
                    "leave one out",
                )
        return cls(name, tuple(parts))

    def describe(self) -> str:
        """The calls that the method stands for, as a reader would write them."""
        return "; ".join(part.call for part in self.parts) or "the optimizer as it is"

    def prepare(self, network: nn.Module) -> None:
        """Changes a fresh network in place; draws from torch's random state where it has to."""
        for part in self.parts:
            if part.prepare is not None:
                part.prepare(network)

    def attach(self, optimizer: Optimizer, network: nn.Module) -> None:
        """Changes what the optimizer does to the network that it was made for."""
        for part in self.parts:
            if part.attach is not None:
                part.attach(optimizer, network)


def _part(method: str, text: str) -> Part:
    if text in PARTS:
        return PARTS[text]
    name, _, written = text.partition("=")
    if name in NUMBERED:
        try:
            number = float(written)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise ZeromeanError(
                f"method {method!r} with {text!r}", f"{name}=NUMBER above 0", "mend the number"
            )
        return NUMBERED[name](number)
    raise ZeromeanError(
        f"method {method!r}",
        f"{NAMES}; those after {BASELINE} also joined by +",
        "name one of these methods",
    )
