"""compile and fit, custom loops, saved files and distribution."""

from __future__ import annotations

import copy
import csv
import functools
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from toys import L, batch, convnet, furthest, mean, means, values

import zeromean.keras
from zeromean import ZeromeanError, ZeromeanWarning
from zeromean.keras.model import unwrap

Supports = Callable[[str, str, str, str], None]
O = keras.optimizers  # noqa: E741
BACKEND = keras.backend.backend()


once = pytest.mark.skipif(BACKEND != "torch", reason="independent of the backend")


def fit(model: Any, **options: Any) -> Any:
    x, y = batch()
    options = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, **options)


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_fit_keeps_means_and_moves_weights(at: str, supports: Supports) -> None:
    model, plain = convnet(), convnet()
    make = O.SGD if at == "gradient" else O.AdamW
    model.compile(zeromean.keras.centralize(make(0.01), model, at=at), loss="mse")
    plain.compile(make(0.01), loss="mse")
    start = means(model)
    fit(model)
    fit(plain)
    assert furthest(means(model), start) < 1e-6
    assert furthest(values(model.variables), values(plain.variables)) > 1e-3
    assert furthest(means(plain), start) > 1e-3
    supports("Driver", "compile and fit", at, "means kept, weights unlike the plain ones")


# torch compiles C++, which takes half a minute on a busy machine.
SLOW_ON_TORCH = [pytest.mark.slow] if BACKEND == "torch" else []


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("gradient", marks=pytest.mark.slow),
        pytest.param("update", marks=SLOW_ON_TORCH),
    ],
)
def test_compiled_fit_equals_fit(at: str, supports: Supports) -> None:
    if BACKEND == "torch" and shutil.which("c++") is None:
        pytest.skip("no C++ compiler, which torch.compile needs")
    make = O.SGD if at == "gradient" else O.AdamW
    found = []
    for compiled in (True, False):
        keras.utils.set_random_seed(0)
        one = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(1, 3), L.Flatten(), L.Dense(3)])
        optimizer = zeromean.keras.centralize(make(0.01), one, at=at)
        one.compile(optimizer, loss="mse", jit_compile=compiled)
        fit(one, epochs=1)  # torch compiles each of the first steps
        found.append(values(one.variables))
    assert furthest(*found) < 1e-5
    supports("Driver", "compile and fit, jit_compile", at, "equal to fit")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_mixed_precision(at: str, supports: Supports) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = convnet()
    finally:
        keras.config.set_dtype_policy(before)
    model.compile(zeromean.keras.centralize(O.SGD(0.01), model, at=at), loss="mse")
    assert isinstance(model.optimizer, O.LossScaleOptimizer)  # compile does that
    model.optimizer.initial_scale = 8.0
    start = means(model)
    fit(model)
    assert furthest(values(model.variables), values(convnet().variables)) > 1e-3
    assert furthest(means(model), start) < 1e-6
    supports("Driver", "mixed_float16", at, "means kept in fit")


def test_averaged_weights_and_accumulation(supports: Supports) -> None:
    model = convnet()
    adam = O.Adam(0.01, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2)
    model.compile(zeromean.keras.centralize(adam, model, at="update"), loss="mse")
    start = means(model)
    fit(model)
    assert furthest(values(model.variables), values(convnet().variables)) > 1e-3
    assert furthest(means(model), start) < 1e-6
    supports("Driver", "accumulation and averaged weights", "update", "means kept in fit")


@once
def test_model_built_by_fit() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([L.Flatten(), L.Dense(3)])
    optimizer = zeromean.keras.centralize(O.SGD(0.01), model)
    model.compile(optimizer, loss="mse")
    with pytest.raises(ZeromeanError, match="not built yet"):
        zeromean.keras.explain(optimizer)
    with pytest.raises(ZeromeanError, match="Call it on a batch first"):
        zeromean.keras.explain(model)
    with pytest.raises(ZeromeanError, match="Call it on a batch first"):
        optimizer.get_config()
    fit(model, epochs=1)
    assert [row.centered for row in zeromean.keras.explain(model.optimizer)] == [True, False]


