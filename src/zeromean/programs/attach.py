"""Centralize each optimizer of this process at its first step, and observe its steps.

The boot file calls :func:`install` when torch has been imported. The rest of zeromean is imported
at the first step of an optimizer.
"""

from __future__ import annotations

import hashlib
import math
import traceback
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from zeromean.eager import eager
from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.programs.options import Options
from zeromean.programs.record import REACHED, OptimizerRecord, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from zeromean.centralization.centering import CenteredParameter
    from zeromean.centralization.centralize import Handle
    from zeromean.centralization.optimizer_traits import OptimizerTraits

    Check = Callable[[OptimizerRecord, Optimizer, list[CenteredParameter], list[Tensor]], None]

# Exit code of a program that is stopped because an optimizer cannot be centralized.
REFUSED = 3
# A step may change the mean of a weight vector by this many rounding steps of the largest weight.
WEIGHT_ROUNDING_STEPS = 4
# The mean of a gradient may be this many rounding steps of its largest entry.
GRADIENT_ROUNDING_STEPS = 16
_SGD = "torch.optim.sgd.SGD"


def install(options: str) -> None:
    """Observe every optimizer of this process from its first step on.

    Args:
        options: Options as text, see :class:`zeromean.programs.options.Options`.
    """
    attachment = Attachment(Options.loads(options))

    @eager
    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        attachment.before_step(optimizer)

    @eager
    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        attachment.after_step(optimizer)

    register_optimizer_step_pre_hook(before_step)
    register_optimizer_step_post_hook(after_step)


