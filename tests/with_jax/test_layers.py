"""Fan-in axes of the layers of Flax, Equinox and Haiku, tested against their Jacobians."""

# ruff: noqa: PLW0108, Haiku creates modules inside the transformed function

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import zeromean.fan_in
import zeromean.jax
from zeromean import FanIn, Plan, ZeromeanError
from zeromean.jax.fan_in_rules import shift_stacked

KEY = jax.random.key(0)


def positive(*shape: int) -> Any:
    return np.random.default_rng(0).uniform(0.1, 1.1, shape).astype(np.float32)


def assert_axes_match_jacobian(
    plan: Plan,
    name: str,
    outputs_of: Callable[[jax.Array], jax.Array],
    kernel: jax.Array,
    positions: tuple[int, ...],
) -> None:
    """A weight vector holds the entries that one output unit depends on; sum over ``positions``."""
    (row,) = (row for row in plan if row.name == name)
    assert row.centered
    jacobian = jax.jacobian(lambda kernel: outputs_of(kernel).sum(positions).ravel())
    units = jax.jit(jacobian)(kernel)
    vectors = np.asarray(units) != 0
    assert vectors.sum(0).min() == vectors.sum(0).max()  # each entry is used as often
    gradient = np.random.default_rng(0).normal(size=kernel.shape)
    expected = gradient.copy()
    for vector in vectors:
        expected[vector] = gradient[vector] - gradient[vector].mean()
        assert row.fan_in is not None
        assert row.fan_in.size(row.shape) == vector.sum()
    centered = gradient - gradient.mean(row.axes, keepdims=True)
    np.testing.assert_allclose(centered, expected)


def filled(shapes: Any) -> Any:
    """Replace abstract arrays by ones, which need no compilation."""
    return jax.tree.map(lambda one: np.ones(one.shape, one.dtype), shapes)


# layer, shape of a batch, output axes that are not units
NNX = {
    "Linear": (lambda: nnx.Linear(5, 3, rngs=nnx.Rngs(0)), (2, 5), (0,)),
    "LinearGeneral": (lambda: nnx.LinearGeneral(5, (2, 3), rngs=nnx.Rngs(0)), (4, 5), (0,)),
    "LinearGeneral, two inputs": (
        lambda: nnx.LinearGeneral((4, 5), 3, axis=(-2, -1), rngs=nnx.Rngs(0)),
        (2, 4, 5),
        (0,),
    ),
    "LinearGeneral, batch": (
        lambda: nnx.LinearGeneral(5, 3, batch_axis={0: 4}, rngs=nnx.Rngs(0)),
        (4, 2, 5),
        (1,),
    ),
    "Einsum": (lambda: nnx.Einsum("nta,hab->nthb", (4, 5, 3), rngs=nnx.Rngs(0)), (2, 3, 5), (0, 1)),
    "Conv": (lambda: nnx.Conv(4, 3, (3,), rngs=nnx.Rngs(0)), (2, 6, 4), (0, 1)),
    "Conv, grouped": (
        lambda: nnx.Conv(4, 6, (3, 2), feature_group_count=2, rngs=nnx.Rngs(0)),
        (1, 5, 5, 4),
        (0, 1, 2),
    ),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(4, 3, (2, 2), rngs=nnx.Rngs(0)),
        (1, 4, 4, 4),
        (0, 1, 2),
    ),
    "ConvTranspose, kernel transposed": (
        lambda: nnx.ConvTranspose(4, 3, (2, 2), transpose_kernel=True, rngs=nnx.Rngs(0)),
        (1, 4, 4, 4),
        (0, 1, 2),
    ),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx(name: str, supports: Callable[..., None]) -> None:
    make, shape, positions = NNX[name]
    layer = nnx.eval_shape(make)
    graph, params = nnx.split(layer, nnx.Param)
    start = nnx.to_pure_dict(filled(params))

    def outputs_of(kernel: jax.Array) -> jax.Array:
        tree = jax.tree.map(lambda leaf: leaf, params)
        nnx.replace_by_pure_dict(tree, {**start, "kernel": kernel})
        return nnx.merge(graph, tree)(positive(*shape))

    assert_axes_match_jacobian(
        zeromean.jax.explain(layer), "kernel", outputs_of, start["kernel"], positions
    )
    supports("Layer", f"Flax NNX: {name}", "-", "axes match the Jacobian")


