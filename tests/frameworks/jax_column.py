"""The JAX frameworks of the table: Flax NNX, Flax Linen, Equinox and Haiku, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from table import LAYERS, SETTINGS, Array, Framework, Job, Layout, Setting, Walk

import zeromean.jax


class Model(NamedTuple):
    """A layer of a framework, with its parameters.

    Args:
        params: Trained parameters.
        apply: (params, batch) -> outputs, both channels last.
        axes: Tree of fan-in axes.
        weight, bias: Functions that read the two from a tree with the structure of ``params``.
    """

    params: Any
    apply: Callable[[Any, jax.Array], jax.Array]
    axes: Any
    weight: Callable[[Any], jax.Array]
    bias: Callable[[Any], jax.Array]


class LayerClass(NamedTuple):
    """A layer class of a framework.

    Args:
        make: Function that creates the layer.
        layout: Layout of its weight.
    """

    make: Callable[..., Any]
    layout: Layout


Maker = Callable[[LayerClass, Mapping[str, Array], Job], Model]


class Column:
    """The layers of a framework, each created and compiled once for all jobs."""

    def __init__(self, layers: Mapping[str, LayerClass], make: Maker) -> None:
        self.layers = layers
        self.make = make
        self.made: dict[str, tuple[Model, Any]] = {}

    def model(self, row: str, job: Job) -> tuple[Model, Any]:
        """The initialized layer of a row, and (params, batch) -> gradients, outputs."""
        if row not in self.made:
            own = self.layers[row]
            start = {**job.weights, "weight": own.layout.own(job.weights["weight"])}
            model = self.make(own, start, job)

            def loss(params: Any, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
                out = model.apply(params, batch)
                return jnp.mean(out**2) + jnp.mean(out), out

            self.made[row] = model, jax.jit(jax.grad(loss, has_aux=True))
        return self.made[row]

    def walk(self, row: str, job: Job) -> Walk:
        """Train one layer in float64."""
        with jax.enable_x64(True):
            model, gradients_of = self.model(row, job)
            optimizer = centered(SETTINGS[job.setting], model.axes, job.at)

            @jax.jit
            def step(params: Any, state: Any, gradients: Any) -> Any:
                updates, state = optimizer.update(gradients, state, params)
                return optax.apply_updates(params, updates), state

            canonical = self.layers[row].layout.canonical
            params, state = model.params, optimizer.init(model.params)
            outputs, weights, biases = [], [], []
            for batch in job.inputs:
                gradients, out = gradients_of(params, jnp.asarray(np.moveaxis(batch, 1, -1)))
                params, state = step(params, state, gradients)
                outputs.append(np.moveaxis(np.asarray(out), -1, 1))
                weights.append(canonical(np.asarray(model.weight(params))))
                biases.append(np.asarray(model.bias(params)).reshape(-1))
            return Walk(outputs[0], np.stack(weights), np.stack(biases))


def centered(setting: Setting, axes: Any, at: Any) -> optax.GradientTransformation:
    """The optax optimizer of a setting, with centering."""
    b1, b2 = setting.betas
    decay, optimizer = {
        "sgd": (
            optax.add_decayed_weights(setting.weight_decay),
            optax.sgd(setting.lr, momentum=setting.momentum),
        ),
        "adamw": (
            optax.identity(),
            optax.adamw(setting.lr, b1, b2, setting.eps, weight_decay=setting.weight_decay),
        ),
    }[setting.optimizer]
    centering = zeromean.jax.centralize(axes, at=at)
    links = (centering, optimizer) if at == "gradient" else (optimizer, centering)
    return optax.chain(decay, *links)


def last(kernel: int, *, swapped: bool = False, flipped: bool = False) -> Layout:
    """(k..., in, out), or (k..., out, in)."""
    axes = (*range(2, 2 + kernel), *((0, 1) if swapped else (1, 0)))
    return Layout(axes, tuple(range(kernel)) if flipped else ())


def first(kernel: int, *, flipped: bool = False) -> Layout:
    """(out, in, k...)."""
    return Layout(tuple(range(2 + kernel)), tuple(range(2, 2 + kernel)) if flipped else ())


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "Conv1d": {"i": 3, "o": 4, "k": (5,)},
    "Conv2d": {"i": 5, "o": 4, "k": (3, 2), "s": 2},
    "Conv2d, grouped": {"i": 4, "o": 6, "k": (3, 3), "g": 2},
    "Conv2d, depthwise": {"i": 4, "o": 8, "k": (3, 3), "g": 4},
    "Conv3d": {"i": 4, "o": 5, "k": (2, 3, 2)},
    "ConvTranspose1d": {"i": 5, "o": 4, "k": (3,), "s": 2},
    "ConvTranspose2d": {"i": 5, "o": 4, "k": (3, 2), "s": 2},
    "ConvTranspose2d, square": {"i": 3, "o": 3, "k": (3, 3)},
    "ConvTranspose2d, grouped": {"i": 4, "o": 6, "k": (3, 3), "s": 2, "g": 2},
    "ConvTranspose3d": {"i": 5, "o": 4, "k": (2, 3, 2)},
}


def sizes(name: str) -> tuple[int, int, tuple[int, ...], tuple[int, ...], int]:
    """In, out, kernel, strides, groups."""
    size = CONVOLUTIONS[name]
    strides = (size.get("s", 1),) * len(size["k"])
    return size["i"], size["o"], size["k"], strides, size.get("g", 1)


def is_transposed(name: str) -> bool:
    return name.startswith("ConvTranspose")


# --- Flax NNX -------------------------------------------------------------------------------------


def nnx_layers() -> dict[str, LayerClass]:
    options = {"param_dtype": jnp.float64}
    found = {"Linear": LayerClass(partial(nnx.Linear, 5, 3, **options), last(0))}
    for name in CONVOLUTIONS:
        i, o, kernel, strides, groups = sizes(name)
        rest = {"strides": strides, "padding": "VALID", **options}
        if not is_transposed(name):
            make = partial(nnx.Conv, i, o, kernel, feature_group_count=groups, **rest)
            found[name] = LayerClass(make, last(len(kernel)))
        elif groups == 1:
            make = partial(nnx.ConvTranspose, i, o, kernel, **rest)
            found[name] = LayerClass(make, last(len(kernel), flipped=True))
            make = partial(make, transpose_kernel=True)
            found[f"{name} (transpose_kernel)"] = LayerClass(make, last(len(kernel), swapped=True))
    return found


def nnx_model(own: LayerClass, start: Mapping[str, Array], job: Job) -> Model:
    layer = own.make(rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(start["weight"])
    layer.bias[...] = jnp.asarray(start["bias"])
    graph, params = nnx.split(layer, nnx.Param)
    return Model(
        params,
        lambda params, batch: nnx.merge(graph, params)(batch),
        zeromean.jax.fan_in(layer),
        lambda params: params["kernel"][...],
        lambda params: params["bias"][...],
    )


# --- Flax Linen -----------------------------------------------------------------------------------


def linen_layers() -> dict[str, LayerClass]:
    options = {"param_dtype": jnp.float64}
    found = {"Linear": LayerClass(partial(linen.Dense, 3, **options), last(0))}
    for name in CONVOLUTIONS:
        _, o, kernel, strides, groups = sizes(name)
        rest = {"strides": strides, "padding": "VALID", **options}
        if not is_transposed(name):
            make = partial(linen.Conv, o, kernel, feature_group_count=groups, **rest)
            found[name] = LayerClass(make, last(len(kernel)))
        elif groups == 1:
            make = partial(linen.ConvTranspose, o, kernel, **rest)
            found[name] = LayerClass(make, last(len(kernel), flipped=True))
            make = partial(make, transpose_kernel=True)
            found[f"{name} (transpose_kernel)"] = LayerClass(make, last(len(kernel), swapped=True))
    return found


def linen_model(own: LayerClass, start: Mapping[str, Array], job: Job) -> Model:
    layer = own.make()
    batch = jnp.asarray(np.moveaxis(job.inputs[0], 1, -1))
    return Model(
        {"kernel": jnp.asarray(start["weight"]), "bias": jnp.asarray(start["bias"])},
        lambda params, batch: layer.apply({"params": params}, batch),
        zeromean.jax.fan_in(layer, jax.random.key(0), batch),
        lambda params: params["kernel"],
        lambda params: params["bias"],
    )


# --- Equinox --------------------------------------------------------------------------------------


def equinox_layers() -> dict[str, LayerClass]:
    options = {"dtype": jnp.float64}
    found = {"Linear": LayerClass(partial(eqx.nn.Linear, 5, 3, **options), first(0))}
    for name in CONVOLUTIONS:
        i, o, kernel, strides, groups = sizes(name)
        kind = eqx.nn.ConvTranspose if is_transposed(name) else eqx.nn.Conv
        make = partial(kind, len(kernel), i, o, kernel, strides, groups=groups, **options)
        found[name] = LayerClass(make, first(len(kernel), flipped=is_transposed(name)))
    return found


def equinox_model(own: LayerClass, start: Mapping[str, Array], job: Job) -> Model:
    layer = own.make(key=jax.random.key(0))
    bias = jnp.asarray(start["bias"]).reshape(layer.bias.shape)
    layer = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), layer, (jnp.asarray(start["weight"]), bias)
    )

    def apply(layer: Any, batch: jax.Array) -> jax.Array:
        return jnp.moveaxis(jax.vmap(layer)(jnp.moveaxis(batch, -1, 1)), 1, -1)

    return Model(
        layer,
        apply,
        zeromean.jax.fan_in(layer),
        lambda layer: layer.weight,
        lambda layer: layer.bias,
    )


# --- Haiku ----------------------------------------------------------------------------------------


def haiku_layers() -> dict[str, LayerClass]:
    found = {"Linear": LayerClass(partial(hk.Linear, 3), last(0))}
    for name in CONVOLUTIONS:
        i, o, kernel, strides, groups = sizes(name)
        rest: dict[str, Any] = {"stride": strides, "padding": "VALID"}
        if not is_transposed(name):
            make = partial(hk.ConvND, len(kernel), o, kernel, feature_group_count=groups, **rest)
            found[name] = LayerClass(make, last(len(kernel)))
        elif groups == 1:
            make = partial(hk.ConvNDTranspose, len(kernel), o, kernel, **rest)
            found[name] = LayerClass(make, last(len(kernel), swapped=True, flipped=True))
        if name == "Conv2d, depthwise":
            make = partial(hk.DepthwiseConv2D, o // i, kernel, **rest)
            found[f"{name} (DepthwiseConv2D)"] = LayerClass(make, last(len(kernel)))
    return found


def haiku_model(own: LayerClass, start: Mapping[str, Array], job: Job) -> Model:
    def run(batch: jax.Array) -> jax.Array:
        return own.make(name="layer")(batch)

    transform = hk.without_apply_rng(hk.transform(run))
    batch = jnp.asarray(np.moveaxis(job.inputs[0], 1, -1))
    return Model(
        {"layer": {"w": jnp.asarray(start["weight"]), "b": jnp.asarray(start["bias"])}},
        transform.apply,
        zeromean.jax.fan_in(transform, jax.random.key(0), batch),
        lambda params: params["layer"]["w"],
        lambda params: params["layer"]["b"],
    )


def framework(layers: Mapping[str, LayerClass], make: Maker) -> Framework:
    return Framework(tuple(layers), Column(layers, make).walk)


FRAMEWORKS: dict[str, Framework] = {
    "Flax NNX": framework(nnx_layers(), nnx_model),
    "Flax Linen": framework(linen_layers(), linen_model),
    "Equinox": framework(equinox_layers(), equinox_model),
    "Haiku": framework(haiku_layers(), haiku_model),
}
assert set(CONVOLUTIONS) | {"Linear"} == set(LAYERS)
