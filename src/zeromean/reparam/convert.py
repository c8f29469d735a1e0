"""One verb that re-parametrizes a whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from zeromean.errors import warn
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Layers, Owner, Row, make_plan
from zeromean.projection import center
from zeromean.reparam.formulas import undirected
from zeromean.reparam.nnn import NaturalLinear, replace_module, why_not
from zeromean.reparam.parametrization import KINDS, Normalized, formula_of, register
from zeromean.reparam.refusals import refuse_distributed, refuse_gains_too_large, refuse_options
from zeromean.reparam.report import Change, Report


def reparametrize(
    model: nn.Module,
    method: Literal["wn", "cwn", "ws", "nnn"],
    *,
    layers: Layers = "all",
    scale: Literal["learned"] | float | None = None,
    init: Literal["preserve", "unit"] = "preserve",
    mean: Literal["drop", "keep"] = "drop",
    eps: float | None = None,
    every: int | None = None,
) -> Report:
    r"""Re-parametrize a model's weights, in place: a proxy v is trained, the weight w follows.

    One weight vector at a time, over each layer's own fan-in axes:

    - "wn": :math:`w = g \, v / \lVert v \rVert`,
    - "cwn": :math:`w = g \, (v - \bar v) / \lVert v - \bar v \rVert`,
    - "ws": :math:`w = g \, (v - \bar v) / \sqrt{\operatorname{var} v + \epsilon}`,
    - "nnn": a linear layer's :math:`v U (x - c) + d`, where U whitens the layer's inputs and c is
      their mean, both estimated anew now and then without changing the function.

    The first three are parametrizations of ``torch.nn.utils.parametrize``. Make the optimizer
    after this call: the parameters are others. A vector without direction (v = 0, or constant
    where the mean is taken away) gives the weight 0 and a finite gradient.

    Args:
        model: The model; a single layer is one too.
        method: "wn", "cwn", "ws" or "nnn".
        layers: "all" (default), "conv", "linear", or a predicate of a module's full name and the
            module, as in :func:`zeromean.centralize`.
        scale: "learned" for one trained gain g a weight vector, or a number for all. Default:
            "learned"; 1 for "ws", as in its paper.
        init: "preserve" (default) starts from g such that the function is unchanged as far as the
            method can represent it: "wn" and "nnn" can up to rounding; "cwn" and "ws" lose the mean
            of each weight vector, and the report says how much that is. "unit" starts from g = 1.
        mean: "drop" (default), or "keep" to add the mean that is lost as a fixed offset.
        eps: Added to the variance by "ws" (default 1e-5), and to each variance of the inputs that
            "nnn" whitens (default 0.1).
        every: With "nnn", after how many updates the inputs are estimated anew (default 100).

    Returns:
        A :class:`zeromean.reparam.Report`, which tells for each parameter what was done and why,
        and prints as a table. Fan-in 1, tied parameters, those with gradient hooks and modules that
        nobody described are left alone.

    Raises:
        ZeromeanError: An option does not exist or has no effect; the model is wrapped or sharded
            already, or has lazy parameters, or float16 weights longer than a float16 gain can be.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> report = zeromean.reparametrize(model, "cwn")
        >>> [change.row.name for change in report.done]
        ['0.weight']
        >>> torch.allclose(model[0].weight.mean((1, 2, 3)), torch.zeros(8), atol=1e-6)
        True
        >>> model = zeromean.fold(model)  # plain weights again, of the same values

    Reference:
        Salimans and Kingma 2016 (wn); Huang et al., ICCV 2017 (cwn); Qiao et al. 2019 (ws);
        Desjardins et al. 2015 (nnn).
    """
    refuse_options(model, method, scale, init, mean, eps, every)
    refuse_distributed(model)
    owned: dict[int, list[Owner]] = {}
    for owner in owners(model):
        owned.setdefault(id(owner.parameter), []).append(owner)
    plan = make_plan((owner for tied in owned.values() for owner in tied), layers=layers)
    rows = [_left_alone(row, owned[id(row.parameter)]) if row.centered else row for row in plan]

    convert: Callable[[Row, Owner, FanIn], Change]
    if method == "nnn":
        rows = [why_not(model, row, owned[id(row.parameter)][0].module) for row in rows]

        def convert(row: Row, owner: Owner, fan_in: FanIn) -> Change:
            natural = NaturalLinear(owner.module, every=every or 100, eps=eps or 0.1)
            replace_module(model, owner.module, natural)
            return Change(row, done=True)

    else:
        kind = KINDS[method]
        fixed = kind.default_scale if scale is None else None if scale == "learned" else scale
        if fixed is None and init == "preserve":
            formula = formula_of(kind, eps)
            for row in rows:
                if row.centered and row.fan_in:
                    refuse_gains_too_large(row.name, row.parameter, formula, row.fan_in)

        def convert(row: Row, owner: Owner, fan_in: FanIn) -> Change:
            before = row.parameter.detach().clone()
            register(
                owner.module, _attribute(owner), fan_in, kind,
                scale=fixed, eps=eps, init=init, keep_mean=mean == "keep",
            )  # fmt: skip
            if fixed is None and init == "preserve":
                _warn_of_jumps(row, owner.module.parametrizations[_attribute(owner)][0], before)
            after = getattr(owner.module, _attribute(owner)).detach()
            return _compare(row, before, after, fan_in, kind, mean)

    changes = [
        convert(row, owned[id(row.parameter)][0], row.fan_in)
        if row.centered and row.fan_in
        else Change(row)
        for row in rows
    ]
    report = Report(method, tuple(changes))
    if not report.done:
        warn("nothing is re-parametrized: print the report, which tells why for each parameter")
    return report


def _left_alone(row: Row, tied: list[Owner]) -> Row:
    """The row, left alone where a proxy cannot stand in for this parameter."""
    if len(tied) > 1:
        names = ", ".join(owner.name for owner in tied)
        return row.left_alone(f"tied: {names} would each get a proxy of its own")
    if "." in _attribute(tied[0]):
        return row.left_alone(f"it is parametrized already: {tied[0].reason}")
    if isinstance(tied[0].module, NaturalLinear):
        return row.left_alone("nnn re-parametrized it already")
    if prune.is_pruned(tied[0].module):
        return row.left_alone("it is pruned: prune.remove makes that permanent")
    if row.parameter.is_complex():
        return row.left_alone("complex weights have no such length")
    if row.fan_in and row.fan_in.padding_idx is not None:
        return row.left_alone("its padding row would be normalized with the others")
    hooks: Any = row.parameter
    if hooks._backward_hooks or hooks._post_accumulate_grad_hooks:
        return row.left_alone("it has gradient hooks: register them after this, on its proxy")
    return row


def _attribute(owner: Owner) -> str:
    return owner.name[len(owner.module_name) + 1 :] if owner.module_name else owner.name


def _warn_of_jumps(row: Row, parametrization: Normalized, weight: Tensor) -> None:
    if weight.device.type == "meta":
        return
    vectors = undirected(weight, parametrization.formula, parametrization.fan_in)
    if vectors:
        what = "constant" if parametrization.centers else "zero"
        warn(
            f"{row.name}: {vectors} of its weight vectors are {what} and have no direction; the"
            " first step, however small, makes them g = 1 long: leave layers that start from zero"
            " out with layers="
        )


def _compare(
    row: Row, before: Tensor, after: Tensor, fan_in: FanIn, kind: type[Normalized], mean: str
) -> Change:
    dtype = torch.promote_types(before.dtype, torch.float32)
    before, after = before.to(dtype), after.to(dtype)
    norm = before.norm()
    if before.device.type == "meta" or not norm:
        return Change(row, done=True)
    moved = float((after - before).norm() / norm)
    if not kind.centers or mean == "keep":
        return Change(row, done=True, moved=moved)
    lost = float((before - center(before, fan_in.axes, fan_in.groups)).norm() / norm)
    return Change(row, done=True, moved=moved, mean_lost=lost)
