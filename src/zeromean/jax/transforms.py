"""Centering as optax transformations: on its own, or at either place around an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.jax.axes import Layers, Told, told_axes, told_owners
from zeromean.jax.chains import refuse_hidden_decay, refuse_update, split
from zeromean.jax.projection import centered, shifted, vector_means
from zeromean.jax.trees import is_array
from zeromean.plan import Scope, check_option, make_plan

ScalarOrSchedule = float | Callable[[Any], Any]


def centralize(
    axes: Any,
    *,
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> optax.GradientTransformation:
    r"""Subtract from each weight vector of the incoming updates its mean: :math:`P u = u - \bar u`.

    A stateless transformation to put anywhere in an ``optax.chain``. Behind
    ``optax.add_decayed_weights`` it makes :math:`P(g + \lambda w)`, coupled decay inside the
    projection; at the end of the chain, a whole update of zero mean.

    Args:
        axes: What :func:`zeromean.jax.fan_in` returns; or a tree of your own that tells for each
            parameter a :class:`zeromean.FanIn`, an axis, a tuple of axes (negative ones count from
            the end), or None, or a reason, to leave it alone. Parameters are matched by name, so a
            part of the tree may be masked.
        layers: "all" (default); "conv", every convolution; or "linear", everything else that has
            fan-in axes. Axes told as numbers are a convolution's from four dimensions on.
        embeddings: Whether embeddings are centered too, over their tokens (default False).
        scope: "vector" (default), or "tensor", an ablation that takes the mean of the whole tensor.

    Returns:
        An ``optax.GradientTransformation``.

    Raises:
        ZeromeanError: An option has an unknown value, a leaf tells no axes; or, when updates come,
            one is not named by ``axes`` or lacks the axes told.

    Example:
        >>> import jax.numpy as jnp, zeromean.jax
        >>> transformation = zeromean.jax.centralize({"kernel": 0, "bias": None})
        >>> gradients = {"kernel": jnp.array([[1.0], [2.0], [6.0]]), "bias": jnp.array([3.0])}
        >>> updates, state = transformation.update(gradients, transformation.init(gradients))
        >>> updates["kernel"].ravel().tolist(), updates["bias"].tolist()
        ([-2.0, -1.0, 3.0], [3.0])

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, eq. 1 and 2.
    """
    targets = Targets(axes, layers, embeddings, scope)

    def project(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        values, structure = _flat(updates)
        fan_ins = targets.of(updates)
        projected = [
            value if fan_in is None else centered(value, fan_in)
            for value, fan_in in zip(values, fan_ins, strict=True)
        ]
        return jax.tree.unflatten(structure, projected)

    return optax.stateless(project)


def centralized(
    optimizer: optax.GradientTransformation,
    *,
    axes: Any,
    at: Literal["gradient", "update"] = "gradient",
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer with centering around it.

    With :math:`P u = u - \bar u` over each weight vector's fan-in axes,

    - ``at="gradient"`` lets the optimizer see :math:`P(g)`. What shapes the gradient at the head of
      its chain stays in front: clipping, as published, and coupled weight decay
      (``optax.add_decayed_weights``), so that the optimizer proper sees :math:`P(g + \lambda w)`.
      Decoupled decay, as in ``optax.adamw``, stays outside.
    - ``at="update"`` projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps its mean. For half-precision
      parameters what rounding loses of it is carried in the state, one float32 a vector.

    For SGD both agree; for adaptive methods the authors advise the second. The result is pure and
    goes wherever an optax optimizer goes: ``jit``, ``chain``, ``multi_transform``, ``MultiSteps``.

    Args:
        optimizer: Any optax optimizer.
        axes: As in :func:`centralize`.
        at: "gradient" (default) or "update".
        layers, embeddings, scope: As in :func:`centralize`.

    Returns:
        An ``optax.GradientTransformationExtraArgs``.

    Raises:
        ZeromeanError: As :func:`centralize`; ``optimizer`` is no optax transformation, hides
            coupled decay inside a wrapper, or cannot be right at this place.

    Example:
        >>> import jax, jax.numpy as jnp, optax, zeromean.jax
        >>> params = {"Dense_0": {"kernel": jnp.ones((3, 2))}}
        >>> axes = zeromean.jax.fan_in(params)
        >>> optimizer = zeromean.jax.centralized(optax.adamw(0.1), axes=axes, at="update")
        >>> gradients = {"Dense_0": {"kernel": jnp.array([[1.0, 0.0], [2.0, 1.0], [6.0, 0.0]])}}
        >>> updates, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> bool(jnp.allclose(updates["Dense_0"]["kernel"].mean(0), 0, atol=1e-7))
        True

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithms 1 and 2.
    """
    check_option("at", at, ("gradient", "update"))
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ZeromeanError(
            f"a {type(optimizer).__name__} to centralize",
            "an optax.GradientTransformation",
            "pass an optimizer such as optax.adamw(1e-3); of optax.MultiSteps, centralize the"
            " optimizer inside",
        )
    if at == "gradient":
        centering = centralize(axes, layers=layers, embeddings=embeddings, scope=scope)
        head, proper = split(optimizer)
        refuse_hidden_decay(proper)
        if head:
            return optax.chain(*head, centering, *proper)
        return optax.chain(centering, optimizer)
    refuse_update(optimizer)
    return optax.chain(optimizer, _keep_means(Targets(axes, layers, embeddings, scope)))


