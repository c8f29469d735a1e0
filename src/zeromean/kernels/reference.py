"""The reference backend, plain torch that is easy to read, for any device, type and layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from zeromean.fan_in import FanIn
from zeromean.kernels.checks import check_shape, check_step, check_storage, has_own_class
from zeromean.kernels.step_spec import AdamRule, At, Decay, Entry, Kind, Number, Rule, SGDRule
from zeromean.kernels.tensor_memory import changed_since, has_repeats, versions
from zeromean.projection import shift_, vector_means
from zeromean.sharded import local_part, summed_over_ranks


def center_(
    into: Sequence[Tensor],
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Sequence[Decay | None],
) -> None:
    """Compute ``into = g - mean(g) - lambda mean(w)``; decays hold (w, lambda) or None."""
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
    """Center the gradients of entries in place.

    Args:
        entries: The parameters of the gradients.
        decayed: Whether ``lambda w`` may belong inside the projection.
    """

    def __init__(self, entries: Sequence[Entry], decayed: bool) -> None:
        self._entries = entries
        self._decayed = decayed

    def bind(self, gradients: Sequence[Tensor]) -> Callable[[Sequence[Number]], None] | None:
        """Return the centering of these gradients, or None if two of them share memory.

        Raises:
            ZeromeanError: A gradient has another shape than its weight, or a storage is too small.
        """
        for entry, gradient in zip(self._entries, gradients, strict=True):
            check_storage(gradient)
            if self._decayed:
                check_shape("a gradient", gradient, entry.weight)
                check_storage(entry.weight)
        if has_repeats(x.data_ptr() for x in map(local_part, gradients) if has_own_class(x)):
            return None
        return partial(self._run, gradients)

    def _run(self, gradients: Sequence[Tensor], decays: Sequence[Number]) -> None:
        factors = [decays[entry.group] if self._decayed else 0.0 for entry in self._entries]
        inside: list[Decay | None] = [
            None if isinstance(factor, float) and factor == 0 else (entry.weight, factor)
            for entry, factor in zip(self._entries, factors, strict=True)
        ]
        center_(gradients, gradients, _fan_ins(self._entries), inside)


class MeanKeeper:
    """Record the means of weights before a step, and restore them after it.

    Args:
        entries: The weights and the rounding errors of their means so far.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._weights = [entry.weight for entry in entries]
        self._found = _described(entries)

    def record(self) -> tuple[Sequence[Tensor], list[int]] | None:
        """Return all means and the weights' versions, or None if a residual no longer fits."""
        if _described(self._entries) != self._found:
            return None
        check_storage(*self._weights)
        return vector_means(self._weights, _fan_ins(self._entries)), versions(self._weights)

    def restore(self, recorded: tuple[Sequence[Tensor], list[int]]) -> None:
        """Give every weight vector that moved its recorded mean."""
        means, versions_before = recorded
        fan_ins = _fan_ins(self._entries)
        after = vector_means(self._weights, fan_ins)
        before = [old.view(new.shape).to(new.dtype) for old, new in zip(means, after, strict=True)]
        aims = [
            old if entry.residual is None else old + _residual(entry, old)
            for entry, old in zip(self._entries, before, strict=True)
        ]
        amounts = [
            torch.where(new == old, 0, aim - new)
            for old, new, aim in zip(before, after, aims, strict=True)
        ]
        # Through .data, because autograd must not take a weight that did not move for changed.
        shift_([weight.data for weight in self._weights], fan_ins, amounts)
        increment_version(changed_since(versions_before, self._weights))
        rounded = [n for n, entry in enumerate(self._entries) if entry.residual is not None]
        left = vector_means([self._weights[n] for n in rounded], [fan_ins[n] for n in rounded])
        for n, mean in zip(rounded, left, strict=True):
            _residual(self._entries[n], mean).copy_(aims[n] - mean)


