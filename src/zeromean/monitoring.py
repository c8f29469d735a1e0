"""``monitor``: measures per layer what centering does during training."""

from __future__ import annotations

from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean import fsdp1
from zeromean.centralization.centering import CenteredParameter, Centering
from zeromean.centralization.centralize import centering_of
from zeromean.centralization.validate import check_subjects
from zeromean.errors import ZeromeanError, warn
from zeromean.gc_options import GCOptions
from zeromean.measurement.backward import RemovedMeans
from zeromean.measurement.observer import StepObserver, watch_backward
from zeromean.measurement.sample import LayerStatistics, Sample, warn_of_vanished
from zeromean.measurement.statistics import StepMeasurement, means_of
from zeromean.measurement.writers import Destination, Writer, writers_to
from zeromean.tables import amount

__all__ = ["LayerStatistics", "Monitor", "Sample", "monitor"]


def __dir__() -> list[str]:
    return sorted(__all__)


def monitor(
    optimizer: Optimizer,
    model: nn.Module,
    every: int = 50,
    *,
    to: Destination | list[Destination],
    first_step: int = 0,
) -> Monitor:
    r"""Measure during training what centering removes and how the weights' means move.

    A sample holds for each layer the gradient's norm, largest entry and mean before and after
    centering, the share :math:`1 - \|P g\|^2 / \|g\|^2` of its energy that centering removes, the
    weight vectors' means and their drift from the start, and :math:`\|\Delta w\|/\|w\|`: see
    :class:`zeromean.monitoring.LayerStatistics`. Between samples a step costs one comparison.

    The optimizer may be centralized at any place, before or after this call, be a drop-in of
    ``zeromean.optim``, or neither; then the numbers show what centering would do. Under
    DistributedDataParallel, FSDP2 and tensor parallelism the numbers are those of whole tensors;
    each rank calls this, and rank 0 writes. A ``GradScaler``'s scale is divided out, and a step
    that it skips is not sampled; the next step is. A warning appears once if centering turns more
    than 1 % of a layer's nonzero gradient entries into zeros, which happens if they differ from
    their mean by less than rounding.

    Args:
        optimizer: Optimizer whose steps are sampled.
        model: Model whose parameters it updates, wrapped as it is trained.
        every: Number of steps between samples (default 50); the first step is sampled too.
        to: Function of a :class:`zeromean.monitoring.Sample`; or a path that ends in ``.csv`` or
            ``.jsonl``, to which samples are appended; or a list of these.
        first_step: Number of the next step, for a resumed run (default 0).

    Returns:
        A :class:`zeromean.monitoring.Monitor`. ``remove()`` ends it; ``last`` is the last sample.

    Raises:
        ZeromeanError: ``every`` is below 1, ``to`` is neither a function nor such a path, or the
            optimizer and the model do not belong together or are unsupported, such as FSDP1.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> samples = []
        >>> monitor = zeromean.monitor(optimizer, model, every=1, to=samples.append)
        >>> model(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
        >>> optimizer.step()
        >>> layer = samples[0].layers[0]
        >>> print(f"{layer.name}: {layer.removed:.2f} of the gradient is its mean")
        weight: 0.86 of the gradient is its mean

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Figs. 3 and 4.
    """
    optimizer = check_subjects(optimizer, model)
    if not isinstance(model, nn.Module):
        raise ZeromeanError("the model is missing", "Call monitor(optimizer, model, to=...)")
    for name, number, least in (("every", every, 1), ("first_step", first_step, 0)):
        if not isinstance(number, int) or number < least:
            raise ZeromeanError(
                f"{name}={number!r} is not a whole number of at least {least}", f"Change {name}"
            )
    if any(map(fsdp1.is_flat, model.parameters())):
        raise ZeromeanError(
            "FullyShardedDataParallel (FSDP1) flattens parameters, so that they have no rows",
            "Shard with fully_shard (FSDP2)",
        )
    return Monitor(optimizer, model, every, first_step, writers_to(to))