class Twice(keras.Model):
    """A subclassed model with a layer used twice and a layer in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = L.Flatten()
        self.shared = L.Dense(72)
        self.heads = [L.Dense(3)]

    def call(self, x: Any) -> Any:
        return self.heads[0](self.shared(self.shared(self.flat(x))))


@once
def test_subclassed_model_with_shared_layer() -> None:
    keras.utils.set_random_seed(0)
    model = Twice()
    model.compile(zeromean.keras.centralize(O.SGD(0.01), model), loss="mse")
    model(batch()[0])
    start = means(model)
    before = values(model.variables)
    fit(model)
    assert len(start) == 2
    assert furthest(means(model), start) < 1e-6
    assert furthest(values(model.variables), before) > 1e-3


@once
def test_layers_frozen_before_compile() -> None:
    model = convnet()
    model.layers[0].trainable = False
    optimizer = zeromean.keras.centralize(O.SGD(0.01), model)
    model.compile(optimizer, loss="mse")
    frozen = values(model.layers[0].variables)
    fit(model)
    assert furthest(values(model.layers[0].variables), frozen) == 0
    reasons = [row.reason for row in optimizer.plan if not row.centered]
    assert "frozen: it is not trainable" in reasons


@once
def test_uncalled_layer_and_no_trainable_weights() -> None:
    model = Twice()
    model.heads.append(L.Dense(5))  # it has no variables
    with pytest.warns(UserWarning, match="it has unbuilt state"):  # Keras'
        model(batch()[0])
    model.compile(zeromean.keras.centralize(O.SGD(0.01), model), loss="mse")
    fit(model, epochs=1)
    assert len(zeromean.keras.explain(model.optimizer).centered) == 2
    frozen = convnet()
    frozen.trainable = False
    frozen.compile(zeromean.keras.centralize(O.SGD(0.01), frozen), loss="mse")
    with (
        pytest.warns(ZeromeanWarning, match="nothing is centered"),
        pytest.warns(UserWarning, match="any trainable weights"),  # Keras'
    ):
        fit(frozen, epochs=1)


@once
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies(how: Callable[[Any], Any]) -> None:
    model = convnet()
    optimizer = zeromean.keras.centralize(O.Adam(0.01), model, layers="conv")
    again = how(optimizer)
    again.build(model.trainable_variables)
    optimizer.build(model.trainable_variables)
    assert plan_text(again) == plan_text(optimizer)


@once
def test_callbacks_find_the_optimizer() -> None:
    model = convnet()
    model.compile(zeromean.keras.centralize(O.Adam(0.01), model), loss="mse")
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(model, callbacks=[halved])
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.0025)


@pytest.mark.parametrize(("at", "scaled"), [("gradient", False), ("update", True)])
def test_saved_model_resumes_exactly(
    at: str, scaled: bool, tmp_path: Path, supports: Supports
) -> None:
    model = convnet()
    optimizer = O.SGD(0.01, momentum=0.9, name="mine")
    if scaled:
        optimizer = O.LossScaleOptimizer(optimizer)
    zeromean.keras.centralize(optimizer, model, at=at)
    model.compile(optimizer, loss="mse")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(unwrap(loaded.optimizer), O.SGD)
    assert unwrap(loaded.optimizer).name == "mine"
    assert plan_text(loaded.optimizer) == plan_text(model.optimizer)
    start = means(loaded)
    fit(model)
    fit(loaded)
    assert furthest(means(loaded), start) < 1e-6
    assert furthest(values(loaded.variables), values(model.variables)) == 0
    what = "a saved model, LossScaleOptimizer" if scaled else "a saved model"
    supports("Driver", what, at, "training resumes exactly")


def plan_text(optimizer: Any) -> list[tuple[Any, ...]]:
    return [
        (row.shape, row.fan_in, row.centered, row.reason)
        for row in zeromean.keras.explain(optimizer)
    ]


@once
def test_model_saved_before_training(tmp_path: Path) -> None:
    model = convnet()
    model.compile(zeromean.keras.centralize(O.SGD(0.01), model, layers="conv"), loss="mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert plan_text(loaded.optimizer) == [
        (row.shape, row.fan_in, row.centered, row.reason)
        for row in zeromean.keras.explain(model, layers="conv")
    ]


@once
def test_h5_file_predicts(tmp_path: Path) -> None:
    """Keras' loader of such files builds the optimizer without variables, so it cannot train."""
    model = convnet()
    loss = keras.losses.MeanSquaredError()
    model.compile(zeromean.keras.centralize(O.SGD(0.01, momentum=0.9), model), loss=loss)
    fit(model)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert furthest(values(loaded.variables), values(model.variables)) == 0


def test_half_precision_state_is_saved(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), L.Flatten(dtype="bfloat16"), L.Dense(3, dtype="bfloat16")]
    )
    optimizer = zeromean.keras.centralize(O.RMSprop(0.01), model, at="update")
    model.compile(optimizer, loss="mse")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert furthest(values(loaded.optimizer.variables), values(model.optimizer.variables)) == 0
    errors = [v for v in loaded.optimizer.variables if "zeromean_rounding_error" in v.path]
    assert len(errors) == 1
    assert np.abs(values(errors)[0]).max() > 0


