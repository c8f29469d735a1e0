"""``reparametrize``: re-parametrizes the weights of a whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from zeromean.errors import warn
from zeromean.fan_in import FanIn
from zeromean.model import owners
from zeromean.plan import Layers, Owner, Row, make_plan
from zeromean.reparam.changes import Change, Report, compare
from zeromean.reparam.formulas import count_undirected
from zeromean.reparam.nnn import (
    NaturalLinear,
    has_gradient_hooks,
    leave_unwrappable,
    replace_module,
)
from zeromean.reparam.parametrization import KINDS, Normalized, formula_of, register
from zeromean.reparam.preconditions import check_gains, check_options, check_undistributed


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
    r"""Re-parametrize a model's weights in place: a proxy v is trained and yields the weight w.

    Each weight vector is computed from its own proxy, over the layer's fan-in axes:

    - "wn": :math:`w = g \, v / \lVert v \rVert`,
    - "cwn": :math:`w = g \, (v - \bar v) / \lVert v - \bar v \rVert`,
    - "ws": :math:`w = g \, (v - \bar v) / \sqrt{\operatorname{var} v + \epsilon}`,
    - "nnn": a linear layer computes :math:`v U (x - c) + d`, where U whitens the layer's inputs and
      c is their mean. Both are estimated again every few updates without changing the function.

    The first three use ``torch.nn.utils.parametrize``. Create the optimizer after this call,
    because it replaces parameters. A vector without direction (v = 0, or a constant v under "cwn")
    gives the weight 0 and a finite gradient. ``reset_parameters`` of a converted layer starts the
    proxy again from the layer's own initialization, and ``load_state_dict`` accepts a checkpoint
    of the plain model.

    Args:
        model: Model or single layer.
        method: "wn", "cwn", "ws" or "nnn".
        layers: "all" (default), "conv", "linear", or a predicate of a module's full name and the
            module, as in :func:`zeromean.centralize`.
        scale: "learned" for one trained gain g per weight vector, or one number for all vectors.
            The default is "learned", and 1 for "ws", as in its paper.
        init: "preserve" (default) sets g so that the function changes as little as the method
            allows: "wn" and "nnn" keep it up to rounding; "cwn" and "ws" lose the mean of each
            weight vector, and the report says how much that is. A fixed ``scale`` also changes
            lengths. "unit" starts from g = 1.
        mean: "drop" (default), or "keep" to add the lost mean as a fixed offset.
        eps: Number added to the variance of v by "ws" (default 1e-5), or to each variance of the
            inputs that "nnn" whitens (default 0.1).
        every: Number of updates between two estimates of "nnn" (default 100).

    Returns:
        A :class:`zeromean.reparam.Report`, which lists what happened to each parameter and why, and
        prints as a table. Embeddings, parameters with fan-in 1, tied parameters, parameters with
        gradient hooks and those of modules without a fan-in rule are left alone.

    Raises:
        ZeromeanError: An option is unknown or has no effect; the model is wrapped or sharded, or
            has lazy parameters; or float16 weights are longer than a float16 gain can represent.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> report = zeromean.reparametrize(model, "cwn")
        >>> [change.row.name for change in report.done]
        ['0.weight']
        >>> torch.allclose(model[0].weight.mean((1, 2, 3)), torch.zeros(8), atol=1e-6)
        True
        >>> model = zeromean.fold(model)  # plain weights with the same values

    Reference:
        Salimans and Kingma 2016 (wn); Huang et al., ICCV 2017 (cwn); Qiao et al. 2019 (ws);
        Desjardins et al. 2015 (nnn).
    """
    check_options(model, method, scale, init, mean, eps, every)
    check_undistributed(model, "reparametrize")
    owners_of: dict[int, list[Owner]] = {}
    found = list(owners(model))
    for owner in found:
        owners_of.setdefault(id(owner.parameter), []).append(owner)
    rows = [
        _leave_unsuitable(model, row, owners_of[id(row.parameter)], method)
        for row in make_plan(found, layers=layers)
    ]

    convert: Callable[[Row, Owner, FanIn], Change]
    if method == "nnn":

        def convert(row: Row, owner: Owner, fan_in: FanIn) -> Change:
            natural = NaturalLinear(owner.module, every=every or 100, eps=eps or 0.1)
            replace_module(model, owner.module, natural)
            return Change(row, done=True)

    else:
        kind = KINDS[method]
        fixed = kind.default_scale if scale is None else None if scale == "learned" else scale
        if fixed is None and init == "preserve":
            for row in rows:
                if row.centered and row.fan_in:
                    check_gains(row.name, row.parameter, formula_of(kind, eps), row.fan_in)

        def convert(row: Row, owner: Owner, fan_in: FanIn) -> Change:
            before = row.parameter.detach().clone()
            name = _attribute(owner)
            register(
                owner.module, name, fan_in, kind,
                scale=fixed, eps=eps, init=init, keep_mean=mean == "keep",
            )  # fmt: skip
            if fixed is None and init == "preserve":
                _warn_of_undirected(row, owner.module.parametrizations[name][0], before)
            after = getattr(owner.module, name).detach()
            drops_mean = kind.formula.centers and mean == "drop"
            return compare(row, before, after, fan_in if drops_mean else None)

    changes = [
        convert(row, owners_of[id(row.parameter)][0], row.fan_in)
        if row.centered and row.fan_in
        else Change(row)
        for row in rows
    ]
    report = Report(method, tuple(changes))
    if not report.done:
        warn("Nothing is re-parametrized. Print the report to see why for each parameter.")
    return report


def _leave_unsuitable(model: nn.Module, row: Row, tied: list[Owner], method: str) -> Row:
    """Return the row, marked as left alone if a proxy cannot replace this parameter."""
    if row.role == "embedding":
        return row.left_alone("embeddings are not re-parametrized")
    if not row.centered:
        return row
    owner = tied[0]
    if len(tied) > 1:
        names = ", ".join(owner.name for owner in tied)
        return row.left_alone(f"tied: {names} would each get a separate proxy")
    if "." in _attribute(owner):
        return row.left_alone(f"it is already parametrized: {owner.reason}")
    if isinstance(owner.module, NaturalLinear):
        return row.left_alone("it is already re-parametrized by nnn")
    if _attribute(owner).endswith("_orig"):
        return row.left_alone(
            "it is pruned or spectrally normalized by a hook: call torch.nn.utils.prune.remove or"
            " remove_spectral_norm first"
        )
    if row.parameter.is_complex():
        return row.left_alone(f"weights of type {row.parameter.dtype} are not supported")
    if row.fan_in and row.fan_in.padding_idx is not None:
        return row.left_alone("its padding row would be normalized with the others")
    if has_gradient_hooks(row.parameter):
        return row.left_alone("it has gradient hooks: register them on its proxy afterwards")
    return leave_unwrappable(model, row, owner) if method == "nnn" else row


def _attribute(owner: Owner) -> str:
    """Return the parameter's name within its module."""
    return owner.name[len(owner.module_name) + 1 :] if owner.module_name else owner.name


def _warn_of_undirected(row: Row, parametrization: Normalized, weight: Tensor) -> None:
    if weight.is_meta:
        return
    count = count_undirected(weight, parametrization.formula, parametrization.fan_in)
    if count:
        state = "constant" if parametrization.formula.centers else "zero"
        warn(
            f"{row.name}: {count} of its weight vectors are {state} and have no direction; their"
            " first step, however small, gives them the length g = 1. Leave layers that start from"
            " zero out with layers=."
        )
