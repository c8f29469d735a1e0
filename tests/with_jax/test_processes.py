"""Tests that need their own process: several devices, and the modules that an import loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import zeromean.jax

assert len(jax.devices()) == 2
axes = {"in": (0,), "out": (0,), "conv": (0, 1, 2)}
specs = {"in": P("d", None), "out": P(None, "d"), "conv": P(None, None, "d", None)}
shapes = {"in": (6, 4), "out": (6, 4), "conv": (3, 3, 4, 6)}
cases = ((jnp.float32, 1e-6, AxisType.Auto), (jnp.bfloat16, 0.04, AxisType.Explicit))
for dtype, tolerance, axis_type in cases:
    def tree(seed):
        rng = np.random.default_rng(seed)
        return {k: jnp.asarray(rng.normal(size=shapes[k]), dtype) for k in sorted(shapes)}
    mesh = jax.make_mesh((2,), ("d",), axis_types=(axis_type,))
    where = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
    put = lambda tree: jax.device_put(tree, where)
    for at in ("gradient", "update"):
        links = [optax.add_decayed_weights(0.1), optax.adamw(0.1)]
        links.insert(1 if at == "gradient" else 2, zeromean.jax.centralize(axes, at=at))
        optimizer = optax.chain(*links)
        @jax.jit
        def step(params, state, gradients):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state
        alone = tree(0)
        state = optimizer.init(alone)
        for n in range(4):
            alone, state = step(alone, state, tree(1 + n))
        with jax.set_mesh(mesh):
            sharded = put(tree(0))
            state = jax.jit(optimizer.init)(sharded)
            for n in range(4):
                sharded, state = step(sharded, state, put(tree(1 + n)))
        for k in shapes:
            assert sharded[k].sharding.is_equivalent_to(where[k], sharded[k].ndim), k
            np.testing.assert_allclose(
                np.asarray(sharded[k], np.float32), np.asarray(alone[k], np.float32),
                atol=tolerance, rtol=0,
            )
print("same")
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sharded_steps_equal_unsharded(supports: Callable[..., None]) -> None:
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    assert run(SHARDED, XLA_FLAGS=flags, JAX_PLATFORMS="cpu") == "same"
    for at in ("gradient", "update"):
        how = "two devices against one, shards of inputs and of outputs"
        supports("Distributed", "jax.jit over a mesh, sharded parameters", at, how)


def test_zeromean_jax_loads_no_torch_and_no_model_library() -> None:
    heavy = ("torch", "flax", "haiku", "equinox", "keras", "tensorflow")
    probe = f"""
import sys, jax.numpy as jnp, optax, zeromean.jax
axes = {{"Dense_0": {{"kernel": 0}}}}
zeromean.jax.explain({{"Dense_0": {{"kernel": jnp.ones((3, 2))}}}}, axes=axes)
optax.chain(zeromean.jax.centralize(axes), optax.sgd(0.1))
print([name for name in {heavy} if name in sys.modules])
"""
    assert run(probe) == "[]"


def test_linen_and_nnx_models_load_no_torch() -> None:
    probe = """
import sys, jax, jax.numpy as jnp, zeromean.jax
from flax import linen, nnx
zeromean.jax.fan_in(linen.Dense(2), jax.random.key(0), jnp.ones((1, 3)))
zeromean.jax.fan_in(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
print("torch" in sys.modules)
"""
    assert run(probe) == "False"