LINEN = {
    "Dense": (lambda: linen.Dense(3), (2, 5), (0,)),
    "DenseGeneral": (lambda: linen.DenseGeneral((2, 3)), (4, 5), (0,)),
    "DenseGeneral, two inputs": (lambda: linen.DenseGeneral(3, axis=(-2, -1)), (2, 4, 5), (0,)),
    "DenseGeneral, batch": (lambda: linen.DenseGeneral(3, batch_dims=0), (4, 2, 5), (1,)),
    "Einsum": (lambda: linen.Einsum((4, 5, 3), "nta,hab->nthb"), (2, 3, 5), (0, 1)),
    "Conv": (lambda: linen.Conv(3, (3,)), (2, 6, 4), (0, 1)),
    "Conv, size as a number": (lambda: linen.Conv(3, 3), (2, 6, 4), (0, 1)),
    "Conv, depthwise": (
        lambda: linen.Conv(8, (3, 2), feature_group_count=4),
        (1, 5, 5, 4),
        (0, 1, 2),
    ),
    "ConvLocal": (lambda: linen.ConvLocal(3, (2,), padding="VALID"), (2, 6, 4), (0,)),
    "ConvTranspose": (lambda: linen.ConvTranspose(3, (2, 2)), (1, 4, 4, 4), (0, 1, 2)),
    "ConvTranspose, kernel transposed": (
        lambda: linen.ConvTranspose(3, (2, 2), transpose_kernel=True),
        (1, 4, 4, 4),
        (0, 1, 2),
    ),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name: str, supports: Callable[..., None]) -> None:
    make, shape, positions = LINEN[name]
    layer, inputs = make(), positive(*shape)
    params = filled(jax.eval_shape(layer.init, KEY, inputs))["params"]

    def outputs_of(kernel: jax.Array) -> jax.Array:
        return layer.apply({"params": {**params, "kernel": kernel}}, inputs)

    plan = zeromean.jax.explain(layer, KEY, inputs)
    assert_axes_match_jacobian(plan, "kernel", outputs_of, params["kernel"], positions)
    supports("Layer", f"Flax Linen: {name}", "-", "axes match the Jacobian")


