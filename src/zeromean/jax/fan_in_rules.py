"""Fan-in rules of the layers of Flax (NNX and Linen), Equinox and Haiku.

Like the torch rules in :mod:`zeromean.fan_in`, they are found by qualified class name, so nothing
is imported. If ``vmap`` or ``scan`` has stacked the parameters of a layer, the axes are shifted
past those in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from zeromean.fan_in import Description, FanIn, Role, register

_GAIN = "a norm's gain multiplies one input"
_SLOPE = {"negative_slope": "a slope multiplies one input"}


def shift_stacked(fan_in: FanIn, own: Sequence[int], shape: Sequence[int]) -> FanIn | str:
    """Shift fan-in axes in a layer's own shape past those that ``vmap`` or ``scan`` put in front.

    Returns the fan-in axes in ``shape``, or the reason why they are unknown.
    """
    extra = len(shape) - len(own)
    if extra < 0 or tuple(shape[extra:]) != tuple(own):
        own_text = "x".join(map(str, own))
        return f"its shape does not end in the layer's own {own_text}; give its axes"
    if extra and (fan_in.groups > 1 or fan_in.padding_idx is not None):
        return "groups and padding are not supported in a stack of layers; give its axes"
    return replace(fan_in, axes=tuple(axis + extra for axis in fan_in.axes))


def _one(
    module: Any, name: str, own: Sequence[int], axes: Sequence[int], role: Role = "linear"
) -> Description:
    """Describe one parameter by its own shape and axes, if the module has it."""
    shape = getattr(getattr(module, name, None), "shape", None)
    return {} if shape is None else {name: shift_stacked(FanIn(tuple(axes), role=role), own, shape)}


def _sizes(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


# --- Flax NNX: (..., in, out) ---------------------------------------------------------------------


@register("flax.nnx.nn.linear.Linear")
def _nnx_linear(module: Any) -> Description:
    return _one(module, "kernel", (module.in_features, module.out_features), (0,))


@register("flax.nnx.nn.lora.LoRA")
def _nnx_lora(module: Any) -> Description:
    rank = module.lora_a.shape[-1]
    return {
        **_one(module, "lora_a", (module.in_features, rank), (0,)),
        **_one(module, "lora_b", (rank, module.out_features), (0,)),
    }


@register("flax.nnx.nn.linear.LinearGeneral")  # (batch..., in..., out...)
def _nnx_linear_general(module: Any) -> Description:
    batch = tuple(module.batch_axis.values())
    inputs = range(len(batch), len(batch) + len(module.in_features))
    return _one(module, "kernel", (*batch, *module.in_features, *module.out_features), inputs)


@register("flax.nnx.nn.linear.Einsum")
def _nnx_einsum(module: Any) -> Description:
    axes = _summed(module.einsum_str)
    if isinstance(axes, str):
        return {"kernel": axes}
    return _one(module, "kernel", module.kernel_shape, axes)


@register("flax.nnx.nn.linear.Conv")  # (k..., in / groups, out)
def _nnx_conv(module: Any) -> Description:
    own = module.kernel_shape
    return _one(module, "kernel", own, range(len(own) - 1), "conv")


@register("flax.nnx.nn.linear.ConvTranspose")
def _nnx_conv_transpose(module: Any) -> Description:
    own = module.kernel_shape
    return _one(module, "kernel", own, _transposed(len(own), module.transpose_kernel), "conv")


@register("flax.nnx.nn.linear.Embed")
def _nnx_embed(module: Any) -> Description:
    return _one(module, "embedding", (module.num_embeddings, module.features), (0,), "embedding")


# --- Flax Linen: (..., in, out) -------------------------------------------------------------------


@register("flax.linen.linear.DenseGeneral")  # (batch..., in..., out...)
def _linen_dense_general(module: Any) -> Description:
    batch, inputs = len(_sizes(module.batch_dims)), len(_sizes(module.axis))
    return {"kernel": FanIn(axes=tuple(range(batch, batch + inputs)))}


@register("flax.linen.linear.Einsum")
def _linen_einsum(module: Any) -> Description:
    axes = _summed(module.einsum_str)
    return {"kernel": axes if isinstance(axes, str) else FanIn(axes)}


@register("flax.linen.linear.Conv")  # (k..., in / groups, out)
def _linen_conv(module: Any) -> Description:
    kernel = len(_sizes(module.kernel_size))
    return {"kernel": FanIn(axes=tuple(range(kernel + 1)), role="conv")}


@register("flax.linen.linear.ConvLocal")  # (output k..., inputs of that output, out)
def _linen_conv_local(module: Any) -> Description:
    return {"kernel": FanIn(axes=(len(_sizes(module.kernel_size)),), role="conv")}


@register("flax.linen.linear.ConvTranspose")
def _linen_conv_transpose(module: Any) -> Description:
    rank = len(_sizes(module.kernel_size)) + 2
    return {"kernel": FanIn(axes=_transposed(rank, module.transpose_kernel), role="conv")}


# --- Equinox: (out, in, ...) ----------------------------------------------------------------------


@register("equinox.nn._linear.Linear")
def _equinox_linear(module: Any) -> Description:
    sizes = (module.out_features, module.in_features)
    return _one(module, "weight", [1 if size == "scalar" else size for size in sizes], (1,))


@register("equinox.nn._conv.Conv")  # (out, in / groups, k...)
@register("equinox.nn._conv.ConvTranspose")  # the same layout, unlike torch's
def _equinox_conv(module: Any) -> Description:
    inputs = module.in_channels // module.groups
    own = (module.out_channels, inputs, *module.kernel_size)
    return _one(module, "weight", own, range(1, len(own)), "conv")


def _equinox_recurrent(gates: int, module: Any) -> Description:
    hidden = module.hidden_size
    return {
        **_one(module, "weight_ih", (gates * hidden, module.input_size), (1,)),
        **_one(module, "weight_hh", (gates * hidden, hidden), (1,)),
    }


register("equinox.nn._rnn.GRUCell")(partial(_equinox_recurrent, 3))
register("equinox.nn._rnn.LSTMCell")(partial(_equinox_recurrent, 4))


@register("equinox.nn._embedding.Embedding")
def _equinox_embedding(module: Any) -> Description:
    own = (module.num_embeddings, module.embedding_size)
    return _one(module, "weight", own, (0,), "embedding")


# --- Haiku: (..., in, out) ------------------------------------------------------------------------


@register("haiku._src.conv.ConvND")  # (k..., in / groups, out)
@register("haiku._src.depthwise_conv.DepthwiseConvND")  # (k..., 1, out)
def _haiku_conv(module: Any) -> Description:
    return {"w": FanIn(axes=tuple(range(len(module.kernel_shape) + 1)), role="conv")}


@register("haiku._src.conv.ConvNDTranspose")  # (k..., out, in)
def _haiku_conv_transpose(module: Any) -> Description:
    return {"w": FanIn(axes=_transposed(len(module.kernel_shape) + 2, True), role="conv")}


# --- Norms of Flax and Haiku, and layers whose options do not change the axes ---------------------


@register("flax.linen.normalization.BatchNorm")
@register("flax.linen.normalization.LayerNorm")
@register("flax.linen.normalization.RMSNorm")
@register("flax.linen.normalization.GroupNorm")
@register("flax.linen.normalization.InstanceNorm")
@register("flax.nnx.nn.normalization.BatchNorm")
@register("flax.nnx.nn.normalization.LayerNorm")
@register("flax.nnx.nn.normalization.RMSNorm")
@register("flax.nnx.nn.normalization.GroupNorm")
@register("flax.nnx.nn.normalization.InstanceNorm")
@register("haiku._src.batch_norm.BatchNorm")
@register("haiku._src.layer_norm.LayerNorm")
@register("haiku._src.group_norm.GroupNorm")
@register("haiku._src.rms_norm.RMSNorm")
def _norm(module: Any) -> Description:
    has_scale = getattr(module, "use_scale", getattr(module, "create_scale", True))
    return {"scale": _GAIN} if has_scale else {}


def _constant(description: Description, module: Any) -> Description:
    return description


_CONSTANT: dict[str, Description] = {
    "flax.linen.linear.Dense": {"kernel": FanIn((0,))},
    "flax.linen.recurrent.DenseParams": {"kernel": FanIn((0,))},
    "flax.linen.linear.Embed": {"embedding": FanIn((0,), role="embedding")},
    "flax.linen.normalization.WeightNorm": {},  # its parameters are named by paths
    "flax.linen.activation.PReLU": _SLOPE,
    "flax.nnx.nn.activations.PReLU": _SLOPE,
    "equinox.nn._weight_norm.WeightNorm": {"g": "a length multiplies a whole weight vector"},
    "equinox.nn._batch_norm.BatchNorm": {"weight": _GAIN},
    "equinox.nn._normalisation.LayerNorm": {"weight": _GAIN},
    "equinox.nn._normalisation.GroupNorm": {"weight": _GAIN},
    "equinox.nn._normalisation.RMSNorm": {"weight": _GAIN},
    "equinox.nn._activations.PReLU": _SLOPE,
    "haiku._src.basic.Linear": {"w": FanIn((0,))},
    "haiku._src.recurrent.GRU": {"w_i": FanIn((0,)), "w_h": FanIn((0,))},
    "haiku._src.embed.Embed": {"embeddings": FanIn((0,), role="embedding")},
    "haiku._src.bias.Bias": {},
}
for _name, _description in _CONSTANT.items():
    register(_name)(partial(_constant, _description))


def _transposed(rank: int, swapped: bool) -> tuple[int, ...]:
    """Return the axes of (k..., in, out), or of (k..., out, in) if the kernel is swapped."""
    out = rank - 2 if swapped else rank - 1
    return tuple(axis for axis in range(rank) if axis != out)


def _summed(einsum: str | None) -> tuple[int, ...] | str:
    """Return the kernel axes that "inputs,kernel->outputs" sums over, or why they are unknown."""
    if einsum is None:
        return "its einsum_str is passed at each call"
    operands, _, outputs = einsum.replace(" ", "").partition("->")
    kernel = operands.split(",")[1]
    if "." in kernel:
        return "its einsum_str leaves axes of the kernel unnamed"
    axes = tuple(axis for axis, letter in enumerate(kernel) if letter not in outputs)
    return axes or "its einsum_str sums over none of its axes"
