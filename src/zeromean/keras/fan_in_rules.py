"""Fan-in rules of Keras layers; see :mod:`zeromean.fan_in`.

Keras stores most kernels as (..., in, out). Register rules of other layers in the same way, by
:func:`zeromean.fan_in.register`. A rule refers to a variable by its name or by its attribute.
"""

from __future__ import annotations

from typing import Any

from zeromean.fan_in import Description, FanIn, Role, describe, look_up, register

_GAIN = "a norm's gain multiplies one input"
_SHIFT = "a bias has no fan-in"


@register("keras.src.layers.core.dense.Dense")  # (in, out); LoRA: (in, rank), (rank, out)
def _dense(layer: Any) -> Description:
    return _all_but_last(layer, "kernel", "lora_kernel_a", "lora_kernel_b")


@register("keras.src.layers.core.einsum_dense.EinsumDense")
def _einsum_dense(layer: Any) -> Description:
    operands, output = layer.equation.replace("...", "").split("->")
    letters = operands.split(",")[1]
    inputs = tuple(axis for axis, letter in enumerate(letters) if letter not in output)
    if not inputs:
        return {"kernel": "its equation sums over none of its axes"}
    described: dict[str, FanIn | str] = {"kernel": FanIn(inputs)}
    # LoRA: the first matrix has the rank as its last axis; the second is (rank, last axis).
    if letters[-1] in output:
        described |= {"lora_kernel_a": FanIn(inputs), "lora_kernel_b": FanIn((0,))}
    return _present(layer, described)


@register("keras.src.layers.convolutional.base_conv.BaseConv")  # (k..., in / groups, out)
@register("keras.src.layers.rnn.conv_lstm.ConvLSTMCell")  # (k..., in, 4 * out)
def _convolution(layer: Any) -> Description:
    names = ("kernel", "recurrent_kernel", "lora_kernel_a", "lora_kernel_b")
    return _all_but_last(layer, *names, role="conv")


@register("keras.src.layers.convolutional.base_conv_transpose.BaseConvTranspose")
def _transposed(layer: Any) -> Description:  # (k..., out, in)
    return {"kernel": FanIn((*range(layer.rank), layer.rank + 1), role="conv")}


@register("keras.src.layers.convolutional.base_depthwise_conv.BaseDepthwiseConv")
def _depthwise(layer: Any) -> Description:  # (k..., in, multiplier): one input channel per output
    return {"kernel": FanIn(tuple(range(layer.rank)), role="conv")}


@register("keras.src.layers.convolutional.base_separable_conv.BaseSeparableConv")
def _separable(layer: Any) -> Description:  # depthwise, then (1..., in * multiplier, out)
    depthwise = FanIn(tuple(range(layer.rank)), role="conv")
    return {
        "depthwise_kernel": depthwise,
        **_all_but_last(layer, "pointwise_kernel", role="conv"),
    }


@register("keras.src.layers.rnn.lstm.LSTMCell")  # (in, gates * units), each matrix separately
@register("keras.src.layers.rnn.gru.GRUCell")
@register("keras.src.layers.rnn.simple_rnn.SimpleRNNCell")
def _recurrent(layer: Any) -> Description:
    bias = _present(layer, {"bias": _SHIFT})  # GRU's has two dimensions
    return {**_all_but_last(layer, "kernel", "recurrent_kernel"), **bias}


@register("keras.src.layers.core.embedding.Embedding")  # (tokens, dim): a Dense on one-hot tokens
def _embedding(layer: Any) -> Description:
    tokens = FanIn((0,), role="embedding", padding_idx=0 if layer.mask_zero else None)
    lora = {"lora_embeddings_a": tokens, "lora_embeddings_b": FanIn((0,))}
    return _present(layer, {"embeddings": tokens, **lora})


@register("keras.src.layers.core.reversible_embedding.ReversibleEmbedding")
def _reversible(layer: Any) -> Description:
    if layer.tie_weights:
        return {"embeddings": "tied to the output layer, which has another fan-in axis"}
    return {**_embedding(layer), **_present(layer, {"reverse_embeddings": FanIn((0,))})}


@register("keras.src.layers.normalization.batch_normalization.BatchNormalization")
@register("keras.src.layers.normalization.layer_normalization.LayerNormalization")
@register("keras.src.layers.normalization.group_normalization.GroupNormalization")
@register("keras.src.layers.normalization.rms_normalization.RMSNormalization")
def _norm(layer: Any) -> Description:
    return _present(layer, {"gamma": _GAIN, "scale": _GAIN, "beta": _SHIFT})


@register("keras.src.layers.normalization.spectral_normalization.SpectralNormalization")
def _spectral(layer: Any) -> Description:  # holds the kernel of the wrapped layer
    inner = layer.layer
    known = {*vars(inner), *(variable.name for variable in own_variables(inner))}
    kind, name = type(inner).__name__, layer.kernel.name
    return {"kernel": look_up(kind, name, describe(inner, known))}


@register("keras.src.layers.activations.prelu.PReLU")
def _prelu(layer: Any) -> Description:
    return {"alpha": "a slope multiplies one input"}


def _all_but_last(layer: Any, *names: str, role: Role = "linear") -> Description:
    """Describe the variables of these names: their fan-in axes are all axes but the last."""
    return {
        variable.name: FanIn(tuple(range(len(variable.shape) - 1)), role=role)
        for variable in own_variables(layer)
        if variable.name in names and len(variable.shape) > 1
    }


def _present(layer: Any, described: Description) -> Description:
    """Return the descriptions of the variables that this layer has with its options."""
    names = {variable.name for variable in own_variables(layer)}
    return {name: what for name, what in described.items() if name in names}


def own_variables(layer: Any) -> list[Any]:
    """Return the trainable variables of this layer without those of its sublayers."""
    return list(layer._trainable_variables)