EQUINOX = {
    "Linear": (lambda: eqx.nn.Linear(5, 3, key=KEY), (5,), ()),
    "Linear to a scalar": (lambda: eqx.nn.Linear(5, "scalar", key=KEY), (5,), ()),
    "Conv1d": (lambda: eqx.nn.Conv1d(4, 3, 3, key=KEY), (4, 6), (1,)),
    "Conv2d, grouped": (lambda: eqx.nn.Conv2d(4, 6, (3, 2), groups=2, key=KEY), (4, 5, 5), (1, 2)),
    "ConvTranspose2d": (lambda: eqx.nn.ConvTranspose2d(4, 3, 2, key=KEY), (4, 4, 4), (1, 2)),
    "ConvTranspose2d, grouped": (
        lambda: eqx.nn.ConvTranspose2d(4, 6, 2, groups=2, key=KEY),
        (4, 4, 4),
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name: str, supports: Callable[..., None]) -> None:
    make, shape, positions = EQUINOX[name]
    layer = filled(eqx.filter_eval_shape(make))

    def outputs_of(weight: jax.Array) -> jax.Array:
        return eqx.tree_at(lambda layer: layer.weight, layer, weight)(positive(*shape))

    assert_axes_match_jacobian(
        zeromean.jax.explain(layer), "weight", outputs_of, layer.weight, positions
    )
    supports("Layer", f"Equinox: {name}", "-", "axes match the Jacobian")


HAIKU = {
    "Linear": (lambda: hk.Linear(3, name="layer"), (2, 5), (0,)),
    "Conv1D": (lambda: hk.Conv1D(3, 3, name="layer"), (2, 6, 4), (0, 1)),
    "Conv2D, channels first": (
        lambda: hk.Conv2D(3, 3, data_format="NCHW", name="layer"),
        (2, 4, 5, 5),
        (0, 2, 3),
    ),
    "Conv2D, grouped": (
        lambda: hk.Conv2D(6, (3, 2), feature_group_count=2, name="layer"),
        (1, 5, 5, 4),
        (0, 1, 2),
    ),
    "DepthwiseConv2D": (lambda: hk.DepthwiseConv2D(2, 3, name="layer"), (1, 5, 5, 4), (0, 1, 2)),
    "Conv2DTranspose": (lambda: hk.Conv2DTranspose(3, 2, name="layer"), (1, 4, 4, 4), (0, 1, 2)),
}


@pytest.mark.parametrize("name", HAIKU)
def test_haiku(name: str, supports: Callable[..., None]) -> None:
    make, shape, positions = HAIKU[name]
    transform = hk.without_apply_rng(hk.transform(lambda inputs: make()(inputs)))
    inputs = positive(*shape)
    params = filled(jax.eval_shape(transform.init, KEY, inputs))

    def outputs_of(kernel: jax.Array) -> jax.Array:
        return transform.apply({"layer": {**params["layer"], "w": kernel}}, inputs)

    plan = zeromean.jax.explain(transform, KEY, inputs)
    kernel = params["layer"]["w"]
    assert_axes_match_jacobian(plan, "layer.w", outputs_of, kernel, positions)
    supports("Layer", f"Haiku: {name}", "-", "axes match the Jacobian")


# --- Layers of several parameters -----------------------------------------------------------------


def axes_by_name(plan: Plan) -> dict[str, tuple[int, ...]]:
    return {row.name: row.axes for row in plan if row.axes}


def test_attention() -> None:
    """Query, key and value map one axis to (heads, size); the output maps these two to one."""
    expected = {"query.kernel": (0,), "key.kernel": (0,), "value.kernel": (0,)}
    expected["out.kernel"] = (0, 1)
    of_nnx = nnx.eval_shape(lambda: nnx.MultiHeadAttention(2, 6, rngs=nnx.Rngs(0), decode=False))
    assert axes_by_name(zeromean.jax.explain(of_nnx)) == expected
    of_linen = linen.MultiHeadDotProductAttention(2)
    assert axes_by_name(zeromean.jax.explain(of_linen, KEY, jnp.ones((1, 4, 6)))) == expected
    of_equinox = eqx.filter_eval_shape(eqx.nn.MultiheadAttention, 2, 6, key=KEY)
    assert axes_by_name(zeromean.jax.explain(of_equinox)) == {
        f"{part}_proj.weight": (1,) for part in ("query", "key", "value", "output")
    }
    of_haiku = hk.transform(
        lambda x: hk.MultiHeadAttention(2, 3, w_init=hk.initializers.Constant(1.0))(x, x, x)
    )
    assert axes_by_name(zeromean.jax.explain(of_haiku, KEY, jnp.ones((1, 4, 6)))) == {
        f"multi_head_attention/{part}.w": (0,) for part in ("query", "key", "value", "linear")
    }


def recurrent() -> dict[str, Plan]:
    carry, inputs = jnp.ones((2, 4)), jnp.ones((2, 3))

    def unrolled(core: Callable[[], Any]) -> Plan:
        def run(inputs: jax.Array) -> jax.Array:
            cell = core()
            return cell(inputs, cell.initial_state(2))[0]

        return zeromean.jax.explain(hk.transform(run), KEY, inputs)

    explain = zeromean.jax.explain
    return {
        "NNX LSTM": explain(nnx.eval_shape(lambda: nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)))),
        "NNX GRU": explain(nnx.eval_shape(lambda: nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))),
        "Linen LSTM": explain(linen.LSTMCell(4), KEY, (carry, carry), inputs),
        "Linen optimized LSTM": explain(linen.OptimizedLSTMCell(4), KEY, (carry, carry), inputs),
        "Linen GRU": explain(linen.GRUCell(4), KEY, carry, inputs),
        "Equinox GRU": explain(eqx.filter_eval_shape(eqx.nn.GRUCell, 3, 4, key=KEY)),
        "Equinox LSTM": explain(eqx.filter_eval_shape(eqx.nn.LSTMCell, 3, 4, key=KEY)),
        "Haiku LSTM": unrolled(lambda: hk.LSTM(4)),
        "Haiku GRU": unrolled(lambda: hk.GRU(4)),
    }


