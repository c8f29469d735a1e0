"""The reference backend: plain torch, any device, type and layout, written to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zeromean.fan_in import FanIn
from zeromean.kernels.step_spec import AdamRule, At, Decay, Entry, Rule, SGDRule
from zeromean.projection import shift_, vector_means
from zeromean.sharded import summed_over_ranks


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


class Center:
    """Centers the gradients of the given entries, in place.

    Args:
        entries: Whose gradients.
        decayed: Whether ``lambda w`` may belong inside the projection.
    """

    def __init__(self, entries: Sequence[Entry], decayed: bool) -> None:
        self._entries = entries
        self._decayed = decayed

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether it is still ready: always, because nothing is kept of the tensors."""
        return True

    def run(self, gradients: Sequence[Tensor], decays: Sequence[float | Tensor]) -> None:
        """Center every gradient, with its group's decay inside the projection."""
        factors = [decays[entry.group] if self._decayed else 0.0 for entry in self._entries]
        inside: list[Decay | None] = [
            None if isinstance(factor, float) and factor == 0 else (entry.weight, factor)
            for entry, factor in zip(self._entries, factors, strict=True)
        ]
        center_(gradients, gradients, _fan_ins(self._entries), inside)


class MeanKeeper:
    """Notes down the means of weights before a step, and puts them back after it.

    Args:
        entries: The weights, and what rounding took from their means so far.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._found = _described(entries)

    def is_valid(self) -> bool:
        """Whether it is still ready: residuals are those of these weights."""
        return _described(self._entries) == self._found

    def record(self) -> Sequence[Tensor]:
        """The mean of every weight vector."""
        return vector_means(self._weights, _fan_ins(self._entries))

    def restore(self, noted: Sequence[Tensor]) -> None:
        """Give every weight vector that moved the mean that was noted down."""
        fan_ins = _fan_ins(self._entries)
        after = vector_means(self._weights, fan_ins)
        before = [old.view(new.shape).to(new.dtype) for old, new in zip(noted, after, strict=True)]
        aims = [
            old if entry.residual is None else old + entry.residual.view(old.shape)
            for entry, old in zip(self._entries, before, strict=True)
        ]
        amounts = [
            torch.where(new == old, 0, aim - new)
            for old, new, aim in zip(before, after, aims, strict=True)
        ]
        shift_(self._weights, fan_ins, amounts)
        rounded = [n for n, entry in enumerate(self._entries) if entry.residual is not None]
        left = vector_means([self._weights[n] for n in rounded], [fan_ins[n] for n in rounded])
        for n, mean in zip(rounded, left, strict=True):
            _residual(self._entries[n], mean).copy_(aims[n] - mean)


class Step:
    """A step of the given entries: one after the other, to hold no more than one change at once.

    Only those whose vectors lie on several ranks go together, so that ranks send one message.

    Args:
        at: Whether the gradient or the whole update is centered.
        entries: What to step.
    """

    def __init__(self, at: At, entries: Sequence[Entry]) -> None:
        self._at = at
        self._entries = entries
        self._found = _described(entries)

    def is_valid(self, gradients: Sequence[Tensor]) -> bool:
        """Whether the step is still ready: residuals are those of these weights."""
        return _described(self._entries) == self._found

    def run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Step every entry along its gradient, by its group's rule."""
        together: list[tuple[Entry, Tensor]] = []
        for entry, gradient in zip(self._entries, gradients, strict=True):
            if entry.fan_in is not None and any(
                summed_over_ranks(x, entry.fan_in) for x in (entry.weight, gradient)
            ):
                together.append((entry, gradient))
            else:
                _step(self._at, [(entry, gradient)], rules)
        _step(self._at, together, rules)


def _step(at: At, pairs: Sequence[tuple[Entry, Tensor]], rules: Sequence[Rule]) -> None:
    entries = [entry for entry, _ in pairs]
    weights = [_wide(entry.weight) for entry in entries]
    seen = [
        _seen(w, _wide(gradient), rules[entry.group])
        for (entry, gradient), w in zip(pairs, weights, strict=True)
    ]
    if at == "gradient":
        seen = _centered(seen, entries)
    stepped = [n for n, entry in enumerate(entries) if not (entry.waits and at == "gradient")]
    changes = {
        n: _change(entries[n], weights[n], seen[n], rules[entries[n].group]) for n in stepped
    }
    if at == "update":
        changes = dict(enumerate(_centered([*changes.values()], entries)))
    for n, change in changes.items():
        _narrow(entries[n].weight).copy_(weights[n] - change)
    carried = [n for n in stepped if entries[n].residual is not None]
    gained = vector_means(
        [_wide(entries[n].weight) - weights[n] for n in carried],
        _fan_ins([entries[n] for n in carried]),
    )
    for n, mean in zip(carried, gained, strict=True):
        _residual(entries[n], mean).sub_(mean)


def _seen(w: Tensor, g: Tensor, rule: Rule) -> Tensor:
    """The gradient that the step sees, before it is centered."""
    if rule.maximize:
        g = -g
    return g + rule.weight_decay * w if rule.weight_decay and not rule.decoupled else g


def _change(entry: Entry, w: Tensor, g: Tensor, rule: Rule) -> Tensor:
    """What is to be taken off the weights, decay included."""
    if entry.waits:
        return torch.zeros_like(w)
    change = _sgd(entry, g, rule) if isinstance(rule, SGDRule) else _adam(entry, g, rule)
    return change + rule.lr * rule.weight_decay * w if rule.decoupled else change


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


def _centered(tensors: Sequence[Tensor], entries: Sequence[Entry]) -> list[Tensor]:
    """Copies, those with fan-in axes centered; what rounding took before is given back as well."""
    found = list(tensors)
    places = [n for n, entry in enumerate(entries) if entry.fan_in is not None]
    chosen = [entries[n] for n in places]
    copies = [tensors[n].clone() for n in places]
    off = [
        mean if entry.residual is None else mean + _residual(entry, mean)
        for entry, mean in zip(chosen, vector_means(copies, _fan_ins(chosen)), strict=True)
    ]
    shift_(copies, _fan_ins(chosen), [-amount for amount in off])
    for n, copy in zip(places, copies, strict=True):
        found[n] = copy
    return found


def _residual(entry: Entry, mean: Tensor) -> Tensor:
    """An entry's residual, shaped like the means of its vectors."""
    assert entry.residual is not None
    return entry.residual.view(mean.shape)


def _described(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """Of the weights, what decides how many residuals there are, of which type, and where."""
    return [(entry.weight.dtype, entry.weight.device, entry.weight.shape) for entry in entries]


def _fan_ins(entries: Sequence[Entry]) -> list[FanIn]:
    return [entry.fan_in for entry in entries if entry.fan_in is not None]


def _narrow(x: Tensor) -> Tensor:
    """The tensor itself, a complex one as pairs of reals: the last axis is no fan-in axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def _wide(x: Tensor) -> Tensor:
    """Its values in at least float32."""
    x = _narrow(x)
    return x.to(torch.promote_types(x.dtype, torch.float32))