class Monitor:
    """The sampling started by :func:`zeromean.monitor`; also a context manager.

    ``last`` is the last :class:`Sample` on every rank, or None before the first.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        every: int,
        first_step: int,
        writers: list[Writer],
    ) -> None:
        self.last: Sample | None = None
        self._model = model
        self._every = every
        self._step = self._next = first_step
        self._writers = writers
        self._optimizer = ref(optimizer)
        self._name = type(optimizer).__name__
        self._plain = Centering(optimizer, model, GCOptions())
        if not (centering_of(optimizer) or self._plain).plan.centered:
            warn(
                "Nothing of this optimizer is or would be centered, so samples hold no layer."
                " Print zeromean.explain(model) to see why for each parameter."
            )
        self._removed = RemovedMeans(model)
        self._measurement: StepMeasurement | None = None
        self._at: str | None = None
        self._warned = False
        self._start: dict[Tensor, Tensor] = {}
        self._record_start(optimizer)
        self._observer = StepObserver(optimizer, self._begin, self._see_gradients, self._end)
        watch_backward(optimizer, self._removed.add, True)

    def remove(self) -> None:
        """Stop sampling. A second call does nothing."""
        self._observer.remove()
        optimizer = self._optimizer()
        if optimizer is not None:
            watch_backward(optimizer, self._removed.add, False)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        last = "no sample yet" if self.last is None else f"last sample at step {self.last.step}"
        return f"Monitor({self._name}, every {amount(self._every, 'step')}, {last})"

    @torch.no_grad()
    def _begin(self, optimizer: Optimizer) -> bool:
        if self._step != self._next or _is_skipped(optimizer):
            return False
        self._record_start(optimizer)
        centering = centering_of(optimizer)
        self._at = centering.options.at if centering else None
        self._measurement = StepMeasurement(self._centered(optimizer))
        return True

    @torch.no_grad()
    def _see_gradients(self, optimizer: Optimizer) -> None:
        assert self._measurement is not None
        removed = None
        if self._at == "backward":
            centered = [one.parameter for one in self._centered(optimizer)]
            removed = self._removed.collect({one: self._start[one] for one in centered})
        scale = getattr(optimizer, "grad_scale", None)
        self._measurement.measure_gradients(scale, removed)

    @torch.no_grad()
    def _end(self, optimizer: Optimizer, observed: bool) -> None:
        number, self._step = self._step, self._step + 1
        if observed:
            self._next += self._every
        elif number == self._next:
            self._next += 1  # the scaler skipped it
        is_next = self._step == self._next
        if is_next or observed:
            watch_backward(optimizer, self._removed.add, is_next)
        if not observed:
            return
        measurement, self._measurement = self._measurement, None
        assert measurement is not None
        plan = (centering_of(optimizer) or self._plain).plan
        # The optimizer may hold parameters of other models too.
        names = {id(row.parameter): row.name for row in plan}
        names |= {id(parameter): name for name, parameter in self._model.named_parameters()}
        layers = measurement.finish(names, self._start)
        self.last = Sample(number, self._name, self._at, layers)
        # Last, because writers and warnings may raise.
        if not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0:
            for write in self._writers:
                write(self.last)
            if not self._warned:
                shares = {layer.name: layer.vanished for layer in layers}
                self._warned = warn_of_vanished(self._at, shares)

    def _record_start(self, optimizer: Optimizer) -> None:
        new = [one for one in self._centered(optimizer) if one.parameter not in self._start]
        for one, means in zip(new, means_of(new), strict=True):
            self._start[one.parameter] = means

    def _centered(self, optimizer: Optimizer) -> list[CenteredParameter]:
        """Return the parameters that are centered, or would be by the defaults."""
        return (centering_of(optimizer) or self._plain).parameters(optimizer)


def _is_skipped(optimizer: Optimizer) -> bool:
    """Return whether a gradient scaler found an overflow, so that a fused step does nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