def test_each_recurrent_matrix_is_centered_on_its_own() -> None:
    for name, plan in recurrent().items():
        unit_axis = 1 if name.startswith("Equinox") else 0
        assert any(row.centered for row in plan), name
        for row in plan:
            assert row.centered == (len(row.shape) == 2), (name, row)
            assert row.axes == ((unit_axis,) if row.centered else ()), (name, row)


def test_lora() -> None:
    layer = nnx.eval_shape(lambda: nnx.LoRALinear(5, 3, lora_rank=2, rngs=nnx.Rngs(0)))
    assert axes_by_name(zeromean.jax.explain(layer)) == {
        "kernel": (0,),
        "lora.lora_a": (0,),
        "lora.lora_b": (0,),
    }


def norms_and_slopes() -> dict[str, Plan]:
    explain, rngs, x = zeromean.jax.explain, nnx.Rngs(0), jnp.ones((2, 4))
    plans = {}
    for name in ("BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm"):
        plans[f"NNX {name}"] = explain(getattr(nnx, name)(4, rngs=rngs))
    plans["NNX GroupNorm"] = explain(nnx.GroupNorm(4, 2, rngs=rngs))
    plans["NNX LayerNorm, no bias"] = explain(nnx.LayerNorm(4, use_bias=False, rngs=rngs))
    plans["NNX PReLU"] = explain(nnx.PReLU())
    plans["Linen BatchNorm"] = explain(linen.BatchNorm(use_running_average=True), KEY, x)
    plans["Linen LayerNorm, no scale"] = explain(linen.LayerNorm(use_scale=False), KEY, x)
    plans["Linen RMSNorm"] = explain(linen.RMSNorm(), KEY, x)
    plans["Linen GroupNorm"] = explain(linen.GroupNorm(2), KEY, x)
    plans["Linen PReLU"] = explain(linen.PReLU(), KEY, x)
    plans["Equinox LayerNorm"] = explain(eqx.nn.LayerNorm((3, 4)))
    plans["Equinox RMSNorm"] = explain(eqx.nn.RMSNorm((3, 4)))
    plans["Equinox GroupNorm"] = explain(eqx.nn.GroupNorm(2, 4))
    plans["Equinox PReLU"] = explain(eqx.nn.PReLU(0.1))
    plans["Haiku LayerNorm"] = explain(
        hk.transform(lambda x: hk.LayerNorm(-1, True, True)(x)), KEY, x
    )
    plans["Haiku no scale"] = explain(
        hk.transform(lambda x: hk.LayerNorm(-1, False, True)(x)), KEY, x
    )
    plans["Haiku BatchNorm"] = explain(
        hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True)), KEY, x
    )
    plans["Haiku Bias"] = explain(hk.transform(lambda x: hk.Bias()(x)), KEY, x)
    return plans


def test_gains_biases_and_slopes_have_no_fan_in() -> None:
    for name, plan in norms_and_slopes().items():
        for row in plan:
            assert not row.centered, name
            assert "multiplies one input" in row.reason or "bias" in row.reason, (name, row)


