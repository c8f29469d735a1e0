"""The reference backend: plain torch, any device, type and layout, written to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.kernels.rules import AdamRule, At, Decay, Entry, Rule, SGDRule
from zeromean.projection import shift_, vector_means


def center_(
    into: Sequence[Tensor],
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Sequence[Decay | None],
) -> None:
    """``into = g - mean(g) - lambda mean(w)``, with a (w, lambda) for each gradient that decays."""
    # All means at once: sharded ones are summed over ranks together.
    decaying = [(n, *decay) for n, decay in enumerate(decays) if decay is not None]
    weights = [weight for _, weight, _ in decaying]
    means = vector_means([*gradients, *weights], [*fan_ins, *(fan_ins[n] for n, _, _ in decaying)])
    for (n, _, factor), weight_mean in zip(decaying, means[len(gradients) :], strict=True):
        means[n] += factor * weight_mean
    for target, gradient in zip(into, gradients, strict=True):
        if target is not gradient:
            target.copy_(gradient)
    shift_(into, fan_ins, [-mean for mean in means[: len(gradients)]])


class Step:
    """A step of the given entries, one after the other.

    Args:
        at: Whether the gradient or the whole update is centered.
        entries: What to step.
    """

    def __init__(self, at: At, entries: Sequence[Entry]) -> None:
        self._at = at
        self._entries = entries

    def fits(self, gradients: Sequence[Tensor]) -> bool:
        """Whether the step is still ready: always, because nothing is kept of the tensors."""
        return True

    def run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Step every entry along its gradient, by its group's rule."""
        for entry, gradient in zip(self._entries, gradients, strict=True):
            _step(self._at, entry, gradient, rules[entry.group])


def _step(at: At, entry: Entry, gradient: Tensor, rule: Rule) -> None:
    weight, fan_in = entry.weight, entry.fan_in
    w, g = _wide(weight), _wide(gradient)
    if rule.maximize:
        g = -g
    if rule.weight_decay and not rule.decoupled:
        g = g + rule.weight_decay * w
    if fan_in is not None and at == "gradient":
        g = _centered(g, fan_in)
    change = _sgd(entry, g, rule) if isinstance(rule, SGDRule) else _adam(entry, g, rule)
    if rule.decoupled:
        change = change + rule.lr * rule.weight_decay * w
    if fan_in is not None and at == "update":
        change = _centered(change, fan_in)
        if entry.residual is not None:
            (mean,) = vector_means([change], [fan_in])
            shift_([change], [fan_in], [-entry.residual.view(mean.shape)])
    _narrow(weight).copy_(w - change)
    if entry.residual is not None and fan_in is not None:
        (gained,) = vector_means([_wide(weight) - w], [fan_in])
        entry.residual.sub_(gained.flatten())


def _sgd(entry: Entry, g: Tensor, rule: SGDRule) -> Tensor:
    """The change ``lr d``: d is g, or the momentum b = mu b + (1 - tau) g, or g + mu b."""
    if rule.momentum == 0:
        return rule.lr * g
    buffer = entry.state.get("momentum_buffer")
    if buffer is None:
        buffer = entry.state["momentum_buffer"] = torch.empty_like(entry.weight)
        b = g
    else:
        b = rule.momentum * _wide(buffer) + (1 - rule.dampening) * g
    _narrow(buffer).copy_(b)
    return rule.lr * (g + rule.momentum * b if rule.nesterov else b)


def _adam(entry: Entry, g: Tensor, rule: AdamRule) -> Tensor:
    """The change ``lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)``."""
    state, (beta1, beta2) = entry.state, rule.betas
    state["step"] += 1
    t = float(state["step"])
    m = beta1 * _wide(state["exp_avg"]) + (1 - beta1) * g
    v = beta2 * _wide(state["exp_avg_sq"]) + (1 - beta2) * g.square()
    _narrow(state["exp_avg"]).copy_(m)
    _narrow(state["exp_avg_sq"]).copy_(v)
    if rule.amsgrad:
        v = torch.maximum(_wide(state["max_exp_avg_sq"]), v)
        _narrow(state["max_exp_avg_sq"]).copy_(v)
    root = (v / (1 - math.pow(beta2, t))).sqrt()
    step_size = rule.lr / (1 - math.pow(beta1, t))
    return step_size * m / (root + rule.eps)


def _centered(x: Tensor, fan_in: FanIn) -> Tensor:
    x = x.clone()
    shift_([x], [fan_in], [-mean for mean in vector_means([x], [fan_in])])
    return x


def _narrow(x: Tensor) -> Tensor:
    """The tensor itself, a complex one as pairs of reals: the last axis is no fan-in axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def _wide(x: Tensor) -> Tensor:
    """Its values in at least float32."""
    x = _narrow(x)
    return x.to(torch.promote_types(x.dtype, torch.float32))
