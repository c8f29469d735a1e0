"""The plan of a model, of a handle or of a centralized optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from zeromean.centralization.centralize import handle_of
from zeromean.centralization.optimizer_traits import strip_wrapper
from zeromean.errors import ZeromeanError
from zeromean.model import owners
from zeromean.plan import Layers, Plan, Scope, make_plan

__all__ = ["explain"]


class HasPlan(Protocol):
    """An object that has a plan already, such as a :class:`zeromean.Handle`."""

    @property
    def plan(self) -> Plan:
        """The current plan."""


def explain(
    subject: nn.Module | Optimizer | HasPlan,
    *,
    layers: Layers | None = None,
    embeddings: bool | None = None,
    scope: Scope | None = None,
) -> Plan:
    """Show for every parameter whether it is centered, over which axes, and why.

    Args:
        subject: A model, to see what :func:`zeromean.centralize` would do with it; or a handle, a
            centralized optimizer or an optimizer of :mod:`zeromean.optim`, to see what it does.
            Wrappers such as :class:`zeromean.optim.Ranger` show the optimizer inside.
        layers, embeddings, scope: Options of :func:`zeromean.centralize`, with its defaults. A
            handle or optimizer has its own.

    Returns:
        A :class:`zeromean.Plan`, a sequence of rows that prints as a table.

    Raises:
        ZeromeanError: ``subject`` is none of these, or options were given without a model.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Sequential(
        ...     torch.nn.ConvTranspose2d(8, 6, 3, groups=2), torch.nn.BatchNorm2d(6)
        ... )
        >>> print(zeromean.explain(model))
        parameter  shape    role  axes               centered  reason
        0.weight   8x3x3x3  conv  0,2,3 in 2 groups  yes       ConvTranspose2d, fan-in 36
        0.bias     6        -     -                  no        a bias has no fan-in
        1.weight   6        -     -                  no        a norm's gain multiplies one input
        1.bias     6        -     -                  no        a bias has no fan-in
        centered: 1 of 4 parameters, 216 of 234 entries
    """
    given = {"layers": layers, "embeddings": embeddings, "scope": scope}
    options: Any = {name: value for name, value in given.items() if value is not None}
    if isinstance(subject, nn.Module):
        return make_plan(owners(subject), **options)
    found: Any = strip_wrapper(subject)
    if isinstance(found, Optimizer):
        found = handle_of(found) or found
    plan = getattr(found, "plan", None)
    if not isinstance(plan, Plan):
        raise ZeromeanError(
            f"explain received a {type(subject).__name__}, which is neither a torch.nn.Module nor a"
            " handle or an optimizer that is centralized",
            "Call explain(model) or explain(handle)",
        )
    if options:
        raise ZeromeanError(
            f"explain received {', '.join(options)} together with a {type(subject).__name__}, which"
            " has its own options",
            "Leave the options out, or pass the model",
        )
    way = getattr(found, "way", None)
    return plan if way is None else replace(plan, note=f"step: {way}")