def test_embeddings_are_off_by_default() -> None:
    models = [
        (nnx.Embed(7, 3, rngs=nnx.Rngs(0)),),
        (linen.Embed(7, 3), KEY, jnp.ones(2, int)),
        (eqx.nn.Embedding(7, 3, key=KEY),),
        (hk.transform(lambda ids: hk.Embed(7, 3)(ids)), KEY, jnp.ones(2, int)),
    ]
    for model in models:
        (row,) = zeromean.jax.explain(*model)
        assert "off by default" in row.reason
        (row,) = zeromean.jax.explain(*model, embeddings=True)
        assert (row.axes, row.role, row.centered) == ((0,), "embedding", True)


def test_fan_in_1_is_left_alone() -> None:
    (kernel, bias) = sorted(
        zeromean.jax.explain(linen.Dense(3), KEY, jnp.ones((2, 1))), key=lambda row: -len(row.shape)
    )
    assert "fan-in 1" in kernel.reason
    assert not bias.centered


# --- Stacks, ties and custom modules --------------------------------------------------------------


class Block(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        return linen.Dense(4)(x), None


class Scanned(linen.Module):
    axis: int = 0

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scanned = linen.scan(
            Block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3
        )
        return scanned()(linen.Dense(4)(x), None)[0]


def test_scan_and_vmap_shift_axes() -> None:
    plan = axes_by_name(zeromean.jax.explain(Scanned(), KEY, jnp.ones((2, 5))))
    assert plan == {"Dense_0.kernel": (0,), "ScanBlock_0.Dense_0.kernel": (1,)}

    stack = nnx.vmap(lambda key: nnx.Conv(2, 3, (3,), rngs=nnx.Rngs(key)))(jax.random.split(KEY, 5))
    assert axes_by_name(zeromean.jax.explain(stack)) == {"kernel": (1, 2)}

    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(2, 3, key=key))(jax.random.split(KEY, 5))
    assert axes_by_name(zeromean.jax.explain(stack)) == {"weight": (2,)}

    def layers(x: jax.Array) -> jax.Array:
        return hk.experimental.layer_stack(3)(lambda x: hk.Linear(5)(x))(hk.Linear(5)(x))

    plan = axes_by_name(zeromean.jax.explain(hk.transform(layers), KEY, jnp.ones((2, 4))))
    assert plan == {"linear.w": (0,), "__layer_stack_no_per_layer/linear.w": (1,)}


def test_stack_along_another_axis_is_left_alone() -> None:
    plan = zeromean.jax.explain(Scanned(axis=1), KEY, jnp.ones((2, 5)))
    (row,) = (row for row in plan if row.name == "ScanBlock_0.Dense_0.kernel")
    assert row.shape == (4, 3, 4)
    assert not row.centered
    assert "give its axes" in row.reason


def test_shift_stacked_gives_reasons() -> None:
    assert "groups" in str(shift_stacked(FanIn((0,), groups=2), (4, 3), (5, 4, 3)))
    assert "end in" in str(shift_stacked(FanIn((0,)), (4, 3), (3,)))
    assert shift_stacked(FanIn((0,), groups=2), (4, 3), (4, 3)) == FanIn((0,), groups=2)


class Tied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(5, 4, rngs=rngs)
        self.head.kernel = self.embed.embedding
        self.second = nnx.Linear(4, 4, rngs=rngs)
        self.second.kernel = self.first.kernel
        self.free = nnx.Param(jnp.ones((2, 2)))


def test_tied_nnx_owners_must_agree() -> None:
    rows = {row.name: row for row in zeromean.jax.explain(Tied(nnx.Rngs(0)), embeddings=True)}
    # An embedding as a head (in, out) has the same axes, by another role: no agreement.
    assert "disagree" in rows["embed.embedding"].reason
    assert "head.kernel" in rows["embed.embedding"].reason
    assert rows["first.kernel"].centered
    assert "second.kernel" not in rows
    assert "no rule describes Tied" in rows["free"].reason
    state = nnx.state(Tied(nnx.Rngs(0)), nnx.Param)
    axes = zeromean.jax.fan_in(Tied(nnx.Rngs(0)))
    assert jax.tree.structure(axes) == jax.tree.structure(state)


