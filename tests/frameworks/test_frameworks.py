"""Every framework makes the same steps as torch, for each layer in its own layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax_column
import keras_column
import numpy as np
import pytest
from table import JOBS, LAYERS, PLACES, SETTINGS, Framework, Job, Walk, is_quick, torch_walk

FRAMEWORKS: dict[str, Framework] = {**jax_column.FRAMEWORKS, **keras_column.FRAMEWORKS}

ROWS = [
    pytest.param(
        *(name, row, job),
        id=f"{name}-{row}-{job.setting}-{job.at}",
        marks=[] if is_quick(job) else [pytest.mark.slow],
    )
    for name, framework in FRAMEWORKS.items()
    for row in framework.layers
    for job in JOBS
    if job.layer == row.partition(" (")[0]
    and job.setting in framework.settings
    and job.at in framework.places
]


@pytest.mark.parametrize(("name", "row", "job"), ROWS)
def test_trajectory_equals_torch(
    name: str, row: str, job: Job, supports: Callable[..., None]
) -> None:
    framework = FRAMEWORKS[name]
    walk, expected = framework.walk(row, job), torch_walk(job)
    for part in ("outputs", "weights", "biases"):
        close(getattr(walk, part), getattr(expected, part), framework.tolerance)
    how = f"{job.setting}: the steps of torch, to {framework.tolerance:.0e}"
    supports("Layer", f"{name}: {row}", job.at, how)


def close(own: Any, expected: Any, tolerance: float) -> None:
    assert own.shape == expected.shape
    assert own.dtype == np.float64
    assert np.abs(own - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_torch_trajectory_moves_and_keeps_means(job: Job) -> None:
    """The weights move; the means are kept where ``at`` and the optimizer keep them."""
    walk: Walk = torch_walk(job)
    start = job.weights["weight"]
    assert np.abs(walk.weights - start).max() > 1e-3
    axes = tuple(range(1, start.ndim))
    drift = np.abs(walk.weights.mean(tuple(a + 1 for a in axes)) - start.mean(axes)).max()
    kept = job.at == "update" or SETTINGS[job.setting].optimizer == "sgd"
    assert (drift < 1e-14) == kept


def test_every_row_is_tested() -> None:
    for framework in FRAMEWORKS.values():
        assert {row.partition(" (")[0] for row in framework.layers} <= set(LAYERS)
        assert set(framework.settings) <= set(SETTINGS)
        assert set(framework.places) <= set(PLACES)
    assert len(ROWS) == sum(
        len(f.layers) * len(f.settings) * len(f.places) for f in FRAMEWORKS.values()
    )
