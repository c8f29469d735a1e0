"""Time jitted optax steps on ResNet-50's tensors in Flax's layout, with and without GC.

    python benchmarks/jax_step.py [--repeats 11] [--memory-optimized]

Parameters and state are donated. Prints wall time and processor time relative to the same optimizer
without GC, and the size of XLA's temporary arrays. ``--memory-optimized`` compiles with XLA's
memory-optimized CPU scheduler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

from zeromean.bench.paired_timing import time_in_turn
from zeromean.bench.tensors import TENSORS
from zeromean.jax import centralize
from zeromean.tables import Table

# torch's (out, in, k...) as (k..., in, out)
SHAPES = [(*shape[2:], *shape[1::-1]) for shape in TENSORS["resnet50"].shapes]
AXES = [tuple(range(len(shape) - 1)) for shape in SHAPES]


def optimizers() -> dict[str, dict[str, optax.GradientTransformation]]:
    """Return the optimizers to compare, the first of each group without GC."""
    decay = optax.add_decayed_weights(1e-4)
    adamw, sgd = optax.adamw(1e-3), optax.sgd(1e-3, 0.9)
    at_gradient, at_update = centralize(AXES), centralize(AXES, at="update")
    wrong_axes = optax.centralize()
    groups = {
        name: {
            "no GC": base,
            "optax.centralize (wrong axes)": optax.chain(wrong_axes, base),
            "zeromean.jax, at gradient": optax.chain(at_gradient, base),
            "zeromean.jax, at update": optax.chain(base, at_update),
        }
        for name, base in (("adamw", adamw), ("sgd, momentum", sgd))
    }
    groups["sgd, momentum, coupled decay"] = {
        "no GC": optax.chain(decay, sgd),
        "optax.centralize (wrong axes)": optax.chain(decay, wrong_axes, sgd),
        "zeromean.jax, at gradient": optax.chain(decay, at_gradient, sgd),
    }
    return groups


def compiled_step(
    optimizer: optax.GradientTransformation, options: dict[str, str]
) -> tuple[Callable[[], None], float]:
    """Return a step on its own tensors, and the size of its temporary arrays in MB."""

    def tensors(seed: int) -> list[jax.Array]:
        keys = jax.random.split(jax.random.key(seed), len(SHAPES))
        return [0.01 * jax.random.normal(*pair) for pair in zip(keys, SHAPES, strict=True)]

    def update(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    gradients, params = tensors(1), tensors(0)
    state = optimizer.init(params)
    jitted = jax.jit(update, donate_argnums=(0, 1), compiler_options=options)
    compiled = jitted.lower(params, state, gradients).compile()

    def step() -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(compiled(params, state, gradients))

    return step, compiled.memory_analysis().temp_size_in_bytes / 1e6


def main() -> None:
    """Print one table per optimizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=11, help="number of rounds")
    parser.add_argument("--memory-optimized", action="store_true")
    arguments = parser.parse_args()
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    options = options if arguments.memory_optimized else {}
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].device_kind}")
    for name, group in optimizers().items():
        made = {one: compiled_step(optimizer, options) for one, optimizer in group.items()}
        steps = {one: step for one, (step, _) in made.items()}
        wall = time_in_turn(steps, arguments.repeats)
        cpu = time_in_turn(steps, arguments.repeats, clock=time.process_time)
        rows = [
            (
                one,
                f"{1e3 * wall.median(one):.1f}",
                f"{wall.ratio(one, 'no GC'):.2f}",
                f"{cpu.ratio(one, 'no GC'):.2f}",
                f"{megabytes:.0f}",
            )
            for one, (_, megabytes) in made.items()
        ]
        header = (name, "ms", "wall ratio", "processor ratio", "temporaries, MB")
        print(f"\n{Table(header, rows).markdown()}", flush=True)


if __name__ == "__main__":
    main()