class LanguageModel(linen.Module):
    @linen.compact
    def __call__(self, tokens: Any) -> Any:
        embed = linen.Embed(5, 3)
        return embed.attend(embed(tokens))


def test_linen_embedding_that_is_the_output_layer_is_left_alone() -> None:
    tokens = jnp.zeros((2,), int)
    (row,) = zeromean.jax.explain(LanguageModel(), KEY, tokens, embeddings=True)
    assert not row.centered
    assert "attend" in row.reason


class Pooling(linen.Dense):
    """A layer with a method of that name, which is no embedding."""

    def __call__(self, x: Any) -> Any:
        return self.attend(super().__call__(x))

    def attend(self, x: Any) -> Any:
        return x


def test_attend_of_other_layers_means_nothing() -> None:
    rows = zeromean.jax.explain(Pooling(3), KEY, jnp.ones((1, 4)))
    assert {row.name: row.reason for row in rows}["bias"] == "a bias has no fan-in"
    assert [row.name for row in rows.centered] == ["kernel"]


class Switched(linen.Module):
    @linen.compact
    def __call__(self, x: Any, on: Any) -> Any:
        return linen.Dense(3)(x) if on else x


def test_numpy_scalars_of_init_stay_concrete() -> None:
    axes = zeromean.jax.fan_in(Switched(), KEY, jnp.ones((1, 4)), np.bool_(True))
    assert axes["Dense_0"]["kernel"].axes == (0,)


class Lists(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)])
        self.kept = nnx.List([nnx.Param(jnp.ones((2, 2)))])
        self.loose = nnx.data({"a": nnx.Param(jnp.ones((2, 2)))})


def test_nnx_containers() -> None:
    rows = {row.name: row for row in zeromean.jax.explain(Lists(nnx.Rngs(0)))}
    assert rows["layers.0.kernel"].centered
    assert rows["layers.1.kernel"].centered
    assert not rows["kept.0"].centered
    assert "no module holds it" in rows["loose.a"].reason


def equinox_language_model(where: str) -> eqx.Module:
    embedding = eqx.nn.Embedding(5, 4, key=KEY)
    head = eqx.nn.Linear(4, 5, key=KEY)
    there = {"head": lambda pair: pair[1].weight, "embedding": lambda pair: pair[0].weight}
    other = {"head": "embedding", "embedding": "head"}[where]
    return eqx.nn.Shared((embedding, head), where=there[where], get=there[other])


@pytest.mark.parametrize("where", ["head", "embedding"])
def test_tied_equinox_owners_must_agree(where: str) -> None:
    plan = zeromean.jax.explain(equinox_language_model(where), embeddings=True)
    (row,) = (row for row in plan if row.shape == (5, 4))
    assert not row.centered
    assert "disagree" in row.reason


def shared_transpose() -> eqx.Module:
    pair = (eqx.nn.Linear(4, 5, key=KEY), eqx.nn.Linear(5, 4, key=KEY))
    return eqx.nn.Shared(pair, where=lambda pair: pair[1].weight, get=lambda pair: pair[0].weight.T)


@pytest.mark.parametrize(
    "make", [shared_transpose, lambda: eqx.filter_eval_shape(shared_transpose)]
)
def test_equinox_tie_through_a_function_is_left_alone(make: Callable[[], eqx.Module]) -> None:
    plan = zeromean.jax.explain(make())
    assert [row.shape for row in plan] == [(5, 4), (5,), (4,)]
    assert not plan.centered
    assert "disagree" in plan[0].reason


class Wrapped(linen.Module):
    """A wrapper that owns the parameters of the layer inside."""

    def setup(self) -> None:
        self.inner = linen.Dense(3)
        linen.share_scope(self, self.inner)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.inner(x)


