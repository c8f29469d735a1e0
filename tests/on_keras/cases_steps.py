"""Single steps of every Keras optimizer, against the plain optimizer and means by numpy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from toys import L, centered, convnet, fan_ins, furthest, gradients, mean, step, values, with_slow

import zeromean.keras
from zeromean import ZeromeanError, ZeromeanWarning

Supports = Callable[[str, str, str, str], None]
O = keras.optimizers  # noqa: E741

OPTIMIZERS = {
    "SGD": lambda: O.SGD(0.1),
    "SGD, momentum, decay": lambda: O.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda: O.Adam(0.1, amsgrad=True),
    "AdamW": lambda: O.AdamW(0.1, weight_decay=0.1),
    "Adadelta": lambda: O.Adadelta(0.1),
    "Adafactor": lambda: O.Adafactor(0.1),
    "Adagrad": lambda: O.Adagrad(0.1),
    "Adamax": lambda: O.Adamax(0.1),
    "Ftrl": lambda: O.Ftrl(0.1),
    "Lamb": lambda: O.Lamb(0.1),
    "Lion": lambda: O.Lion(0.1, weight_decay=0.1),
    "Muon": lambda: O.Muon(0.1),
    "Nadam": lambda: O.Nadam(0.1),
    "RMSprop": lambda: O.RMSprop(0.1, centered=True, momentum=0.9),
    "ScheduleFreeAdamW": lambda: O.ScheduleFreeAdamW(0.1),
}
REFUSED = {"Ftrl", "ScheduleFreeAdamW"}
QUICK = {"SGD, momentum, decay", "AdamW"}


def test_every_keras_optimizer_is_listed() -> None:
    others = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    found = {
        name
        for name, value in vars(O).items()
        if inspect.isclass(value) and issubclass(value, O.Optimizer)
    }
    assert {name.partition(",")[0] for name in OPTIMIZERS} == found - others


def pair() -> tuple[Any, Any]:
    model, twin = convnet(), convnet()
    assert furthest(values(model.variables), values(twin.variables)) == 0
    return model, twin


@pytest.mark.parametrize("name", with_slow(OPTIMIZERS, QUICK))
def test_gradient_equals_plain_optimizer_on_centered_gradients(
    name: str, supports: Supports
) -> None:
    model, twin = pair()
    over = fan_ins(model)
    optimizer = zeromean.keras.centralize(OPTIMIZERS[name](), model)
    plain = OPTIMIZERS[name]()
    assert isinstance(optimizer, type(plain))
    for seed in range(3):
        arrays = gradients(model.trainable_variables, seed)
        found = step(optimizer, model, arrays)
        expected = step(plain, twin, centered(arrays, over))
        assert furthest(found, expected) < 1e-5
    supports("Optimizer", name, "gradient", "the plain optimizer on centered gradients")


@pytest.mark.parametrize("name", with_slow(sorted(set(OPTIMIZERS) - REFUSED), QUICK))
def test_update_projects_the_whole_change(name: str, supports: Supports) -> None:
    model, twin = pair()
    over = fan_ins(model)
    optimizer = zeromean.keras.centralize(OPTIMIZERS[name](), model, at="update")
    plain = OPTIMIZERS[name]()
    start = values(model.trainable_variables)
    for seed in range(3):
        arrays = gradients(model.trainable_variables, seed)
        before = values(twin.trainable_variables)
        found = step(optimizer, model, arrays)
        after = step(plain, twin, arrays)
        for variable, new, old, fan_in in zip(
            twin.trainable_variables, after, before, over, strict=True
        ):
            if fan_in is not None:
                variable.assign(new + (mean(old, fan_in) - mean(new, fan_in)).astype("float32"))
        assert furthest(found, values(twin.trainable_variables)) < 1e-5
    kept = [(mean(a, f), mean(b, f)) for a, b, f in zip(start, found, over, strict=True) if f]
    assert all(np.abs(a - b).max() < 1e-6 for a, b in kept)
    supports("Optimizer", name, "update", "the plain step, then means restored by numpy")


def clipped_by_norm(arrays: list[np.ndarray], norm: float) -> list[np.ndarray]:
    return [a * min(1, norm / np.linalg.norm(a)) for a in arrays]


def clipped_together(arrays: list[np.ndarray], norm: float) -> list[np.ndarray]:
    total = np.sqrt(sum((a**2).sum() for a in arrays))
    return [a * min(1, norm / total) for a in arrays]


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"clipnorm": 0.5}, lambda arrays: clipped_by_norm(arrays, 0.5)),
        ({"global_clipnorm": 0.5}, lambda arrays: clipped_together(arrays, 0.5)),
        ({"clipvalue": 0.1}, lambda arrays: [a.clip(-0.1, 0.1) for a in arrays]),
    ],
    ids=["clipnorm", "global_clipnorm", "clipvalue"],
)
@pytest.mark.parametrize("accumulated", [1, 2])
def test_gradients_are_averaged_clipped_centered(
    options: dict[str, float],
    clip: Callable[[list[np.ndarray]], list[np.ndarray]],
    accumulated: int,
    supports: Supports,
) -> None:
    model = convnet()
    over = fan_ins(model)
    if accumulated > 1:
        options = {**options, "gradient_accumulation_steps": accumulated}
    optimizer = zeromean.keras.centralize(O.SGD(1.0, **options), model)
    start = values(model.trainable_variables)
    drawn = [gradients(model.trainable_variables, seed) for seed in range(accumulated)]
    for arrays in drawn:
        found = step(optimizer, model, arrays)
    averaged = [sum(arrays) / accumulated for arrays in zip(*drawn, strict=True)]
    expected = [w - g for w, g in zip(start, centered(clip(averaged), over), strict=True)]
    assert furthest(found, expected) < 1e-6
    other = [w - g for w, g in zip(start, clip(centered(averaged, over)), strict=True)]
    assert furthest(found, other) > 1e-3
    what = "accumulated, then clipped" if accumulated > 1 else "clipped"
    supports("Number", f"gradients, {what}, then centered", "gradient", "numpy's")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_loss_scale_optimizer_centers_unscaled_gradients(at: str, supports: Supports) -> None:
    model, twin = pair()
    optimizer = O.LossScaleOptimizer(O.SGD(0.1), initial_scale=8.0)
    assert zeromean.keras.centralize(optimizer, model, at=at) is optimizer
    plain = zeromean.keras.centralize(O.SGD(0.1), twin, at=at)
    arrays = gradients(model.trainable_variables)
    found = step(optimizer, model, [8 * a for a in arrays])
    assert furthest(found, step(plain, twin, arrays)) < 1e-6
    assert furthest(step(optimizer, model, [a * np.inf for a in arrays]), found) == 0
    assert str(zeromean.keras.explain(optimizer)) == str(zeromean.keras.explain(model))
    supports("Driver", "LossScaleOptimizer", at, "the unscaled step; a skipped step moves nothing")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_loss_scale_factor_and_a_schedule(at: str) -> None:
    model, twin = pair()
    schedule = O.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = zeromean.keras.centralize(O.SGD(schedule, loss_scale_factor=4.0), model, at=at)
    plain = zeromean.keras.centralize(O.SGD(0.1), twin, at=at)
    for seed in range(2):
        arrays = gradients(model.trainable_variables, seed)
        found = step(optimizer, model, [4 * a for a in arrays])
        expected = step(plain, twin, arrays)
        plain.learning_rate = 0.05
    assert furthest(found, expected) < 1e-6


def test_parts_of_multi_optimizer_are_centralized() -> None:
    model, twin = pair()
    with pytest.raises(ZeromeanError, match="Centralize the optimizers of its map"):
        zeromean.keras.centralize(O.MultiOptimizer(O.OptimizerMap(O.SGD(0.1))), model)
    parts = [zeromean.keras.centralize(make(), model) for make in (O.SGD, O.Adam)]
    optimizer = O.MultiOptimizer(O.OptimizerMap(parts[0], {".*dense.*": parts[1]}))
    plain = O.MultiOptimizer(O.OptimizerMap(O.SGD(), {".*dense.*": O.Adam()}))
    arrays = gradients(model.trainable_variables)
    expected = step(plain, twin, centered(arrays, fan_ins(model)))
    assert furthest(step(optimizer, model, arrays), expected) < 1e-6
    left = [row for row in parts[1].plan if row.reason == "not a variable of this optimizer"]
    assert len(left) == 3


def test_custom_optimizer() -> None:
    class Signs(O.Optimizer):
        def update_step(self, gradient, variable, learning_rate):
            self.assign_sub(variable, keras.ops.sign(gradient) * learning_rate)

    model, twin = pair()
    arrays = gradients(model.trainable_variables)
    optimizer = zeromean.keras.centralize(Signs(0.1), model)
    found = step(optimizer, model, arrays)
    expected = step(Signs(0.1), twin, centered(arrays, fan_ins(model)))
    assert furthest(found, expected) < 1e-6


def test_without_model_all_axes_but_the_last() -> None:
    model, twin = pair()
    with pytest.warns(ZeromeanWarning, match="depthwise and separable"):
        optimizer = zeromean.keras.centralize(O.SGD(1.0))
    arrays = gradients(model.trainable_variables)
    by_shape = [
        a - a.mean(tuple(range(a.ndim - 1)), keepdims=True)
        if a.ndim > 1 and a[..., 0].size > 1
        else a
        for a in arrays
    ]
    found = step(optimizer, model, arrays)
    assert furthest(found, step(O.SGD(1.0), twin, by_shape)) < 1e-6
    assert {row.reason.partition(",")[0] for row in optimizer.plan.centered} == {
        "by its shape alone"
    }
    with pytest.warns(ZeromeanWarning, match="without a model"):
        convs = zeromean.keras.centralize(O.SGD(), layers="conv")
    convs.build(twin.trainable_variables)
    assert {len(row.shape) for row in convs.plan.centered} == {4}


def test_embeddings_are_centered_over_tokens() -> None:
    model = keras.Sequential([keras.Input((2,)), L.Embedding(6, 3, mask_zero=True)])
    (table,) = values(model.trainable_variables)
    optimizer = zeromean.keras.centralize(O.SGD(1.0), model, embeddings=True)
    (array,) = gradients(model.trainable_variables)
    (found,) = step(optimizer, model, [array])
    array[1:] -= array[1:].mean(0)
    np.testing.assert_allclose(found, table - array, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="independent of the backend")
def test_unmoved_half_precision_vector_gets_no_correction() -> None:
    dense = L.Dense(2, dtype="bfloat16", use_bias=False)
    model = keras.Sequential([keras.Input((3,)), dense])
    optimizer = zeromean.keras.centralize(O.SGD(1.0), model, at="update")
    optimizer.build(model.trainable_variables)
    optimizer._rounding_errors[0].assign(np.full((1, 2), 0.5))
    (before,) = values([dense.kernel])
    gradient = keras.ops.cast(np.array([[0, 1], [0, 0], [0, 0]]), "bfloat16")
    (after,) = step(optimizer, model, [gradient])
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert after[:, 1].mean() - before[:, 1].mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_keep_their_means(dtype: str, supports: Supports) -> None:
    """With the rounding error carried, the drift stays far below a rounding step."""

    def drift(centralized: bool) -> float:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((256,)), L.Dense(4, dtype=dtype)])
        optimizer = O.RMSprop(1e-3, weight_decay=0.1)  # Keras' Adam does not move in bfloat16
        if centralized:
            optimizer = zeromean.keras.centralize(optimizer, model, at="update")
        kernel = model.layers[0].kernel
        (before,) = values([kernel])
        for seed in range(100):
            arrays = gradients(model.trainable_variables, seed)
            step(optimizer, model, [keras.ops.cast(a, dtype) for a in arrays])
        (after,) = values([kernel])
        assert str(kernel.dtype) == dtype
        moved = np.abs(after.mean(0, dtype="float64") - before.mean(0, dtype="float64"))
        return float(moved.max() / after.std())

    assert drift(True) < 2e-3
    assert drift(False) > 0.1
    supports("Number", f"{dtype} weights", "update", "means after 100 RMSprop steps")
