"""centralize: the gradient that the optimizer sees, the weights, and optax's combinators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import zeromean.jax
from zeromean import FanIn, ZeromeanError, ZeromeanWarning
from zeromean.jax import centralize

KEY = jax.random.key(0)
AXES = {"dense": {"kernel": FanIn((0,)), "bias": None}, "conv": FanIn((0, 1, 2), role="conv")}


def tree(seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (6, 3), "bias": (3,)}, "conv": (3, 2, 4, 5)}
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=shape), dtype),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def walk(
    optimizer: optax.GradientTransformation, steps: int = 5, dtype: Any = jnp.float32
) -> list[dict[str, Any]]:
    params, walked = tree(0, dtype), []
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(tree(1 + step, dtype), state, params)
        params = optax.apply_updates(params, updates)
        walked.append(params)
    return walked


def means(params: dict[str, Any]) -> np.ndarray:
    """The mean of each weight vector, in float64."""
    kernel, conv = (np.asarray(x, np.float64) for x in (params["dense"]["kernel"], params["conv"]))
    return np.concatenate([kernel.mean(0), conv.mean((0, 1, 2))])


def close(one: Any, other: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), one, other)


def centered(
    optimizer: optax.GradientTransformation, at: str = "gradient"
) -> optax.GradientTransformation:
    """The optimizer with centering in front of it, or behind it."""
    centering = centralize(AXES, at=at)
    return optax.chain(*((centering, optimizer) if at == "gradient" else (optimizer, centering)))


def seen(*head: optax.GradientTransformation) -> Any:
    """The gradient that an optimizer sees for tree(1), behind this head and the centering."""
    optimizer = optax.chain(*head, centralize(AXES), optax.sgd(1.0))
    params = tree(0)
    updates, _ = optimizer.update(tree(1), optimizer.init(params), params)
    return jax.tree.map(jnp.negative, updates)


def project(params: Any) -> Any:
    kernel, conv = params["dense"]["kernel"], params["conv"]
    dense = {**params["dense"], "kernel": kernel - kernel.mean(0)}
    return {"dense": dense, "conv": conv - conv.mean((0, 1, 2))}


def plus(gradients: Any, decay: float) -> Any:
    return jax.tree.map(lambda g, w: g + decay * w, gradients, tree(0))


# --- The operator ---------------------------------------------------------------------------------


@settings(max_examples=12)  # each shape is compiled
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    groups=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_the_operator_is_a_projection(shape: tuple[int, ...], groups: int, data: Any) -> None:
    shape = (shape[0] * groups, *shape[1:])
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)) | (
        {0} if groups > 1 else set()
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    once = zeromean.jax.center(x, sorted(axes), groups)
    assert once.shape == x.shape
    np.testing.assert_allclose(zeromean.jax.center(once, sorted(axes), groups), once, atol=1e-6)
    assert jnp.linalg.norm(once) <= jnp.linalg.norm(x) * (1 + 1e-6)
    parts = np.asarray(x).reshape(groups, -1, *shape[1:]) if groups > 1 else np.asarray(x)
    over = tuple(axis + 1 for axis in axes) if groups > 1 else tuple(axes)
    expected = (parts - parts.mean(over, keepdims=True)).reshape(shape)
    np.testing.assert_allclose(once, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_mean_accumulates_in_float32_and_type_is_kept(dtype: Any) -> None:
    x = jnp.full((4096, 2), 1.0, dtype).at[0].set(2.0)  # in bfloat16 a running sum sticks at 256
    centered = zeromean.jax.center(x, 0)
    assert centered.dtype == dtype
    np.testing.assert_allclose(np.asarray(centered[1], np.complex64), -1 / 4096, rtol=0.01)


def test_float16_saturates_instead_of_overflowing() -> None:
    x = jnp.array([65504.0, -65504.0, -65504.0], jnp.float16)
    assert jnp.isfinite(zeromean.jax.center(x, 0)).all()
    assert jnp.isnan(zeromean.jax.center(jnp.array([jnp.inf, 1.0]), 0)).any()


def test_padding_row_is_excluded() -> None:
    axes = {"table": FanIn((0,), role="embedding", padding_idx=1)}
    gradients = {"table": jnp.array([[1.0], [7.0], [3.0]])}
    transformation = centralize(axes, embeddings=True)
    updates, _ = transformation.update(gradients, transformation.init(gradients))
    assert updates["table"].ravel().tolist() == [-1, 7, 1]


@pytest.mark.parametrize(
    ("x", "axes", "groups", "match"),
    [
        (jnp.ones((2, 2), int), 0, 1, "an array of int32"),
        (jnp.ones((2, 2)), 2, 1, "an array of 2 dimensions"),
        (jnp.ones((2, 2)), "0", 1, "axes='0'"),
        (jnp.ones((3, 2)), 0, 2, "groups=2"),
        (jnp.ones((3, 2)), (0, 0), 1, r"axes.*\(0, 0\)"),
    ],
)
def test_center_refuses(x: jax.Array, axes: Any, groups: int, match: str) -> None:
    with pytest.raises(ZeromeanError, match=match):
        zeromean.jax.center(x, axes, groups)


# --- Position in the chain ------------------------------------------------------------------------


CLIP = optax.clip_by_global_norm(0.5)
DECAY = optax.add_decayed_weights(0.3)


def test_optimizer_sees_projected_gradient() -> None:
    close(seen(), project(tree(1)))


def test_coupled_decay_is_inside_the_projection() -> None:
    close(seen(DECAY), project(plus(tree(1), 0.3)))


def test_clipping_comes_before_centering() -> None:
    clipped, _ = CLIP.update(tree(1), CLIP.init(tree(0)))
    close(seen(CLIP), project(clipped))
    close(seen(CLIP, DECAY), project(plus(clipped, 0.3)))


def test_decoupled_decay_stays_outside() -> None:
    """SGDW: w - lr (P(g) + lambda w)."""
    optimizer = centered(optax.chain(optax.trace(0.9), DECAY, optax.scale(-1.0)))
    updates, _ = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
    close(jax.tree.map(jnp.negative, updates), plus(project(tree(1)), 0.3))


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_eq_3_sgd_keeps_the_means(at: str, supports: Callable[..., None]) -> None:
    sgd = optax.sgd(0.1, momentum=0.9, nesterov=True)
    in_front = optax.chain(DECAY, centralize(AXES), sgd)
    optimizer = in_front if at == "gradient" else centered(optax.chain(DECAY, sgd), at)
    walked = walk(optimizer)
    np.testing.assert_allclose(means(walked[-1]), means(tree(0)), atol=1e-6)
    close(walked, walk(in_front))
    supports(
        "Optimizer", "optax.sgd with coupled decay", at, "weight means kept, both places agree"
    )


KINDS = {
    "optax.adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "optax.lion": lambda: optax.lion(0.01, weight_decay=0.1),
    "optax.rmsprop": lambda: optax.rmsprop(0.01, momentum=0.9),
    "optax.adagrad": lambda: optax.adagrad(0.1),
    "optax.radam": lambda: optax.radam(0.1),
    "optax.lamb": lambda: optax.lamb(0.1, weight_decay=0.1),
    "optax.adafactor": lambda: optax.adafactor(0.1),
    "optax.novograd": lambda: optax.novograd(0.1),
    "optax.contrib.muon": lambda: optax.contrib.muon(0.1),
}


@pytest.mark.parametrize("name", KINDS)
def test_update_keeps_means_for_any_optimizer(name: str, supports: Callable[..., None]) -> None:
    walked = walk(centered(KINDS[name](), "update"), steps=3)
    np.testing.assert_allclose(means(walked[-1]), means(tree(0)), atol=2e-6)
    plain = walk(KINDS[name](), steps=3)
    assert np.abs(means(plain[-1]) - means(tree(0))).max() > 1e-4
    bias = walked[0]["dense"]["bias"], plain[0]["dense"]["bias"]
    np.testing.assert_allclose(*bias, rtol=1e-5)  # left alone
    supports("Optimizer", name, "update", "weight means kept where the plain optimizer moves them")


def drift(optimizer: optax.GradientTransformation, steps: int) -> float:
    """How far half-precision means move, over the weights' deviation."""
    params = {"kernel": jax.random.normal(KEY, (64, 8)).astype(jnp.bfloat16)}
    before = np.asarray(params["kernel"], np.float64)

    @jax.jit
    def run(params: Any, state: Any) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            params, state = carry
            gradients = {"kernel": jax.random.normal(key, (64, 8), jnp.bfloat16) + params["kernel"]}
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jax.random.split(KEY, steps))[0][0]

    after = np.asarray(run(params, optimizer.init(params))["kernel"], np.float64)
    return float(np.abs(after.mean(0) - before.mean(0)).max() / before.std())


