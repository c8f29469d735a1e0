"""The Keras backends of the table, in float64, each in a separate process.

``KERAS_BACKEND=... python keras_column.py FILE QUICK`` computes the rows of that backend: the
quick jobs, or the others.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import numpy as np
from table import JOBS, LAYERS, SETTINGS, Array, Framework, Job, Layout, Walk, is_quick

BACKENDS = ("torch", "jax", "tensorflow")
# Keras rounds some float64 numbers to float32: rates on TensorFlow, losses elsewhere.
TOLERANCE = 1e-6
PARTS = ("outputs", "weights", "biases")
# Not the process id: a later process may have the same one, and would read old results.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid4().hex


class Stored(Protocol):
    """The interface of :class:`Layout`."""

    def own(self, weight: Array) -> Array: ...
    def canonical(self, own: Array) -> Array: ...


class PerInput:
    """The layout of a depthwise kernel: (out, 1, k, k) as (k, k, in, multiplier)."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs

    def own(self, weight: Array) -> Array:
        return weight.reshape(self.inputs, -1, *weight.shape[2:]).transpose(2, 3, 0, 1)

    def canonical(self, own: Array) -> Array:
        return own.transpose(2, 3, 0, 1).reshape(-1, 1, *own.shape[:2])


class LayerClass(NamedTuple):
    """Name, options and weight layout of a Keras layer."""

    kind: str
    options: Mapping[str, Any]
    layout: Stored


def last(kernel: int, *, swapped: bool = False) -> Layout:
    """(k..., in, out), or (k..., out, in)."""
    return Layout((*range(2, 2 + kernel), *((0, 1) if swapped else (1, 0))))


def conv(name: str, filters: int, size: tuple[int, ...], **options: Any) -> LayerClass:
    swapped = name.endswith("Transpose")
    options = {"filters": filters, "kernel_size": size, **options}
    return LayerClass(name, options, last(len(size), swapped=swapped))


LAYER_CLASSES = {
    "Linear": LayerClass("Dense", {"units": 3}, last(0)),
    "Conv1d": conv("Conv1D", 4, (5,)),
    "Conv2d": conv("Conv2D", 4, (3, 2), strides=2),
    "Conv2d, grouped": conv("Conv2D", 6, (3, 3), groups=2),
    "Conv2d, depthwise": LayerClass(
        "DepthwiseConv2D", {"kernel_size": (3, 3), "depth_multiplier": 2}, PerInput(4)
    ),
    "Conv2d, depthwise (groups)": conv("Conv2D", 8, (3, 3), groups=4),
    "Conv3d": conv("Conv3D", 5, (2, 3, 2)),
    "ConvTranspose1d": conv("Conv1DTranspose", 4, (3,), strides=2),
    "ConvTranspose2d": conv("Conv2DTranspose", 4, (3, 2), strides=2),
    "ConvTranspose2d, square": conv("Conv2DTranspose", 3, (3, 3)),
    "ConvTranspose3d": conv("Conv3DTranspose", 4, (2, 3, 2)),
}


def rows(backend: str) -> tuple[str, ...]:
    """The rows of a backend; TensorFlow cannot differentiate grouped convolutions on a CPU."""
    grouped = {"Conv2d, grouped", "Conv2d, depthwise (groups)"} if backend == "tensorflow" else ()
    return tuple(row for row in LAYER_CLASSES if row not in grouped)


def key(row: str, job: Job, part: str) -> str:
    return "|".join((row, job.setting, job.at, part))


@cache
def walks(backend: str, quick: bool) -> Mapping[str, Array]:
    """The walks of a backend, computed once even if tests run in parallel."""
    file = Path(tempfile.gettempdir()) / f"zeromean-{RUN}-{backend}-{quick}.npz"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            settings = {
                "KERAS_BACKEND": backend,
                "JAX_ENABLE_X64": "1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }
            done = subprocess.run(
                [sys.executable, __file__, file, str(quick)],
                env=os.environ | settings,
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as found:
        return dict(found)


def recall(backend: str, row: str, job: Job) -> Walk:
    return Walk(*(walks(backend, is_quick(job))[key(row, job, part)] for part in PARTS))


def walk(row: str, job: Job) -> Walk:
    """Train one layer by ``train_on_batch``, in this process and on its backend."""
    import keras

    import zeromean.keras

    own, setting = LAYER_CLASSES[row], SETTINGS[job.setting]
    coupled = (
        setting.optimizer == "sgd"
    )  # Keras' weight decay is decoupled; the loss must contain it
    decay = keras.regularizers.L2(setting.weight_decay / 2) if coupled else None
    prefix = "depthwise" if own.kind.startswith("Depthwise") else "kernel"
    regularized = {f"{prefix}_regularizer": decay, "bias_regularizer": decay}
    layer = getattr(keras.layers, own.kind)(**own.options, **regularized)
    shape = LAYERS[job.layer].inputs
    model = keras.Sequential([keras.Input((*shape[2:], shape[1])), layer])
    layer.set_weights([own.layout.own(job.weights["weight"]), job.weights["bias"]])
    if coupled:
        optimizer = keras.optimizers.SGD(setting.lr, setting.momentum)
    else:
        optimizer = keras.optimizers.AdamW(
            setting.lr, setting.weight_decay, *setting.betas, setting.eps
        )
    model.compile(
        zeromean.keras.centralize(optimizer, model, at=job.at),
        loss=lambda _, out: keras.ops.mean(out**2) + keras.ops.mean(out),
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    outputs, weights, biases = None, [], []
    for batch in np.moveaxis(job.inputs, 2, -1):
        if outputs is None:
            outputs = np.moveaxis(np.asarray(model.predict_on_batch(batch)), -1, 1)
        model.train_on_batch(batch, np.zeros(len(batch)))
        weight, bias = layer.get_weights()
        weights.append(own.layout.canonical(weight))
        biases.append(bias)
    assert outputs is not None
    return Walk(outputs, np.stack(weights), np.stack(biases))


def main(file: str, quick: str) -> None:
    import keras

    keras.config.set_floatx("float64")
    found = {}
    for row in rows(keras.backend.backend()):
        for job in JOBS:
            if job.layer == row.partition(" (")[0] and str(is_quick(job)) == quick:
                made = walk(row, job)
                found |= {key(row, job, part): getattr(made, part) for part in PARTS}
    np.savez(file, **found)


FRAMEWORKS = {
    f"Keras on {backend}": Framework(rows(backend), partial(recall, backend), tolerance=TOLERANCE)
    for backend in BACKENDS
}

if __name__ == "__main__":
    main(*sys.argv[1:])
