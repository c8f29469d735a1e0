"""What one jitted optax step costs with GC and without: interleaved, medians of paired ratios.

    python benchmarks/jax_step.py [--repeats 25]

ResNet-50's 161 tensors in Flax's layout, parameters and state donated. Every contender has tensors
of its own. A round times each once, in turn and right behind a step of its own, so that a slow
moment of a shared machine meets all of them; a ratio is the median over rounds of its time by that
of optax without GC in the same round. Processor time, over all threads, is measured beside the time
on the clock: it suffers less from what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import optax

from zeromean.jax import centralize, centralized

Tree = dict[str, jax.Array]
Step = Callable[[], None]


def resnet50() -> dict[str, tuple[int, ...]]:
    """ResNet-50's kernels (k, k, in, out), gains and biases."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, 64), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(1, 1, inputs, width), (width,), (width,)]
            shapes += [(3, 3, width, width), (width,), (width,)]
            shapes += [(1, 1, width, 4 * width), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(1, 1, inputs, 4 * width), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return {str(n): shape for n, shape in enumerate([*shapes, (2048, 1000), (1000,)])}


def contenders() -> dict[str, dict[str, optax.GradientTransformation]]:
    """The optimizers to compare, the first of each without GC."""
    axes = {name: tuple(range(len(shape) - 1)) for name, shape in resnet50().items()}
    adamw, sgd, decay = optax.adamw(1e-3), optax.sgd(1e-3, 0.9), optax.add_decayed_weights(1e-4)
    found = {}
    for name, base in (("adamw", adamw), ("sgd, momentum", sgd)):
        found[name] = {
            f"optax.{name}": base,
            "optax.centralize (wrong axes here)": optax.chain(optax.centralize(), base),
            "zeromean.jax, at gradient": centralized(base, axes=axes),
            "zeromean.jax, at update": centralized(base, axes=axes, at="update"),
        }
    found["sgd, momentum, coupled decay"] = {
        "optax.chain(add_decayed_weights, sgd)": optax.chain(decay, sgd),
        "optax.centralize (wrong axes here)": optax.chain(decay, optax.centralize(), sgd),
        "zeromean.jax, at gradient": optax.chain(decay, centralize(axes), sgd),
    }
    return found


def make_step(optimizer: optax.GradientTransformation) -> Step:
    """One jitted step on tensors of its own, which waits for its results."""

    def tree(seed: int) -> Tree:
        keys = jax.random.split(jax.random.key(seed), len(resnet50()))
        named = zip(resnet50().items(), keys, strict=True)
        return {name: 0.01 * jax.random.normal(key, shape) for (name, shape), key in named}

    gradients, params = tree(1), tree(0)
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Tree, state: optax.OptState, gradients: Tree) -> tuple[Tree, optax.OptState]:
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def step() -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(update(params, state, gradients))

    return step


def measure(steps: dict[str, Step], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds on the clock, seconds of processors) of each step in each round."""
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step()  # what ran just before leaves its mark on caches and memory: let it be itself
            clock, processors = time.perf_counter(), time.process_time()
            step()
            times[name].append((time.perf_counter() - clock, time.process_time() - processors))
    return times


def main() -> None:
    """Print one table for each optimizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    chosen = parser.parse_args()
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].device_kind}")
    for name, optimizers in contenders().items():
        steps = {contender: make_step(optimizer) for contender, optimizer in optimizers.items()}
        times = measure(steps, chosen.repeats)
        base = next(iter(times.values()))
        print(f"\n| {name} | ms | of optax without GC | in processor time |\n|---|---|---|---|")
        for contender, taken in times.items():
            clock, processors = (
                statistics.median(a[part] / b[part] for a, b in zip(taken, base, strict=True))
                for part in (0, 1)
            )
            ms = 1e3 * statistics.median(a[0] for a in taken)
            print(f"| {contender} | {ms:.1f} | {clock:.2f} | {processors:.2f} |")


if __name__ == "__main__":
    main()