def test_bfloat16_rounding_error_keeps_means(supports: Callable[..., None]) -> None:
    adamw = optax.adamw(1e-3, weight_decay=0.1)
    kept = drift(optax.chain(adamw, centralize({"kernel": 0}, at="update")), 1000)
    # Without the residual: the same updates, projected.
    projected = drift(optax.chain(adamw, centralize({"kernel": 0})), 1000)
    assert kept < 1e-3 < projected / 10
    supports("Number", "JAX, bfloat16 parameters", "update", "drift of the means over 1000 steps")


def test_unmoved_half_precision_vector_gets_no_correction() -> None:
    optimizer = centralize({"kernel": 0}, at="update")
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16)}
    state = optimizer.init(params)
    error = state.rounding_error[0] + jnp.float32(0.1)
    state = state._replace(rounding_error=(error,))
    deltas = {"kernel": jnp.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]], jnp.bfloat16)}
    updates, state = optimizer.update(deltas, state, params)
    assert updates["kernel"][:, 0].tolist() == [0, 0, 0]
    assert updates["kernel"][:, 1].any()
    with pytest.raises(ZeromeanError, match="needs the parameters"):
        optimizer.update(deltas, state)


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_update_and_state_types_are_kept(at: str, dtype: Any) -> None:
    optimizer = centered(optax.adamw(0.1), at)
    params = tree(0, dtype)
    first = optimizer.init(params)
    updates, second = optimizer.update(tree(1, dtype), first, params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(updates))
    types = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in (first, second)]
    assert types[0] == types[1]