class Step:
    """Step entries one after the other, so that only one change is in memory at a time.

    Entries whose vectors lie on several ranks are stepped together, so that ranks send one message.

    Args:
        at: Whether the gradient or the whole update is centered.
        entries: The parameters to step.
        kinds: Kind of step of each param group.
    """

    def __init__(self, at: At, entries: Sequence[Entry], kinds: Sequence[Kind]) -> None:
        self._at = at
        self._entries = entries
        self._kinds = kinds
        self._found = _described(entries)

    def bind(self, gradients: Sequence[Tensor]) -> Callable[[Sequence[Rule]], None] | None:
        """Return the step along these gradients, or None if a residual no longer fits.

        Raises:
            ZeromeanError: A gradient or state tensor has another shape than its weight.
        """
        if _described(self._entries) != self._found:
            return None
        for entry, gradient in zip(self._entries, gradients, strict=True):
            check_step(self._kinds[entry.group], entry, gradient)
        return partial(self._run, gradients)

    def _run(self, gradients: Sequence[Tensor], rules: Sequence[Rule]) -> None:
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
        _as_real(entries[n].weight).copy_(weights[n] - change)
    carried = [n for n in stepped if entries[n].residual is not None]
    gained = vector_means(
        [_wide(entries[n].weight) - weights[n] for n in carried],
        _fan_ins([entries[n] for n in carried]),
    )
    for n, mean in zip(carried, gained, strict=True):
        _residual(entries[n], mean).sub_(mean)


def _seen(w: Tensor, g: Tensor, rule: Rule) -> Tensor:
    """Return the gradient that the step sees, before it is centered."""
    if rule.maximize:
        g = -g
    return g + rule.weight_decay * w if rule.weight_decay and not rule.decoupled else g


def _change(entry: Entry, w: Tensor, g: Tensor, rule: Rule) -> Tensor:
    """Return the amount to subtract from the weights, decay included."""
    if entry.waits:
        return torch.zeros_like(w)
    change = _sgd(entry, g, rule) if isinstance(rule, SGDRule) else _adam(entry, g, rule)
    return change + rule.lr * rule.weight_decay * w if rule.decoupled else change


def _sgd(entry: Entry, g: Tensor, rule: SGDRule) -> Tensor:
    """Return the change ``lr d``: d is g, or the momentum b = mu b + (1 - tau) g, or g + mu b."""
    if rule.momentum == 0:
        return rule.lr * g
    buffer = entry.state.get("momentum_buffer")
    if buffer is None:
        buffer = entry.state["momentum_buffer"] = torch.empty_like(entry.weight)
        b = g
    else:
        b = rule.momentum * _wide(buffer) + (1 - rule.dampening) * g
    _as_real(buffer).copy_(b)
    return rule.lr * (g + rule.momentum * b if rule.nesterov else b)


def _adam(entry: Entry, g: Tensor, rule: AdamRule) -> Tensor:
    """Return ``lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)``."""
    state, (beta1, beta2) = entry.state, rule.betas
    state["step"] += 1
    t = float(state["step"])
    m = beta1 * _wide(state["exp_avg"]) + (1 - beta1) * g
    v = beta2 * _wide(state["exp_avg_sq"]) + (1 - beta2) * g.square()
    _as_real(state["exp_avg"]).copy_(m)
    _as_real(state["exp_avg_sq"]).copy_(v)
    if rule.amsgrad:
        v = torch.maximum(_wide(state["max_exp_avg_sq"]), v)
        _as_real(state["max_exp_avg_sq"]).copy_(v)
    root = (v / (1 - math.pow(beta2, t))).sqrt()
    step_size = rule.lr / (1 - math.pow(beta1, t))
    return step_size * m / (root + rule.eps)


def _centered(tensors: Sequence[Tensor], entries: Sequence[Entry]) -> list[Tensor]:
    """Return copies, centered if they have fan-in axes, with earlier rounding errors corrected."""
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
    """Return an entry's residual in the shape of the means of its vectors."""
    assert entry.residual is not None
    residual = entry.residual if mean.is_complex() else _as_real(entry.residual)
    return residual.view(mean.shape)


def _described(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """Describe the weights: their residuals depend on their type, device and shape."""
    return [(entry.weight.dtype, entry.weight.device, entry.weight.shape) for entry in entries]


def _fan_ins(entries: Sequence[Entry]) -> list[FanIn]:
    return [entry.fan_in for entry in entries if entry.fan_in is not None]


def _as_real(x: Tensor) -> Tensor:
    """View a complex tensor as pairs of reals; this adds a last axis, which is no fan-in axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def _wide(x: Tensor) -> Tensor:
    """Return the values in at least float32."""
    x = _as_real(x)
    return x.to(torch.promote_types(x.dtype, torch.float32))