@keras.saving.register_keras_serializable("test")
class Signs(O.Optimizer):
    """A custom optimizer."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, keras.ops.sign(gradient) * learning_rate)


@keras.saving.register_keras_serializable("test")
class Adam(O.Adam):
    """A custom optimizer with a name that Keras uses."""


@once
@pytest.mark.parametrize("make", [Signs, Adam, O.Lamb], ids=["own", "own Adam", "Lamb"])
def test_config_of_any_optimizer(make: Any) -> None:
    model = convnet()
    with pytest.warns(ZeromeanWarning, match="without a model"):
        optimizer = zeromean.keras.centralize(make(0.01), layers="conv", scope="tensor")
    again = O.deserialize(json.loads(json.dumps(O.serialize(optimizer))))
    again.build(model.trainable_variables)
    optimizer.build(model.trainable_variables)
    assert isinstance(again, make)
    assert plan_text(again) == plan_text(optimizer)
    third = O.deserialize(json.loads(json.dumps(O.serialize(again))))
    third.build(convnet().trainable_variables)
    assert plan_text(third) == plan_text(optimizer)
    other = O.deserialize(O.serialize(again))
    with pytest.raises(ZeromeanError, match="saved for 6 other variables"):
        other.build(model.trainable_variables[2:])


@once
def test_saved_class_name_is_independent_of_the_backend() -> None:
    """Keras saves torch's variant of SGD under a name that other backends do not have."""
    config = json.dumps(O.serialize(zeromean.keras.centralize(O.SGD(0.01), convnet())))
    assert '"module": "keras.optimizers", "class_name": "SGD"' in config


@once
def test_loading_without_zeromean_names_the_module(tmp_path: Path) -> None:
    model = convnet()
    model.compile(zeromean.keras.centralize(O.SGD(0.01), model), loss="mse")
    model.save(tmp_path / "model.keras")
    probe = f"import keras; keras.models.load_model({str(tmp_path / 'model.keras')!r})"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "zeromean.keras" in done.stderr


@once
def test_attaching_during_training_warns() -> None:
    model = convnet()
    model.compile(O.SGD(0.01), loss="mse")
    fit(model, epochs=1)
    with pytest.warns(ZeromeanWarning, match="compile the model again"):
        optimizer = zeromean.keras.centralize(model.optimizer, model)
    model.compile(optimizer, loss="mse")
    start = means(model)
    fit(model)
    assert furthest(means(model), start) < 1e-6


@once
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: zeromean.keras.centralize("sgd", m), r"must be a keras\.optimizers\.Optimizer"),
        (lambda m: zeromean.keras.centralize(O.SGD(), "m"), "must be a Keras model or layer"),
        (lambda m: zeromean.keras.centralize(O.SGD(), m, at="backward"), 'at="backward"'),
        (lambda m: zeromean.keras.centralize(O.SGD(), m, layers="convs"), 'layers="convs"'),
        (lambda m: zeromean.keras.centralize(O.SGD(), m, scope="all"), 'scope="all"'),
        (lambda m: zeromean.keras.centralize(O.SGD(), embeddings=True), "needs the model"),
        (lambda m: zeromean.keras.centralize(O.SGD(), layers=lambda *a: True), "there is no model"),
        (lambda m: zeromean.keras.centralize(O.Ftrl(), m, at="update"), "from sums of gradients"),
        (
            lambda m: zeromean.keras.centralize(O.ScheduleFreeAdamW(), m, at="update"),
            "keeps its own mean",
        ),
        (
            lambda m: zeromean.keras.centralize(zeromean.keras.centralize(O.SGD(), m), m),
            "already centralized",
        ),
        (lambda m: zeromean.keras.explain(O.SGD()), "SGD has no plan"),
        (
            lambda m: zeromean.keras.explain(zeromean.keras.centralize(O.SGD(), m)),
            "not built yet",
        ),
        (
            lambda m: zeromean.keras.explain(zeromean.keras.centralize(O.SGD(), m), layers="conv"),
            "not built yet",
        ),
    ],
)
def test_invalid_calls_raise(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        call(convnet())


@once
def test_keras_without_multi_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(O, "MultiOptimizer")  # Keras 3.6 to 3.10 have none
    model = convnet()
    optimizer = zeromean.keras.centralize(O.SGD(), model)
    optimizer.build(model.trainable_variables)
    assert len(optimizer.plan.centered) == 4


@once
def test_invalid_calls_on_a_built_optimizer_raise() -> None:
    model, other = convnet(), convnet()
    optimizer = zeromean.keras.centralize(O.SGD(), model)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ZeromeanError, match="layers cannot be combined with an optimizer"):
        zeromean.keras.explain(optimizer, layers="conv")
    stranger = zeromean.keras.centralize(O.SGD(), other)
    for _ in range(2):
        with pytest.raises(ZeromeanError, match="share no variable"):
            stranger.build(model.trainable_variables)
    stranger.build(other.trainable_variables)
    built = O.SGD()
    built.build(model.trainable_variables)
    with pytest.raises(ZeromeanError, match="share no variable"):
        zeromean.keras.centralize(built, other)
    assert len(zeromean.keras.centralize(built, model).plan.centered) == 4
    half = zeromean.keras.centralize(O.SGD(), model.layers[0])
    with pytest.warns(ZeromeanWarning, match="4 of the optimizer's variables"):
        half.build(model.trainable_variables)
    assert len(half.plan.centered) == 1
    nothing = zeromean.keras.centralize(O.SGD(), model, layers=lambda path, layer: False)
    with pytest.warns(ZeromeanWarning, match="nothing is centered"):
        nothing.build(model.trainable_variables)