# --- Options --------------------------------------------------------------------------------------


def test_layers_and_scope() -> None:
    for layers, moved in (("conv", {"conv"}), ("linear", {"kernel"}), ("all", {"conv", "kernel"})):
        updates, _ = centralize(AXES, layers=layers).update(tree(1), optax.EmptyState())
        same = {
            "kernel": bool((updates["dense"]["kernel"] == tree(1)["dense"]["kernel"]).all()),
            "conv": bool((updates["conv"] == tree(1)["conv"]).all()),
        }
        assert {name for name in same if not same[name]} == moved
    updates, _ = centralize(AXES, scope="tensor").update(tree(1), optax.EmptyState())
    kernel = tree(1)["dense"]["kernel"]
    close(updates["dense"]["kernel"], kernel - kernel.mean())


def test_axes_in_a_named_tuple() -> None:
    class Weights(NamedTuple):
        first: Any
        second: Any

    weights = Weights(jnp.ones((4, 3)), jnp.ones((2, 5)))
    plan = zeromean.jax.explain(weights, axes=Weights(0, 1))
    assert [row.axes for row in plan] == [(0,), (1,)]


def test_axes_as_numbers() -> None:
    axes = {"dense": {"kernel": -2, "bias": "no"}, "conv": (-4, 1, 2)}
    updates, _ = centralize(axes).update(tree(1), optax.EmptyState())
    close(updates, project(tree(1)))
    only, _ = centralize(axes, layers="conv").update(tree(1), optax.EmptyState())
    assert (only["dense"]["kernel"] == tree(1)["dense"]["kernel"]).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: centralize(AXES, layers="attention"), "layers="),
        (lambda: centralize(AXES, layers=print), "layers="),
        (lambda: centralize(AXES, layers=["conv"]), r'"linear"\. Use layers="all"'),
        (lambda: centralize(AXES, scope="layer"), "scope="),
        (lambda: centralize(AXES, embeddings="yes"), "embeddings="),
        (lambda: centralize(tree(0)), "axes has a ArrayImpl at conv"),
        (lambda: centralize({"a": True}), "axes has a bool at a"),
        (lambda: centralize({"a.b": 0, "a": {"b": 1}}), "two leaves with the name 'a.b'"),
        (lambda: centralize(AXES, at="backward"), "at="),
        (
            lambda: centralize(AXES).update({"other": jnp.ones(2)}, optax.EmptyState()),
            "no entry for the parameter 'other'",
        ),
        (
            lambda: centralize({"a": 2}).update({"a": jnp.ones((2, 2))}, optax.EmptyState()),
            r"'a': axes=\(2,\) is not an axis, or a tuple of axes, of an array of 2 dimensions",
        ),
        (
            lambda: centralize({"a": (0, -2)}).update({"a": jnp.ones((2, 2))}, optax.EmptyState()),
            r"'a': FanIn\(axes=\(0, 0\)\) is not a tuple of different axes",
        ),
        (lambda: zeromean.jax.fan_in({}), "contains no arrays"),
        (
            lambda: zeromean.jax.fan_in(linen.Dropout(0.0, deterministic=True), KEY, jnp.ones(3)),
            "contains no arrays",
        ),
        (lambda: zeromean.jax.fan_in(linen.Dense(3)), "parameters of a Dense"),
        (lambda: zeromean.jax.fan_in(tree(0), KEY), "arguments of init"),
        (lambda: zeromean.jax.fan_in(tree(0)), "The 3 arrays of this dict belong to no module"),
        (lambda: zeromean.jax.explain(tree(0)), "belong to no module"),
        (
            lambda: zeromean.jax.explain(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), x=1),
            "arguments of init",
        ),
    ],
)
def test_invalid_arguments_raise(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(ZeromeanError, match=match):
        call()


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        (None, {}),
        (FanIn((0,)), {"layers": "conv"}),
        (FanIn((0,), role="conv"), {"layers": "linear"}),
        (FanIn((0,), role="embedding"), {}),
    ],
)
def test_nothing_centered_warns(axes: Any, options: dict[str, Any]) -> None:
    with pytest.warns(ZeromeanWarning, match="nothing is centered") as caught:
        centralize({"kernel": axes}, **options)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("fan_in", [FanIn((2,)), FanIn((0,), groups=2)], ids=str)
