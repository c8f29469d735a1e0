"""Axes from names and shapes alone: what they decide is right, and the rest is left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen

import zeromean.jax
from zeromean import FanIn, ZeromeanWarning
from zeromean.jax.names import by_names

KEY = jax.random.key(0)


class Everything(linen.Module):
    """Layers whose kernels collide by rank."""

    use_bias: bool

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.use_bias
        x = linen.Conv(6, (3, 3), use_bias=bias)(x)
        x = linen.Conv(6, (3, 3), feature_group_count=6, use_bias=bias, name="narrow")(x)
        x = linen.ConvTranspose(8, (2, 2), use_bias=bias)(x)
        x = linen.ConvTranspose(7, (2, 2), transpose_kernel=True, use_bias=bias)(x)
        x = x.reshape(x.shape[0], -1, 7)
        x = linen.Conv(5, (3,), use_bias=bias)(x)
        x = linen.DenseGeneral((2, 3), use_bias=bias)(x)
        x = linen.DenseGeneral(4, axis=(-2, -1), use_bias=bias)(x)
        x = linen.ConvLocal(3, (2,), use_bias=bias)(x)
        x = linen.MultiHeadDotProductAttention(2, qkv_features=10, use_bias=bias)(x)
        x = linen.Einsum((3, 9, 5), "nti,iho->ntho", use_bias=bias)(x).reshape(*x.shape[:2], -1)
        x = linen.scan(
            Repeated, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )(bias)(linen.Dense(11, use_bias=bias, name="fc")(x), None)[0]
        return linen.BatchNorm(use_running_average=True)(x)


class Repeated(linen.Module):
    use_bias: bool

    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return linen.Dense(11, use_bias=self.use_bias)(x), None


def haiku_everything(use_bias: bool) -> Any:
    def run(x: jax.Array) -> jax.Array:
        x = hk.Conv2D(6, 3, with_bias=use_bias)(x)
        x = hk.DepthwiseConv2D(1, 3, with_bias=use_bias)(x)
        x = hk.Conv2DTranspose(5, 2, with_bias=use_bias)(x)
        x = hk.Conv1D(4, 3, with_bias=use_bias)(x.reshape(x.shape[0], -1, 5))
        x = hk.experimental.layer_stack(3)(hk.Linear(4, with_bias=use_bias))(x)
        x = hk.nets.MLP([5, 3], with_bias=use_bias)(x)
        return hk.LayerNorm(-1, True, True)(x)

    return hk.transform(run)


def told(axes: Any) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path(axes)[0]
    return {jax.tree_util.keystr(path): what for path, what in flat}


@pytest.mark.parametrize("framework", ["Flax Linen", "Haiku"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_what_names_decide_is_what_the_classes_say(
    framework: str, use_bias: bool, supports: Callable[..., None]
) -> None:
    x = jnp.ones((1, 5, 5, 4))
    model = Everything(use_bias) if framework == "Flax Linen" else haiku_everything(use_bias)
    by_class = told(zeromean.jax.fan_in(model, KEY, x))
    params = jax.eval_shape(model.init, KEY, x)
    params = params["params"] if framework == "Flax Linen" else params
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeromeanWarning)
        by_name = told(zeromean.jax.fan_in(params))
    assert by_class.keys() == by_name.keys()
    decided = [name for name, what in by_name.items() if isinstance(what, FanIn)]
    for name in decided:
        assert by_name[name].axes == by_class[name].axes, name
    known = {name for name, what in by_class.items() if isinstance(what, FanIn)}
    left = known - set(decided)
    assert all("ambiguous" in by_name[name] for name in left)
    if use_bias:
        assert len(left) <= 2, left
    else:
        assert decided
    supports("Layer", f"{framework}, a parameter tree alone", "-", "axes, against the classes'")


@pytest.mark.parametrize(
    ("path", "shape", "bias", "axes"),
    [
        ("Dense_0.kernel", (4, 4), (4,), (0,)),
        ("fc.kernel", (3, 4), None, (0,)),
        ("Dense_0.kernel", (5, 3, 4), (5, 4), (1,)),
        ("Conv_12.kernel", (3, 3, 4, 4), None, (0, 1, 2)),
        ("stem.kernel", (3, 3, 4, 5), (5,), (0, 1, 2)),
        ("up.kernel", (3, 3, 5, 4), (5,), (0, 1, 3)),
        ("ConvTranspose_0.kernel", (3, 3, 4, 5), (5,), (0, 1, 2)),
        ("query.kernel", (6, 2, 3), (2, 3), (0,)),
        ("out.kernel", (2, 3, 6), (6,), (0, 1)),
        ("conv2_d_transpose_1.w", (2, 2, 4, 4), (4,), (0, 1, 3)),
        ("mlp/~/linear_0.w", (3, 4), (4,), (0,)),
        ("gru.w_i", (3, 12), None, (0,)),
        ("kernel", (3, 4), None, (0,)),
    ],
)
def test_decided(
    path: str, shape: tuple[int, ...], bias: tuple[int, ...] | None, axes: tuple[int, ...]
) -> None:
    found = by_names(path.split("."), shape, bias)
    assert isinstance(found, FanIn), found
    assert found.axes == axes
    assert found.role == ("conv" if len(shape) == 4 else "linear")


@pytest.mark.parametrize(
    ("path", "shape", "bias", "why"),
    [
        ("ConvTranspose_0.kernel", (3, 3, 4, 4), (4,), "axes 0,1,2 or 0,1,3"),
        ("query.kernel", (6, 2, 3), None, "ambiguous"),
        ("stem.kernel", (3, 3, 4, 5), None, "ambiguous"),
        ("Einsum_0.kernel", (4, 4), (4,), "axes 0 or 1"),
        ("ScanBlock_0.Dense_0.kernel", (3, 3, 3), None, "ambiguous"),
        ("Conv_0.kernel", (3, 3, 4, 5), (7,), "fit no known layer"),
        ("attention.position", (16, 8), None, "'position' tells no axes"),
        ("BatchNorm_0.scale", (8,), None, "fewer than two"),
        ("Dense_0.bias", (2, 3), None, "a bias"),
    ],
)
def test_left_alone(
    path: str, shape: tuple[int, ...], bias: tuple[int, ...] | None, why: str
) -> None:
    found = by_names(path.split("."), shape, bias)
    assert isinstance(found, str)
    assert why in found


def test_ambiguous_leaves_are_reported() -> None:
    params = {"query": {"kernel": jnp.ones((6, 2, 3))}, "fc": {"kernel": jnp.ones((6, 2))}}
    with pytest.warns(ZeromeanWarning, match=r"1 of 2 parameters .* query.kernel; pass") as caught:
        axes = zeromean.jax.fan_in(params)
    assert caught[0].filename == __file__
    assert axes["fc"]["kernel"] == FanIn((0,))
    plan = zeromean.jax.explain(params, axes=axes)
    assert "ambiguous: axes" in str(plan)
    axes["query"]["kernel"] = 0
    assert [row.axes for row in zeromean.jax.explain(params, axes=axes)] == [(0,), (0,)]
