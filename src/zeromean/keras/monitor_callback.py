"""A Keras callback that measures per layer what centering does during training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.keras.centralized_optimizer import Centralized, public_class
from zeromean.keras.model import plan_of, unwrap
from zeromean.keras.projection import to_float32, vector_means
from zeromean.measurement.sample import LayerStatistics, Sample, share, warn_of_vanished
from zeromean.measurement.writers import Destination, writers_to
from zeromean.plan import Row


class Monitor(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is not typed
    r"""Measure during ``fit`` what centering removes and how the weights' means move.

    The samples are those of :func:`zeromean.monitor`: per layer the gradient's norm, largest entry
    and mean before and after centering, the share :math:`1 - \|P g\|^2 / \|g\|^2` of its energy
    that centering removes, the weight vectors' means and their drift since training began, and
    :math:`\|\Delta w\|/\|w\|`. The gradients of a compiled step are not accessible, so those of
    the model's loss on ``batch`` are computed, with the weights before the sampled step and without
    clipping. Measuring does not change the training. For an optimizer that is not centralized, the
    numbers show what centering would do.

    Args:
        batch: Pair ``(x, y)`` of inputs and targets for the gradients; the same in each sample.
        every: Number of batches between samples (default 50); the first batch is sampled too. With
            ``steps_per_execution``, the first execution that reaches this number is sampled as a
            whole.
        to: Function of a :class:`zeromean.monitoring.Sample`; or a path that ends in ``.csv`` or
            ``.jsonl``, to which samples are appended; or a list of these.

    Attributes:
        last: The last sample, or None before the first.

    Raises:
        ZeromeanError: ``batch`` is not a pair, ``every`` is below 1, or ``to`` is neither a
            function nor such a path.

    Example:
        >>> import keras, numpy as np, zeromean.keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> optimizer = zeromean.keras.centralize(keras.optimizers.SGD(0.1), model)
        >>> model.compile(optimizer, loss="mse")
        >>> x, y = np.eye(3), np.ones((3, 2))
        >>> samples = []
        >>> monitor = zeromean.keras.Monitor((x, y), every=10, to=samples.append)
        >>> history = model.fit(x, y, epochs=11, verbose=0, callbacks=[monitor])
        >>> [sample.step for sample in samples]
        [0, 10]
        >>> samples[1].layers[0].weight_mean_drift < 1e-6
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Figs. 3 and 4.
    """

    def __init__(
        self,
        batch: tuple[Any, Any],
        every: int = 50,
        *,
        to: Destination | list[Destination],
    ) -> None:
        super().__init__()
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ZeromeanError(
                f"batch is a {type(batch).__name__} and not a pair of inputs and targets",
                "Pass batch=(x, y)",
            )
        if not isinstance(every, int) or every < 1:
            raise ZeromeanError(
                f"every={every!r} is not a whole number of at least 1", "Change every"
            )
        self.last: Sample | None = None
        self._batch = batch
        self._every = every
        self._writers = writers_to(to)
        self._warned = False
        self._before: list[Any] | None = None  # weights before a sampled step
        self._gradients: list[Any] = []

    def __repr__(self) -> str:
        last = "no sample yet" if self.last is None else f"last sample at step {self.last.step}"
        return f"Monitor(every {self._every} batches, {last})"

    def on_train_begin(self, logs: Any = None) -> None:
        """Plan the model and record the means of its weights."""
        model = self.model
        if not model.built:
            model(self._batch[0])
        optimizer = unwrap(model.optimizer)
        # A MultiOptimizer passes each variable to one of its optimizers; some may get none.
        inner = getattr(optimizer, "optimizers", [optimizer])
        centralized = [
            one for one in inner if isinstance(one, Centralized) and one.built == optimizer.built
        ]
        self._at = " and ".join(sorted({one._at for one in centralized})) or None
        plans = [one._plan or one._planner.plan(model.trainable_variables) for one in centralized]
        rows = [row for plan in plans or [plan_of(model)] for row in plan.centered]
        self._rows = [row for row in rows if row.parameter.trainable]
        if not self._rows:
            warn(
                "Nothing of this optimizer is or would be centered, so samples hold no layer."
                " Print zeromean.keras.explain(model) to see why for each variable."
            )
        self._gradient = _gradient_function(model, [row.parameter for row in self._rows])
        self._start = [_means(row.parameter, row) for row in self._rows]
        self._step = int(optimizer._iterations)  # all batches, unlike iterations
        self._next = self._step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Before a step that is sampled, copy the weights and compute the gradients."""
        self._index = batch
        if self._step < self._next or not self._rows:
            return
        model = self.model
        self._before = [_to_numpy(row.parameter) for row in self._rows]
        scale = model.optimizer.scale_loss(ops.ones(()))
        self._gradients = [
            None if one is None else ops.convert_to_tensor(one) / ops.cast(scale, one.dtype)
            for one in self._gradient(*self._batch, scale)
        ]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """After a step that is sampled, compute the numbers and write them."""
        step, self._step = self._step, self._step + 1 + batch - self._index
        if self._before is None:
            return
        before, self._before = self._before, None
        model = self.model  # on JAX, this brings the variables up to date
        layers = tuple(
            _statistics(row, gradient, old, start)
            for row, gradient, old, start in zip(
                self._rows, self._gradients, before, self._start, strict=True
            )
            if gradient is not None
        )
        optimizer = unwrap(model.optimizer)
        kind = type(optimizer)
        if isinstance(optimizer, Centralized):
            kind = public_class(kind)
        self.last = Sample(step, kind.__name__, self._at, layers)
        self._next = step + self._every
        # Last, because writers and warnings may raise.
        for write in self._writers:
            write(self.last)
        if not self._warned:
            shares = {layer.name: layer.vanished for layer in layers}
            self._warned = warn_of_vanished(self._at, shares)


