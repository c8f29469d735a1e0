"""Centering as an optax transformation, in front of an optimizer or behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.jax.axes import AxesOfParameter, Layers, owners_by_axes, parse_axes
from zeromean.jax.projection import add_per_vector, project, vector_means
from zeromean.jax.trees import is_array
from zeromean.plan import Scope, check_option, check_selection, make_plan, selects


def centralize(
    axes: Any,
    *,
    at: Literal["gradient", "update"] = "gradient",
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> optax.GradientTransformation:
    r"""Subtract the mean of each weight vector from the incoming updates: :math:`P u = u - \bar u`.

    It is meant for an ``optax.chain``, where its position determines what it centers.

    - ``at="gradient"``: put it in front of the optimizer, which then sees :math:`P(g)`. Clipping
      comes before it, as published. Coupled weight decay (``optax.add_decayed_weights``) comes
      before it too, so that the optimizer sees :math:`P(g + \lambda w)`; an optimizer that adds it
      itself, such as ``optax.lars``, needs a decay of 0. Decoupled decay, as in ``optax.adamw``,
      stays outside the projection.
    - ``at="update"``: put it last. It projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps its mean. For half-precision
      parameters the state carries the rounding error of the means, one float32 per vector. Do not
      use it behind ``schedule_free`` or a line search, which maintain iterates that it cannot see.

    For SGD both agree; for adaptive methods the authors advise the second. The transformation is
    pure and works under ``jit``, ``masked``, ``multi_transform`` and ``MultiSteps``.

    Args:
        axes: Fan-in axes of the parameters, either as the result of :func:`zeromean.jax.fan_in` or
            as a tree. A leaf of that tree is a :class:`zeromean.FanIn`, an axis or a tuple of axes
            (negative ones count from the end); or None or a reason, as text, to leave the parameter
            alone. Parameters are matched by name, so a part of the tree may be masked.
        at: Quantity to center, "gradient" (default) or "update"; see above.
        layers: Selection of layers: "all" (default); "conv", every convolution; or "linear", every
            other parameter with fan-in axes. A parameter whose axes are given as numbers counts as
            a convolution if it has at least four dimensions.
        embeddings: Whether to center embeddings too, over their tokens (default False). Leave out
            a matrix that is the output layer too, unless the ``attend`` of a Linen model uses it.
        scope: Entries that share a mean: "vector" (default), or "tensor", an ablation that
            subtracts the mean of the whole tensor.

    Returns:
        An ``optax.GradientTransformation``.

    Raises:
        ZeromeanError: An option has an unknown value or a leaf of ``axes`` does not describe axes;
            or, at the first update, a parameter has no entry in ``axes`` or lacks the given axes.

    Example:
        >>> import jax.numpy as jnp, optax, zeromean.jax
        >>> params = {"kernel": jnp.ones((3, 1)), "bias": jnp.zeros(1)}
        >>> gradients = {"kernel": jnp.array([[1.0], [2.0], [6.0]]), "bias": jnp.array([3.0])}
        >>> centering = zeromean.jax.centralize({"kernel": 0, "bias": None})
        >>> optimizer = optax.chain(optax.add_decayed_weights(0.1), centering, optax.sgd(1.0))
        >>> updates, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> updates["kernel"].ravel().round(6).tolist(), updates["bias"].tolist()
        ([2.0, 1.0, -3.0], [-3.0])

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 1 and 2, Algorithms 1 and 2.
    """
    check_option("at", at, ("gradient", "update"))
    check_option("layers", layers, ("all", "conv", "linear"))  # a predicate would need modules
    check_selection(layers, embeddings, scope)
    known = parse_axes(axes)
    if not any(_may_be_centered(given, layers, embeddings) for given in known.values()):
        warn(
            "nothing is centered; explain(params, axes=axes) with the same options shows why for"
            " each parameter"
        )

    def fan_ins_of(updates: Any) -> list[FanIn | None]:
        rows = iter(
            make_plan(
                owners_by_axes(updates, known), layers=layers, embeddings=embeddings, scope=scope
            )
        )
        planned = [next(rows) if is_array(leaf) else None for leaf in _flatten(updates)[0]]
        return [row.fan_in if row is not None and row.centered else None for row in planned]

    return _center_gradients(fan_ins_of) if at == "gradient" else _keep_means(fan_ins_of)


def _may_be_centered(given: AxesOfParameter, layers: Layers, embeddings: bool) -> bool:
    """Return whether a parameter with these axes may be centered; its shape is not known yet."""
    if not isinstance(given, FanIn):
        return isinstance(given, tuple)
    return selects(layers, given) and (embeddings or given.role != "embedding")


# A function from updates to the axes of each leaf, which are None for a leaf that is left alone.
FanInsOf = Callable[[Any], list[FanIn | None]]


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return leaves and structure; None is a leaf, because optax allows absent updates."""
    return jax.tree.flatten(tree, is_leaf=lambda node: node is None)


