"""optax, jitted with its weights and state donated, with ``optax.centralize`` and without."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zeromean.bench.contestants.contestant import Absent, Contestant, Running, optional
from zeromean.bench.work import Hyper, Work


def _start(centers: bool, work: Work) -> Running:
    # Both are read when jax first looks for devices: as many threads as torch has, and no more of
    # a GPU's memory than is needed.
    os.environ.setdefault("PJRT_NPROC", str(torch.get_num_threads()))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax, optax = optional("jax"), optional("optax")
    device = _device(jax, work.device)
    rule = _rule(optax, work.hyper)
    transform = optax.chain(optax.centralize(), rule) if centers else rule

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(weights: Any, state: Any, gradients: Any) -> Any:
        changes, state = transform.update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state

    def moved(tensors: list[Tensor]) -> list[Any]:
        # A copy: jax must own what is donated.
        copies = [jax.numpy.array(tensor.cpu().numpy(), copy=True) for tensor in tensors]
        return [jax.device_put(copy, device) for copy in copies]

    weights, gradients = moved(work.weights()), moved(work.gradients())
    state = transform.init(weights)

    def step() -> None:
        nonlocal weights, state
        weights, state = jax.block_until_ready(update(weights, state, gradients))

    def now() -> list[Tensor]:
        return [torch.from_numpy(jax.device_get(weight).copy()) for weight in weights]

    return Running(step, now)


def _device(jax: Any, device: torch.device) -> Any:
    platform = {"cpu": "cpu", "cuda": "gpu"}.get(device.type)
    try:
        return jax.devices(platform)[device.index or 0] if platform else _missing(device)
    except (RuntimeError, IndexError) as error:
        raise Absent(f"jax has no {device}") from error


def _missing(device: torch.device) -> None:
    raise Absent(f"not tried on {device.type}")


def _rule(optax: Any, hyper: Hyper) -> Any:
    options = dict(hyper.options)
    if hyper.name == "SGD":
        return optax.sgd(options["lr"], momentum=options["momentum"])
    beta1, beta2 = options.pop("betas")
    return optax.adamw(options.pop("lr"), b1=beta1, b2=beta2, **options)


OPTAX = (
    Contestant("optax, jitted", None, partial(_start, False)),
    Contestant("optax, jitted, centralize", "gradient", partial(_start, True)),
)