class Targets:
    """What is centered of the updates that come: planned from their names and shapes alone.

    Args:
        axes, layers, embeddings, scope: As in :func:`centralize`.
    """

    def __init__(self, axes: Any, layers: Layers, embeddings: bool, scope: Scope) -> None:
        make_plan([], layers=layers, embeddings=embeddings, scope=scope)  # refuses wrong options
        check_option("layers", layers, ("all", "conv", "linear"))
        self._told: dict[str, Told] = told_axes(axes)
        self._options: Any = {"layers": layers, "embeddings": embeddings, "scope": scope}
        if not any(isinstance(told, FanIn | tuple) for told in self._told.values()):
            warn("nothing is centered: explain(params, axes=axes) tells why for each parameter")

    def of(self, updates: Any) -> list[FanIn | None]:
        """The axes of each leaf of the updates, or None for those left alone."""
        rows = iter(make_plan(told_owners(updates, self._told), **self._options))
        planned = [next(rows) if is_array(leaf) else None for leaf in _flat(updates)[0]]
        return [row.fan_in if row is not None and row.centered else None for row in planned]


def _flat(tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure, None among the leaves: updates may be absent where parameters are."""
    return jax.tree.flatten(tree, is_leaf=lambda node: node is None)


class KeptMeans(NamedTuple):
    """The state of ``at="update"``.

    Args:
        lost: For each half-precision parameter that is centered, what rounding has lost of each
            vector's mean so far, in float32; None for the others.
    """

    lost: tuple[jax.Array | None, ...]


def _keep_means(targets: Targets) -> optax.GradientTransformation:
    """The last link of a chain, whose updates are what is added to the parameters."""

    def init(params: optax.Params) -> KeptMeans:
        lost = [
            jnp.zeros_like(vector_means(jnp.asarray(weight), fan_in))
            if fan_in is not None and _rounds(weight)
            else None
            for weight, fan_in in zip(_flat(params)[0], targets.of(params), strict=True)
        ]
        return KeptMeans(tuple(lost))

    def update(
        updates: optax.Updates, state: KeptMeans, params: optax.Params | None = None
    ) -> tuple[optax.Updates, KeptMeans]:
        deltas, structure = _flat(updates)
        weights = [None] * len(deltas) if params is None else _flat(params)[0]
        kept = [
            (delta, None) if fan_in is None else _keep(delta, fan_in, weight, lost)
            for delta, fan_in, weight, lost in zip(
                deltas, targets.of(updates), weights, state.lost, strict=True
            )
        ]
        lost = tuple(lost for _, lost in kept)
        return jax.tree.unflatten(structure, [delta for delta, _ in kept]), KeptMeans(lost)

    return optax.GradientTransformation(init, update)


def _keep(
    delta: jax.Array, fan_in: FanIn, weight: jax.Array | None, lost: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """``P delta``, and what is lost where adding it to the weight rounds."""
    means = vector_means(delta, fan_in)
    if lost is None:
        return shifted(delta, fan_in, -means), None
    if weight is None:
        raise ZeromeanError(
            "an update of half-precision parameters without the parameters",
            "the parameters, whose rounding is made up for",
            "call optimizer.update(gradients, state, params)",
        )
    # A vector that does not move, at a skipped step for example, owes nothing.
    moves = vector_means(jnp.abs(delta), fan_in) > 0
    projected = shifted(delta, fan_in, jnp.where(moves, lost - means, 0))
    added = _rounded(_rounded(projected, delta.dtype) + weight, weight.dtype)  # by apply_updates
    owed = vector_means(weight, fan_in) + lost - vector_means(added, fan_in)
    return projected, jnp.where(moves, owed, lost)


def _rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """``x`` in at least float32, with what ``dtype`` holds of it.

    Casting there and back would not do: XLA may leave such a pair of casts out.
    """
    kind = jnp.finfo(dtype)  # type: ignore[no-untyped-call]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.reduce_precision(wide, kind.nexp, kind.nmant)


def _rounds(weight: Any) -> bool:
    """Whether a mean is finer than these weights can hold."""
    return bool(jnp.promote_types(weight.dtype, jnp.float32) != weight.dtype)
