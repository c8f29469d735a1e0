"""The methods that a study can set side by side: named parts, joined by ``+``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from zeromean.attach import centralize
from zeromean.errors import ZeromeanError

BASELINE = "plain"


@dataclass(frozen=True)
class Part:
    """One thing that a method does.

    Args:
        family: A method has at most one part of each.
        call: As a reader would write it.
        prepare: Changes a fresh network, before it has an optimizer; None where nothing is to do.
        attach: Changes what the optimizer does; None where nothing is to do.
    """

    family: str
    call: str
    prepare: Callable[[nn.Module], None] | None = None
    attach: Callable[[Optimizer, nn.Module], None] | None = None


def _centring(at: str, layers: str) -> Part:
    def attach(optimizer: Optimizer, network: nn.Module) -> None:
        centralize(optimizer, network, at=at, layers=layers)  # type: ignore[arg-type]

    return Part(
        "gradient", f'centralize(optimizer, model, at="{at}", layers="{layers}")', attach=attach
    )


PARTS: dict[str, Part] = {
    "gc": _centring("gradient", "all"),
    "gc-conv": _centring("gradient", "conv"),
    "gc-update": _centring("update", "all"),
}


@dataclass(frozen=True)
class Method:
    """A method by its name: ``plain``, or parts in the order in which they act.

    Example:
        >>> print(Method.parse("gc").describe())
        centralize(optimizer, model, at="gradient", layers="all")
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
        parts = tuple(_part(name, text) for text in name.split("+"))
        families = [part.family for part in parts]
        for family in families:
            if families.count(family) > 1:
                raise ZeromeanError(
                    f"method {name!r} with {families.count(family)} parts for the {family}",
                    "at most one part of each family",
                    "leave one out",
                )
        return cls(name, parts)

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
    raise ZeromeanError(
        f"method {method!r}",
        f"{', '.join([BASELINE, *PARTS])}; those after {BASELINE} also joined by +",
        "name one of these methods",
    )