class Attachment:
    """Centralizes and observes the optimizers of this process.

    Args:
        options: Options of ``zeromean run``.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._recorder = Recorder(options.records)
        self._observed: weakref.WeakKeyDictionary[Optimizer, Observed] = weakref.WeakKeyDictionary()
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def before_step(self, optimizer: Optimizer) -> None:
        """Centralize an optimizer before its first step, and prepare the check of this step."""
        observed = self._observed.get(optimizer)
        if observed is None:
            observed = self._observed[optimizer] = self._reach(optimizer)
            self._recorder.add(observed.entry)
            weakref.finalize(optimizer, self._recorder.retire, observed.entry).atexit = False
        try:
            observed.before_step(optimizer)
        except Exception as error:
            self._record_error(error)

    def after_step(self, optimizer: Optimizer) -> None:
        """Count and check the step."""
        observed = self._observed.get(optimizer)
        if observed is None:
            return
        try:
            counted = observed.after_step(optimizer)
        except Exception as error:
            self._record_error(error)
            return
        if counted and _is_power_of_ten(observed.entry.steps):
            self._recorder.write()

    def _reach(self, optimizer: Optimizer) -> Observed:
        entry = OptimizerRecord(type(optimizer).__name__, "plain", step="torch's own")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        entry.parameters = len(parameters)
        shaped = [p for p in parameters if not is_lazy(p)]
        entry.entries = sum(p.numel() for p in shaped)
        record = self._recorder.record
        if not record.weights:
            record.weights = bits_hash(shaped)
            gradients = [p.grad for p in parameters if p.grad is not None]
            record.gradient = bits_hash(gradients) if gradients else ""  # of a closure, unknown
        try:
            return self._centralize(optimizer, parameters, entry)
        except ZeromeanError as error:
            entry.state, entry.reason = "refused", self._in_words(error)
        except Exception as error:
            self._record_error(error)
            entry.state, entry.reason = "refused", f"{type(error).__name__}: {error}"
        if not self._options.skip_refused:
            self._stop(entry)
        return Observed(entry)

    def _centralize(
        self, optimizer: Optimizer, parameters: list[Tensor], entry: OptimizerRecord
    ) -> Observed:
        from zeromean.centralization.centralize import handle_of
        from zeromean.centralization.explain import explain
        from zeromean.centralization.optimizer_traits import is_drop_in, traits_of, unwrap
        from zeromean.centralization.validate import inner_optimizers
        from zeromean.centralization.zscore import standardize_gradients
        from zeromean.class_lookup import is_a
        from zeromean.programs.find_model import find_model

        inner = next((found for _, found in inner_optimizers(optimizer)), None)
        stepped = unwrap(optimizer)
        reached = stepped is not optimizer and stepped in self._observed
        if not reached and (
            handle_of(optimizer) is not None
            or is_drop_in(optimizer)
            or (inner is not None and handle_of(stepped) is not None)
        ):
            entry.state = "already centralized"
            return Observed(entry)
        if self._options.method == "plain":
            itself = traits_of(optimizer).centers_itself(optimizer)
            if itself:
                entry.notes = [
                    f"plain is not plain: {entry.optimizer} centers by itself ({itself})"
                ]
            if not self._options.rehearse:
                return Observed(entry)
        if reached or (inner is not None and inner is not stepped):
            through = stepped if reached else inner
            entry.state = "left alone"
            entry.reason = f"it steps through {type(through).__name__}, which {REACHED}"
            return Observed(entry)
        for outer in list(self._observed):
            if outer is not optimizer and unwrap(outer) is optimizer:
                entry.state = "left alone"
                entry.reason = f"{type(outer).__name__}, which makes its step, {REACHED}"
                return Observed(entry)
        held = {id(parameter) for parameter in parameters}
        found = find_model(parameters, list(self._models))
        if found.model is None:
            entry.state, entry.reason = "left alone", found.reason
            return Observed(entry)
        self._models.add(found.model)
        options = self._options
        if options.method == "zscore":
            standardize_gradients(optimizer, found.model)
            entry.state, entry.at = "centered", "zscore"
            rows = [row for row in explain(found.model).centered if id(row.parameter) in held]
            entry.centered = len(rows)
            entry.centered_entries = sum(row.parameter.numel() for row in rows)
            return Observed(entry)
        # A warning would change the output of the program, or end it.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ZeromeanWarning)
            if options.method == "plain":
                for at, layers, scope in options.rehearse:
                    self._call_centralize(optimizer, found.model, at, layers, scope).remove()
                return Observed(entry)
            handle = self._call_centralize(
                optimizer, found.model, options.at, options.layers, options.scope
            )
        notes = [str(w.message) for w in caught if issubclass(w.category, ZeromeanWarning)]
        entry.notes = [*found.conflicts, *notes]
        centered = [target.parameter for target in handle.centering.parameters(optimizer)]
        entry.state, entry.at = "centered", f"at={options.at}"
        entry.centered = len(centered)
        entry.centered_entries = sum(parameter.numel() for parameter in centered)
        if options.at == "update" or is_a(type(unwrap(optimizer)), _SGD):
            return Observed(entry, handle, check_weights)
        return Observed(entry, handle, GradientCheck(optimizer, handle.centering.traits))

    def _call_centralize(
        self, optimizer: Optimizer, model: nn.Module, at: Any, layers: Any, scope: Any
    ) -> Handle:
        from zeromean.centralization.centralize import centralize

        return centralize(
            optimizer,
            model,
            at=at,
            layers=layers,
            embeddings=self._options.embeddings,
            scope=scope,
            weight_decay=self._options.weight_decay,
        )

    def _in_words(self, error: ZeromeanError) -> str:
        if "weight_decay=" in str(error) and "decoupled" in str(error.fix):
            return f"{error.problem}. Use --weight-decay coupled or --weight-decay decoupled"
        return str(error).rstrip(".")

    def _stop(self, entry: OptimizerRecord) -> None:
        """End the program before an optimizer steps that cannot be centralized."""
        self._recorder.record.refused = f"{entry.optimizer} refused: {entry.reason}"
        self._recorder.add(entry)
        self._recorder.write()
        raise SystemExit(REFUSED)

    def _record_error(self, error: Exception) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
        if text not in self._recorder.record.errors:
            self._recorder.record.errors.append(text)
            self._recorder.write()


class Observed:
    """An optimizer whose steps are counted, and checked if it is centralized.

    Every step up to the tenth is checked, then steps 20, 30, ..., 100, 200, ...: later steps cost
    nothing.

    Args:
        entry: Record of the optimizer.
        handle: Handle of the centralized optimizer, or None.
        check: Function that checks a step, or None.
    """

    def __init__(
        self, entry: OptimizerRecord, handle: Handle | None = None, check: Check | None = None
    ) -> None:
        self.entry = entry
        self._handle = handle
        self._check = check
        self._stepping = False
        self._before: list[Tensor] | None = None

    @torch.no_grad()
    def before_step(self, optimizer: Optimizer) -> None:
        """Store the means of the weights if this step is to be checked."""
        self._stepping = True
        self._before = None
        if self._check is not None and _is_round(self.entry.steps + 1):
            self._before = _means(self._targets(optimizer))

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> bool:
        """Count the step and check it; a nested step of the same optimizer is not counted."""
        if not self._stepping:
            return False
        self._stepping = False
        self.entry.steps += 1
        if self.entry.steps == 1 and self._handle is not None:
            self.entry.step = self._handle.way.name
        if self._check is not None and self._before is not None:
            targets = self._targets(optimizer)
            if len(targets) == len(self._before):
                self._check(self.entry, optimizer, targets, self._before)
            self._before = None
        return True

    def _targets(self, optimizer: Optimizer) -> list[CenteredParameter]:
        assert self._handle is not None
        return self._handle.centering.parameters(optimizer)


def check_weights(
    entry: OptimizerRecord,
    optimizer: Optimizer,
    targets: list[CenteredParameter],
    before: list[Tensor],
) -> None:
    """Check that a step kept the mean of each weight vector.

    Args:
        entry: Record to note the result in.
        optimizer: The optimizer that made the step.
        targets: The centered parameters.
        before: The means before the step.
    """
    after = _means(targets)
    for (_, parameter, _), old, new in zip(targets, before, after, strict=True):
        largest, eps = _size(parameter)
        if not math.isfinite(largest):  # The training diverged, which says nothing about GC.
            continue
        change = _largest(new - old)
        entry.mean_change = max(entry.mean_change or 0.0, change)
        _note(entry, change <= WEIGHT_ROUNDING_STEPS * eps * largest)


class GradientCheck:
    """Checks that the gradient which an adaptive optimizer saw was zero-mean.

    It reads the running mean of the gradient in the optimizer's state, whichever way the step was
    made. Without a running mean, it reads ``.grad``, but only after a step in two passes.

    Args:
        optimizer: The optimizer, before its first observed step.
        traits: Traits of the optimizer's class.
    """

    def __init__(self, optimizer: Optimizer, traits: OptimizerTraits) -> None:
        from zeromean.centralization.optimizer_traits import unwrap

        self._traits = traits
        # A running mean of gradients that were not centered yet is not zero-mean.
        self._keys = () if unwrap(optimizer).state else traits.momentum[:1]

    def __call__(
        self,
        entry: OptimizerRecord,
        optimizer: Optimizer,
        targets: list[CenteredParameter],
        before: list[Tensor],
    ) -> None:
        from zeromean.centralization.optimizer_traits import unwrap
        from zeromean.projection import vector_means

        state_of = unwrap(optimizer).state
        decays = [self._traits.coupled_decay(optimizer, g) for g in optimizer.param_groups]
        for (group, parameter, fan_in), old in zip(targets, before, strict=True):
            seen = next((state_of.get(parameter, {}).get(key) for key in self._keys), None)
            decay = 0.0
            if seen is None and entry.step == "two passes":  # which write into .grad
                seen, decay = parameter.grad, decays[group]
            if seen is None or seen.layout is not torch.strided or not seen.is_floating_point():
                continue
            (mean,) = vector_means([seen], [fan_in])
            largest, eps = _size(seen)
            if not math.isfinite(largest):
                continue
            # Some optimizers add the decay to .grad itself.
            value = min(_largest(mean), _largest(mean + decay * old))
            if largest:
                value /= largest + abs(decay) * _size(parameter)[0]
            entry.gradient_mean = max(entry.gradient_mean or 0.0, value)
            _note(entry, value <= GRADIENT_ROUNDING_STEPS * eps)


def _note(entry: OptimizerRecord, holds: bool) -> None:
    entry.holds = holds and entry.holds is not False


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _size(x: Tensor) -> tuple[float, float]:
    """Return the largest magnitude of an entry on this rank, and the rounding step at 1."""
    from zeromean.sharded import local_part

    local = local_part(x.detach())
    return _largest(local), torch.finfo(local.dtype).eps


@torch.no_grad()
def bits_hash(tensors: list[Any]) -> str:
    """Return a hash of the bits of tensors: equal for equal values, and computed in one pass.

    The bits of each tensor are added up as integers, so the result does not depend on the order
    of its entries.
    """
    from zeromean.sharded import local_part

    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        try:
            local = local_part(tensor.detach())
            if local.layout is not torch.strided:
                local = local.coalesce().values()
            if local.is_complex():
                local = torch.view_as_real(local)
            bits = local.view(integers[local.element_size()])
            total = int(bits.sum(dtype=torch.int64))
        except (RuntimeError, NotImplementedError, KeyError, AttributeError, TypeError):
            total = 0  # a tensor without plain memory
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} {total};".encode())
    return digest.hexdigest()


def _means(targets: list[CenteredParameter]) -> list[Tensor]:
    from zeromean.projection import vector_means

    return vector_means([t.parameter.detach() for t in targets], [t.fan_in for t in targets])


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"


def _is_round(number: int) -> bool:
    return len(str(number).strip("0")) == 1