def test_monitor_measures_the_gradient_of_the_step(supports: Supports) -> None:
    model = convnet()
    model.compile(O.SGD(0.1), loss="mse")
    rows = zeromean.keras.explain(model).centered
    weights = [row.parameter for row in rows]
    found: list[tuple[Any, list[np.ndarray]]] = []
    old = values(weights)
    x, y = batch()
    monitor = zeromean.keras.Monitor(
        (x[:8], y[:8]), 3, to=lambda sample: found.append((sample, values(weights)))
    )
    fit(model, callbacks=[monitor])
    (first, new), (second, _) = found
    assert (first.step, second.step, first.optimizer, first.at) == (0, 3, "SGD", None)
    for layer, row, before, after in zip(first.layers, rows, old, new, strict=True):
        g = (before - after) / 0.1
        means_of_g = mean(g, row.fan_in)
        rest = g - means_of_g
        close = functools.partial(pytest.approx, rel=1e-3)
        assert layer.gradient_norm == close(np.linalg.norm(g))
        assert layer.gradient_max_centered == close(np.abs(rest).max())
        assert layer.removed == close(1 - (rest**2).sum() / (g**2).sum())
        assert layer.weight_mean == close(np.sqrt((mean(after, row.fan_in) ** 2).mean()))
        assert layer.weight_mean_drift == close(0.1 * np.sqrt((means_of_g**2).mean()))
        assert layer.update_ratio == close(np.linalg.norm(after - before) / np.linalg.norm(before))
    supports("Driver", "Monitor", "-", "numbers equal those of the step itself")


@once
def test_monitor_does_not_change_training(tmp_path: Path) -> None:
    found = []
    for callbacks in ([], [zeromean.keras.Monitor(batch(), 3, to=tmp_path / "monitor.csv")]):
        model = convnet(kernel_regularizer="l2")
        model = keras.Sequential(
            [*model.layers[:-1], L.BatchNormalization(), L.Dropout(0.5, seed=0), model.layers[-1]]
        )
        optimizer = O.LossScaleOptimizer(O.Adam(0.01), initial_scale=8.0)
        zeromean.keras.centralize(optimizer, model, at="update")
        model.compile(optimizer, loss="mse")
        fit(model, callbacks=callbacks)
        found.append(values(model.variables))
    assert furthest(*found) == 0
    rows = list(csv.DictReader((tmp_path / "monitor.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0"] * 4 + ["3"] * 4
    assert {row["optimizer"] for row in rows} == {"Adam"}
    assert max(float(row["weight_mean_drift"]) for row in rows) < 1e-6
    assert min(float(row["update_ratio"]) for row in rows) > 0


@once
def test_monitor_shows_what_a_multi_optimizer_centers() -> None:
    model = convnet()
    optimizers = O.OptimizerMap(zeromean.keras.centralize(O.SGD(0.1), model))
    optimizers[".*/dense.*"] = O.Adam()
    optimizers["no variable"] = zeromean.keras.centralize(O.SGD(0.1), model, at="update")
    model.compile(O.MultiOptimizer(optimizers), loss="mse")
    samples: list[Any] = []
    fit(model, callbacks=[zeromean.keras.Monitor(batch(), to=samples.append)])
    assert (samples[0].optimizer, samples[0].at) == ("MultiOptimizer", "gradient")
    names = [row.name for row in zeromean.keras.explain(model).centered]
    assert [layer.name for layer in samples[0].layers] == names[:3]


@once
def test_monitor_counts_the_batches_of_accumulated_steps() -> None:
    model = convnet()
    model.compile(O.SGD(0.1, gradient_accumulation_steps=2), loss="mse")
    samples: list[Any] = []
    monitor = zeromean.keras.Monitor(batch(), 3, to=samples.append)
    for _ in range(2):
        model.fit(*batch(5), batch_size=1, verbose=0, callbacks=[monitor])
    assert [sample.step for sample in samples] == [0, 3, 5, 8]


@once
def test_monitor_leaves_out_frozen_layers() -> None:
    model = convnet()
    optimizer = zeromean.keras.centralize(O.SGD(0.1), model)
    optimizer.build(model.trainable_variables)
    model.layers[0].trainable = False
    model.compile(optimizer, loss="mse")
    samples: list[Any] = []
    fit(model, callbacks=[zeromean.keras.Monitor(batch(), to=samples.append)])
    names = [row.name for row in zeromean.keras.explain(model).centered]
    assert [layer.name for layer in samples[0].layers] == names


@once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 3}, "not a pair"),
        ({"every": 0}, "every=0 is not a whole number"),
        ({"to": 3}, "neither a function"),
    ],
)
def test_invalid_monitor_raises(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        zeromean.keras.Monitor(**{"batch": batch(), "to": print, **arguments})


def loop_on_tensorflow(model: Any, optimizer: Any, x: Any, y: Any) -> None:
    import tensorflow as tf

    @tf.function
    def train() -> None:
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    for _ in range(2):
        train()


def loop_on_torch(model: Any, optimizer: Any, x: Any, y: Any) -> None:
    y = keras.ops.convert_to_tensor(y)
    for _ in range(2):
        model.zero_grad()
        keras.ops.mean((model(x, training=True) - y) ** 2).backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)  # with or without no_grad