def test_linen_scope_shared_with_a_wrapper() -> None:
    assert axes_by_name(zeromean.jax.explain(Wrapped(), KEY, jnp.ones((1, 4)))) == {"kernel": (0,)}


class LinenTemperature(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(3, name="dense")(x) / self.param("temperature", lambda key: 2.0)


class NnxTemperature(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.temperature = nnx.Param(2.0)


class EquinoxOfType(eqx.Module):
    dense: eqx.nn.Linear
    dtype: Any = np.float32


def test_parameters_and_types_that_are_not_arrays() -> None:
    plan = zeromean.jax.explain(LinenTemperature(), KEY, jnp.ones((1, 4)))
    assert axes_by_name(plan) == {"dense.kernel": (0,)}
    model = NnxTemperature(nnx.Rngs(0))
    assert axes_by_name(zeromean.jax.explain(model)) == {"dense.kernel": (0,)}
    assert jax.tree.leaves(zeromean.jax.fan_in(model))[-1] == "not an array"
    model = EquinoxOfType(eqx.nn.Linear(4, 3, key=KEY))
    assert axes_by_name(zeromean.jax.explain(model)) == {"dense.weight": (1,)}


class Experts(eqx.Module):
    w: jax.Array


class Expert(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.param("w", linen.initializers.ones, (3, 4))


def test_custom_module_rules_use_the_same_register() -> None:
    experts = Experts(jnp.ones((8, 3, 4)))
    (row,) = zeromean.jax.explain(experts)
    assert "no rule describes Experts" in row.reason
    (row,) = zeromean.jax.explain(Expert(), KEY, jnp.ones((1, 3)))
    assert "no rule describes Expert" in row.reason
    try:
        zeromean.fan_in.register(Experts)(lambda module: {"w": FanIn(axes=(1,))})
        zeromean.fan_in.register(Expert)(lambda module: {"w": FanIn(axes=(0,))})
        assert axes_by_name(zeromean.jax.explain(experts)) == {"w": (1,)}
        assert axes_by_name(zeromean.jax.explain(Expert(), KEY, jnp.ones((1, 3)))) == {"w": (0,)}
        zeromean.fan_in.register(Experts)(lambda module: {"v": FanIn(axes=(1,))})
        with pytest.raises(ZeromeanError, match=r"'v', which .*Experts does not have"):
            zeromean.jax.explain(experts)
    finally:
        del zeromean.fan_in._rules[Experts]
        del zeromean.fan_in._rules[Expert]


def test_array_outside_a_module_is_left_alone() -> None:
    rows = {row.name: row for row in zeromean.jax.explain({"a": Experts(jnp.ones((2, 3)))})}
    assert "no rule describes Experts" in rows["a.w"].reason
    linear = eqx.nn.Linear(3, 2, key=KEY)
    rows = {row.name: row for row in zeromean.jax.explain({"a": linear, "b": jnp.ones((2, 3))})}
    assert rows["a.weight"].centered
    assert "no module holds it" in rows["b"].reason


def test_explain_refuses_a_predicate_of_layers_like_centralize() -> None:
    def layers(name: str, module: Any) -> bool:
        return bool(module.out_features == 3)

    params = {"w": jnp.ones((3, 4))}
    with pytest.raises(ZeromeanError, match='is not one of "all", "conv", "linear"'):
        zeromean.jax.explain(params, axes={"w": 1}, layers=layers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("axes", "known"),
    [({}, "none"), ({"a": 0}, "'a'"), (dict.fromkeys("abcd", 0), "'a', 'b', 'c', ...")],
)
def test_parameter_without_axes_is_refused_with_known_names(axes: Any, known: str) -> None:
    with pytest.raises(ZeromeanError) as error:
        zeromean.jax.explain({"w": jnp.ones((3, 4))}, axes=axes)
    assert f"the parameter 'w'; it has {known}." in str(error.value)
