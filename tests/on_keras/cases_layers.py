"""Fan-in axes of Keras layers, tested against the outputs of the layers."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
from toys import L, tensors, values, with_slow

import zeromean.keras
from zeromean import FanIn, ZeromeanError
from zeromean.fan_in import _rules, register
from zeromean.keras.projection import center, vector_means

Supports = Callable[[str, str, str, str], None]

# layer, input shape, number of trailing output axes that index units
LAYERS = {
    "Dense": (lambda: L.Dense(3), (4,), 1),
    "Dense on sequences": (lambda: L.Dense(3), (5, 4), 1),
    "EinsumDense": (lambda: L.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 4), 2),
    "EinsumDense, two inputs": (lambda: L.EinsumDense("...cd,cde->...e", 5), (4, 2), 1),
    "EinsumDense, a matrix per head": (lambda: L.EinsumDense("bhi,hio->bho", (3, 5)), (3, 4), 2),
    "Conv1D": (lambda: L.Conv1D(3, 2), (6, 4), 1),
    "Conv2D": (lambda: L.Conv2D(3, (3, 2), strides=2), (7, 7, 2), 1),
    "Conv2D, groups": (lambda: L.Conv2D(4, 2, groups=2), (4, 4, 6), 1),
    "Conv3D": (lambda: L.Conv3D(2, 2), (3, 3, 3, 2), 1),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(3, 2), (5, 4), 1),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(3, 3, strides=2), (3, 3, 2), 1),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(2, 2), (3, 3, 3, 2), 1),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3, depth_multiplier=2), (6, 4), 1),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(2, depth_multiplier=3), (4, 4, 2), 1),
    "SeparableConv1D": (lambda: L.SeparableConv1D(3, 2), (5, 4), 1),
    "SeparableConv2D": (lambda: L.SeparableConv2D(3, 2), (3, 3, 4), 1),
}
QUICK = {"Dense", "EinsumDense", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D"}


@pytest.mark.parametrize("name", with_slow(LAYERS, QUICK))
def test_weight_vector_feeds_one_output_unit(name: str, supports: Supports) -> None:
    """With positive inputs, each vector of the last kernel alone feeds exactly one unit."""
    make, shape, unit_axes = LAYERS[name]
    layer = make()
    x = np.random.default_rng(0).uniform(0.5, 1, (1, *shape)).astype("float32")
    layer(x)
    for variable in layer.trainable_variables:  # the depthwise kernel passes everything
        variable.assign(np.full(variable.shape, float("kernel" in variable.name)))
    kernel = next(v for v in reversed(layer.trainable_variables) if "kernel" in v.name)
    row = next(row for row in zeromean.keras.explain(layer) if row.parameter is kernel)
    assert row.role == ("conv" if "Conv" in name else "linear")
    vector_of = np.arange(np.prod(kernel.shape))
    vector_of = vector_of.reshape(kernel.shape).min(row.axes, keepdims=True)
    units = []
    for vector in vector_of.flat:
        kernel.assign((vector_of == vector) * np.ones(kernel.shape))
        (output,) = values([layer(x)])
        fed = output.reshape(-1, int(np.prod(output.shape[-unit_axes:]))).sum(0)
        units.append(np.flatnonzero(fed).tolist())
    assert sorted(units) == [[unit] for unit in range(len(fed))]
    supports("Layer", name, "-", "each weight vector feeds one output unit")


once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="independent of the backend")


def built(layer: keras.Layer, *shapes: tuple[int | None, ...]) -> keras.Layer:
    layer.build(*shapes)
    layer.built = True
    return layer


def plan(model: keras.Layer, **options: object) -> dict[str, tuple[int, ...]]:
    """Map each variable, without the names of its layers, to the axes it is centered over."""
    return {
        row.name.split("/")[-1]: row.axes if row.centered else ()
        for row in zeromean.keras.explain(model, **options)
    }


@once
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_each_recurrent_matrix_is_centered_on_its_own(kind: str, supports: Supports) -> None:
    layer = built(getattr(L, kind)(4), (None, 5, 3))
    assert plan(layer) == {"kernel": (0,), "recurrent_kernel": (0,), "bias": ()}
    supports("Layer", kind, "-", "each matrix over its inputs, no bias")


@once
def test_conv_lstm() -> None:
    layer = built(L.ConvLSTM2D(2, 2), (None, 2, 3, 3, 2))
    assert plan(layer) == {"kernel": (0, 1, 2), "recurrent_kernel": (0, 1, 2), "bias": ()}


@once
def test_separable_convolution_has_a_depthwise_kernel() -> None:
    layer = built(L.SeparableConv2D(3, 2, depth_multiplier=2), (None, 4, 4, 3))
    expected = {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2), "bias": ()}
    assert plan(layer) == expected


@once
def test_attention(supports: Supports) -> None:
    layer = built(L.MultiHeadAttention(2, 3), (None, 5, 4), (None, 5, 4))
    for row in zeromean.keras.explain(layer):
        wanted = (0, 1) if "attention_output" in row.name else (0,)
        assert row.axes == (wanted if row.name.endswith("kernel") else ()), row.name
    supports("Layer", "MultiHeadAttention", "-", "projections over their inputs, no bias")


@once
def test_embeddings_are_optional_and_skip_masked_token(supports: Supports) -> None:
    layer = built(L.Embedding(7, 3, mask_zero=True), (None, 2))
    assert plan(layer) == {"embeddings": ()}
    (row,) = zeromean.keras.explain(layer, embeddings=True)
    assert row.fan_in == FanIn((0,), role="embedding", padding_idx=0)
    supports("Layer", "Embedding", "-", "off; over tokens with embeddings=True")


@once
@pytest.mark.parametrize("tied", [True, False])
def test_tied_embedding_is_left_alone(tied: bool) -> None:
    layer = built(L.ReversibleEmbedding(7, 3, tie_weights=tied), (None, 2))
    other = {} if tied else {"reverse_embeddings": (0,)}
    assert plan(layer, embeddings=True) == {"embeddings": () if tied else (0,), **other}


@once
def test_lora() -> None:
    layers = {
        "dense": L.Dense(5),
        "conv": L.Conv2D(5, 2),
        "out": L.EinsumDense("abc,cde->abde", (None, 2, 3)),
        "in": L.EinsumDense("ab,cb->ac", 5),
    }
    shapes = {"dense": (1, 4), "conv": (1, 3, 3, 4), "out": (None, 6, 4), "in": (1, 4)}
    a = {"dense": (0,), "conv": (0, 1, 2), "out": (0,), "in": ()}
    for name, layer in layers.items():
        built(layer, shapes[name]).enable_lora(2)
        axes = plan(layer)
        assert axes["kernel"] == ()  # frozen
        assert axes["lora_kernel_a"] == a[name]
        assert axes["lora_kernel_b"] == (() if name == "in" else (0,))


@once
@pytest.mark.parametrize("kind", ["BatchNormalization", "LayerNormalization", "RMSNormalization"])
def test_norms_are_left_alone(kind: str) -> None:
    layer = built(getattr(L, kind)(axis=-1), (None, 4, 3))
    assert not zeromean.keras.explain(layer).centered


@once
def test_spectral_norm_uses_the_rule_of_the_wrapped_layer() -> None:
    for inner, axes in ((L.Dense(3), (0,)), (L.Conv2DTranspose(3, 2), (0, 1, 3))):
        layer = built(L.SpectralNormalization(inner), (None, 4, 4, 2))
        assert plan(layer) == {"kernel": axes, "bias": ()}
    layer = built(L.SpectralNormalization(L.Embedding(5, 3)), (None, 2))
    assert plan(layer, embeddings=True) == {"embeddings": (0,)}


@once
def test_slopes_and_unknown_layers_are_left_alone() -> None:
    prelu = built(L.PReLU(), (None, 4, 3))
    (row,) = zeromean.keras.explain(prelu)
    assert (row.centered, row.reason) == (False, "a slope multiplies one input")

    class Mixing(keras.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1], 3))

        def call(self, x):
            return x @ self.table

    layer = built(Mixing(), (None, 4))
    (row,) = zeromean.keras.explain(layer)
    assert "no rule describes Mixing" in row.reason
    try:
        register(Mixing)(
            lambda layer: {"table": FanIn((0,))}
        )  # by attribute; the variable has no name
        (row,) = zeromean.keras.explain(layer)
        assert (row.centered, row.axes, row.reason) == (True, (0,), "Mixing, fan-in 4")
        register(Mixing)(lambda layer: {"tables": FanIn((0,))})
        with pytest.raises(ZeromeanError, match=r"'tables', which .*Mixing does not have"):
            zeromean.keras.explain(layer)
    finally:
        del _rules[Mixing]


@once
def test_fan_in_1_is_left_alone() -> None:
    layer = built(L.Dense(3), (None, 1))
    assert plan(layer) == {"kernel": (), "bias": ()}


@once
def test_options_select_layers() -> None:
    model = keras.Sequential([keras.Input((5, 3)), L.Conv1D(4, 2), L.Flatten(), L.Dense(2)])
    conv, dense = (v.path for v in model.trainable_variables if v.name == "kernel")

    def chosen(**options: object) -> list[str]:
        return [row.name for row in zeromean.keras.explain(model, **options).centered]

    assert chosen() == [conv, dense]
    assert chosen(layers="conv") == [conv]
    assert chosen(layers="linear") == [dense]
    assert chosen(layers=lambda path, layer: isinstance(layer, L.Dense)) == [dense]
    assert {r.axes for r in zeromean.keras.explain(model, scope="tensor").centered} == {
        (0, 1, 2),
        (0, 1),
    }


@once
def test_shared_and_frozen_layers() -> None:
    x = keras.Input((4,))
    shared = L.Dense(4)
    model = keras.Model(x, L.Dense(2, trainable=False)(shared(shared(x))))
    rows = zeromean.keras.explain(model)
    assert len(rows) == 4
    assert [row.centered for row in rows] == [True, False, False, False]
    assert rows[2].reason == "frozen: it is not trainable"


@once
def test_disagreeing_owners_are_left_alone() -> None:
    class Head(keras.Layer):
        def __init__(self, other):
            super().__init__()
            self.kernel = other.embeddings

        def call(self, x):
            return x @ keras.ops.transpose(self.kernel)

    embedding = L.Embedding(7, 3)
    x = keras.Input((2,))
    y = embedding(x)
    model = keras.Model(x, Head(embedding)(y))
    try:
        register(Head)(lambda layer: {"kernel": FanIn((1,))})
        (row,) = zeromean.keras.explain(model)
        assert not row.centered
        assert "tied owners disagree" in row.reason
    finally:
        del _rules[Head]


@pytest.mark.parametrize(
    ("shape", "fan_in"),
    [
        ((6, 4, 3), FanIn((0, 2), groups=3)),
        ((6, 4), FanIn((0,), groups=2)),
        ((5, 3), FanIn((0,), padding_idx=2)),
        ((5, 3, 2), FanIn((0, 2), padding_idx=0)),
    ],
)
def test_groups_and_padding(shape: tuple[int, ...], fan_in: FanIn) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    if fan_in.groups > 1:
        blocks = np.split(x, fan_in.groups)
    else:
        blocks = [np.delete(x, fan_in.padding_idx, 0)]
    blocks = [block - block.mean(fan_in.axes, keepdims=True) for block in blocks]
    expected = np.concatenate(blocks)
    if fan_in.padding_idx is not None:
        expected = np.insert(expected, fan_in.padding_idx, x[fan_in.padding_idx], 0)
    (found,) = values([center(tensors([x])[0], fan_in)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_means_accumulate_in_float32(dtype: str) -> None:
    x = keras.ops.cast(np.full((70_000, 1), 3.0), dtype)  # its sum overflows float16
    (found,) = values([vector_means(x, FanIn((0,)))])
    np.testing.assert_allclose(found, 3.0, rtol=1e-5)
    assert center(x, FanIn((0,))).dtype == x.dtype


def test_infinite_padding_row_affects_no_other_row() -> None:
    x = np.array([[np.inf], [1.0], [3.0]], "float32")
    (found,) = values([center(tensors([x])[0], FanIn((0,), padding_idx=0))])
    np.testing.assert_array_equal(found, [[np.inf], [-1.0], [1.0]])


def test_float16_saturates_instead_of_overflowing() -> None:
    x = np.array([[-65504.0, 65504.0, 65504.0]], "float16")
    (found,) = values([center(tensors([x])[0], FanIn((1,)))])
    np.testing.assert_allclose(found, [[-65504.0, 43680.0, 43680.0]], rtol=1e-3)