def _center_gradients(fan_ins_of: FanInsOf) -> optax.GradientTransformation:
    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        values, structure = _flatten(updates)
        pairs = zip(values, fan_ins_of(updates), strict=True)
        return jax.tree.unflatten(
            structure, [x if fan_in is None else project(x, fan_in) for x, fan_in in pairs]
        )

    return optax.stateless(update)


class MeanKeeperState(NamedTuple):
    """The state of ``at="update"``.

    Args:
        rounding_error: For each centered half-precision parameter, the rounding error of the mean
            of each vector so far, in float32; None for the others.
    """

    rounding_error: tuple[jax.Array | None, ...]


def _keep_means(fan_ins_of: FanInsOf) -> optax.GradientTransformation:
    def init(params: optax.Params) -> MeanKeeperState:
        return MeanKeeperState(
            tuple(
                jnp.zeros_like(vector_means(jnp.asarray(weight), fan_in))
                if fan_in is not None and _is_half_precision(weight)
                else None
                for weight, fan_in in zip(_flatten(params)[0], fan_ins_of(params), strict=True)
            )
        )

    def update(
        updates: optax.Updates, state: MeanKeeperState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MeanKeeperState]:
        deltas, structure = _flatten(updates)
        weights = [None] * len(deltas) if params is None else _flatten(params)[0]
        columns = (deltas, fan_ins_of(updates), weights, state.rounding_error)
        kept = [
            (delta, error) if fan_in is None else _keep_mean(delta, fan_in, weight, error)
            for delta, fan_in, weight, error in zip(*columns, strict=True)
        ]
        errors = tuple(error for _, error in kept)
        return jax.tree.unflatten(structure, [delta for delta, _ in kept]), MeanKeeperState(errors)

    return optax.GradientTransformation(init, update)


def _keep_mean(
    delta: jax.Array, fan_in: FanIn, weight: jax.Array | None, error: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Return ``P delta``, corrected for past rounding, and the new rounding error."""
    if error is None:
        return project(delta, fan_in), None
    if weight is None:
        raise ZeromeanError(
            'at="update" with half-precision parameters needs the parameters, to correct their'
            " rounding",
            "Call optimizer.update(gradients, state, params)",
        )
    # A vector that does not move, at a skipped step for example, gets no correction.
    moves = vector_means(jnp.abs(delta), fan_in) > 0
    correction = jnp.where(moves, error - vector_means(delta, fan_in), 0)
    projected = add_per_vector(delta, fan_in, correction)
    # What apply_updates will compute.
    moved = _round_to(_round_to(projected, delta.dtype) + weight, weight.dtype)
    new_error = vector_means(weight, fan_in) + error - vector_means(moved, fan_in)
    return projected, jnp.where(moves, new_error, error)


def _round_to(x: jax.Array, dtype: Any) -> jax.Array:
    """Round ``x`` to the precision of ``dtype``, in at least float32.

    A cast to ``dtype`` and back would not be reliable, because XLA may remove both.
    """
    kind = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.reduce_precision(wide, kind.nexp, kind.nmant)


def _is_half_precision(weight: Any) -> bool:
    return bool(jnp.promote_types(weight.dtype, jnp.float32) != weight.dtype)