def test_axes_that_do_not_fit_the_shape_raise(fan_in: FanIn) -> None:
    params = {"w": jnp.ones((3, 2))}
    with pytest.raises(ZeromeanError, match=r"'w': axes .* do not fit its shape \(3, 2\)"):
        centralize({"w": fan_in}).update(params, optax.EmptyState())


# --- optax, Flax and Equinox ----------------------------------------------------------------------


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_no_recompilation_between_steps(at: str, supports: Callable[..., None]) -> None:
    optimizer = centered(optax.adamw(optax.cosine_decay_schedule(0.1, 9)), at)
    update = jax.jit(optimizer.update)
    params = tree(0)
    state = jax.jit(optimizer.init)(params)
    for step in range(4):
        updates, state = update(tree(step), state, params)
        params = jax.jit(optax.apply_updates)(params, updates)
    assert update._cache_size() == 1
    supports("Driver", "optax under jax.jit", at, "compiled once for all steps")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_multi_steps(at: str, supports: Callable[..., None]) -> None:
    """The mean of the gradients of k batches, centered once, or each: P is linear."""
    inside = optax.MultiSteps(centered(optax.adam(0.1), at), 2)
    outside = centered(optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(), at)
    walked = walk(inside.gradient_transformation(), 4)
    close(walked, walk(outside, 4))
    plain = centered(optax.adam(0.1), at)
    params = tree(0)
    state = plain.init(params)
    for step in (1, 3):
        both = jax.tree.map(lambda a, b: (a + b) / 2, tree(step), tree(step + 1))
        updates, state = plain.update(both, state, params)
        params = optax.apply_updates(params, updates)
    close(walked[-1], params)
    supports("Driver", "optax.MultiSteps", at, "inside and outside, against one step on the mean")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_multi_transform(at: str, supports: Callable[..., None]) -> None:
    """Each part of the tree under its own optimizer, one of them centered."""
    labels = {"dense": "adam", "conv": "sgd"}
    transforms = {
        "adam": centered(optax.adam(0.1), at),
        "sgd": optax.sgd(0.1),
    }
    walked = walk(optax.multi_transform(transforms, labels), 3)
    close([w["conv"] for w in walked], [w["conv"] for w in walk(optax.sgd(0.1), 3)])
    alone = walk(centered(optax.adam(0.1), at), 3)
    close([w["dense"] for w in walked], [w["dense"] for w in alone])
    both = optax.multi_transform({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, labels)
    close([w["dense"] for w in walk(centered(both, at), 3)], [w["dense"] for w in alone])
    supports("Driver", "optax.multi_transform", at, "against each part under its own optimizer")


def test_other_optax_wrappers() -> None:
    injected = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
    adamw = optax.adamw(0.1)
    close(walk(centered(injected)), walk(centered(adamw)), atol=1e-5)
    at_update = centered(adamw, "update")
    careful = walk(optax.apply_if_finite(at_update, 3), dtype=jnp.bfloat16)
    close(careful, walk(at_update, dtype=jnp.bfloat16))
    polyak = optax.polyak_sgd()  # takes extra arguments
    with_value, params = centered(polyak), tree(0)
    updates, _ = with_value.update(tree(1), with_value.init(params), params, value=1.0)
    expected, _ = polyak.update(project(tree(1)), polyak.init(params), params, value=1.0)
    close(updates, expected)


def test_masked_parameters_are_matched_by_name() -> None:
    mask = {"dense": {"kernel": True, "bias": False}, "conv": False}
    optimizer = optax.masked(centralize(AXES), mask)
    updates, _ = optimizer.update(tree(1), optimizer.init(tree(0)))
    expected = {**tree(1), "dense": project(tree(1))["dense"]}
    close(updates, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_absent_updates_stay_absent(dtype: Any) -> None:
    """optax leaves a parameter unchanged if its update is None."""
    optimizer = centered(optax.sgd(0.1), "update")
    params = tree(0, dtype)
    some = {**tree(1, dtype), "conv": None}
    start = optimizer.init(params)
    updates, state = optimizer.update(some, start, params)
    assert updates["conv"] is None
    assert jax.tree.structure(state) == jax.tree.structure(start)
    assert jnp.abs(updates["dense"]["kernel"].mean(0)).max() < 0.01


def test_nnx_optimizer(supports: Callable[..., None]) -> None:
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    axes = zeromean.jax.fan_in(model)
    optimizer = nnx.Optimizer(
        model, optax.chain(optax.adamw(0.1), centralize(axes, at="update")), wrt=nnx.Param
    )
    before, start = model.kernel[...].mean(0), model.kernel[...]

    @nnx.jit
    def train(model: nnx.Linear, optimizer: nnx.Optimizer) -> None:
        gradients = nnx.grad(lambda model: (model(jnp.eye(4)[:2]) ** 2).sum())(model)
        optimizer.update(model, gradients)

    for _ in range(3):
        train(model, optimizer)
    np.testing.assert_allclose(model.kernel[...].mean(0), before, atol=1e-6)
    assert (model.kernel[...] != start).any()
    supports("Driver", "flax.nnx.Optimizer", "update", "weight means kept over jitted steps")


def test_equinox_training(supports: Callable[..., None]) -> None:
    model = eqx.nn.MLP(4, 3, 5, 2, key=KEY)
    optimizer = optax.chain(optax.adamw(0.1), centralize(zeromean.jax.fan_in(model), at="update"))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def train(model: eqx.Module, state: Any) -> Any:
        gradients = eqx.filter_grad(lambda model: (jax.vmap(model)(jnp.eye(4)) ** 2).sum())(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(gradients, state, params)
        return eqx.apply_updates(model, updates), state

    trained = model
    for _ in range(3):
        trained, state = train(trained, state)
    for old, new in zip(model.layers, trained.layers, strict=True):
        np.testing.assert_allclose(new.weight.mean(1), old.weight.mean(1), atol=1e-6)
        assert (new.weight != old.weight).any()
    supports("Driver", "Equinox, filter_grad", "update", "weight means kept over jitted steps")


class Boxed(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = linen.with_partitioning(linen.initializers.lecun_normal(), (None, "model"))
        return linen.Dense(3, kernel_init=init)(x)


def test_boxed_linen_parameters_match_by_name() -> None:
    model, x = Boxed(), jnp.ones((2, 4))
    axes = zeromean.jax.fan_in(model, KEY, x)
    params = model.init(KEY, x)["params"]
    for tree_ in (params, linen.meta.unbox(params)):
        updates, _ = centralize(axes).update(tree_, optax.EmptyState())
        kernel = jax.tree.leaves(updates["Dense_0"]["kernel"])[0]
        np.testing.assert_allclose(kernel.mean(0), 0, atol=1e-6)