def _gradient_function(model: Any, variables: list[Any]) -> Callable[..., list[Any]]:
    """Return a function of inputs, targets and loss scale that computes the scaled gradients.

    A gradient is None if the loss does not depend on the variable. State that the model changes,
    such as moving averages and seeds, is discarded.
    """
    held = {id(variable) for variable in variables}
    others = [variable for variable in model.variables if id(variable) not in held]

    def loss(values: list[Any], state: list[Any], x: Any, y: Any, scale: Any) -> Any:
        mapping = list(zip([*variables, *others], [*values, *state], strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return model.compute_loss(x=x, y=y, y_pred=model(x, training=True)) * scale

    gradient = _differentiate(loss)
    return lambda *batch: gradient([v.value for v in variables], [v.value for v in others], *batch)


def _differentiate(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return the gradient function of a loss with respect to its first argument, a list."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(jax.grad(loss))
    if backend == "tensorflow":
        import tensorflow as tf

        def gradient(values: list[Any], *others: Any) -> Any:
            values = [tf.convert_to_tensor(value) for value in values]
            with tf.GradientTape() as tape:
                tape.watch(values)
                total = loss(values, *others)
            return tape.gradient(total, values)

    else:
        import torch

        def gradient(values: list[Any], *others: Any) -> Any:
            values = [value.detach().requires_grad_() for value in values]
            with torch.enable_grad():
                return torch.autograd.grad(loss(values, *others), values, allow_unused=True)

    return gradient


def _statistics(row: Row, gradient: Any, old: Any, start: Any) -> LayerStatistics:
    """Measure one layer after its step.

    Args:
        row: Row of the plan; its variable holds the weights after the step.
        gradient: Gradient of the step.
        old: Weights before the step.
        start: Means of the weight vectors at the start, in the shape of the weights.
    """
    whole = to_float32(gradient)
    rest = whole - vector_means(whole, _fan_in(row))
    vanished = _to_numpy(ops.cast(rest, gradient.dtype)) == 0
    g, pg, mean = _to_numpy(whole), _to_numpy(rest), _means(gradient, row)
    new, now = _to_numpy(row.parameter), _means(row.parameter, row)
    in_vectors = g.size
    if _fan_in(row).padding_idx is not None:
        in_vectors -= g.size // g.shape[0]
    return LayerStatistics(
        name=row.name,
        gradient_norm=_norm(g),
        gradient_norm_centered=_norm(pg),
        gradient_max=float(abs(g).max()),
        gradient_max_centered=float(abs(pg).max()),
        gradient_mean=float(g.mean()),
        gradient_mean_centered=float(pg.mean()),
        removed=min(share(_norm(mean), _norm(g)) ** 2, 1.0),  # above 1 only by rounding
        vanished=share(float((vanished & (g != 0)).sum()), float((g != 0).sum())),
        weight_mean=_norm(now) / math.sqrt(in_vectors),
        weight_mean_drift=_norm(now - start) / math.sqrt(in_vectors),
        update_ratio=share(_norm(new - old), _norm(old)),
    )


def _means(x: Any, row: Row) -> Any:
    """Return the mean of each weight vector, repeated to the shape of ``x``."""
    means = vector_means(ops.convert_to_tensor(x), _fan_in(row))
    return _to_numpy(ops.broadcast_to(means, x.shape))


def _fan_in(row: Row) -> FanIn:
    assert row.fan_in is not None  # the row is centered
    return row.fan_in


def _to_numpy(x: Any) -> Any:
    """Copy a tensor or variable to a numpy array of float64."""
    return ops.convert_to_numpy(to_float32(ops.convert_to_tensor(x))).astype("float64")


def _norm(x: Any) -> float:
    return math.sqrt((x * x).sum())