def loop_on_jax(model: Any, optimizer: Any, x: Any, y: Any) -> None:
    import jax

    optimizer.build(model.trainable_variables)

    def loss(trainable: Any, others: Any) -> Any:
        found, _ = model.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean((found - y) ** 2)

    @jax.jit
    def train(trainable: Any, others: Any, state: Any) -> Any:
        gradients = jax.grad(loss)(trainable, others)
        return optimizer.stateless_apply(state, gradients, trainable)

    trainable = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    state = [v.value for v in optimizer.variables]
    for _ in range(2):
        trainable, state = train(trainable, others, state)
    for variable, value in zip(model.trainable_variables, trainable, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_custom_loop_equals_fit(at: str, supports: Supports) -> None:
    model, twin = convnet(), convnet()
    optimizer = zeromean.keras.centralize(O.SGD(0.01, momentum=0.9), model, at=at)
    x, y = batch()
    globals()[f"loop_on_{BACKEND}"](model, optimizer, x, y)
    twin.compile(zeromean.keras.centralize(O.SGD(0.01, momentum=0.9), twin, at=at), loss="mse")
    fit(twin, batch_size=16)
    assert furthest(values(model.trainable_variables), values(twin.trainable_variables)) < 1e-5
    supports("Driver", "a custom training loop", at, "equal to fit")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow only")
def test_two_replicas_equal_one(supports: Supports) -> None:
    """tf.distribute, in a separate process: TensorFlow must split devices when it starts."""
    probe = Path(__file__).with_name("replicas.py")
    done = subprocess.run([sys.executable, probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for at in ("gradient", "update"):
        supports("Distributed", "MirroredStrategy, 2 replicas", at, "fit as with one")


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_two_devices_equal_one(at: str, supports: Supports) -> None:
    def train(distribution: Any) -> Any:
        keras.distribution.set_distribution(distribution)
        model = convnet()
        model.compile(zeromean.keras.centralize(O.AdamW(0.01), model, at=at), loss="mse")
        fit(model)
        return values(model.variables)

    try:
        found = train(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
    finally:
        keras.distribution.set_distribution(None)
    assert len(keras.distribution.list_devices()) == 2
    assert furthest(found, train(None)) < 1e-5
    supports("Distributed", "DataParallel, 2 devices", at, "fit as with one")


def test_variable_without_gradient_does_not_move() -> None:
    model = convnet()
    optimizer = zeromean.keras.centralize(O.SGD(0.1), model, at="update")
    optimizer.build(model.trainable_variables)
    before = values(model.trainable_variables)
    gradients: list[Any] = [None] * len(before)
    gradients[1] = keras.ops.ones(3)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(gradients)
    after = values(model.trainable_variables)
    assert furthest(after[:1] + after[2:], before[:1] + before[2:]) == 0
