"""Baselines: implementations of the same optimizer step, with and without centering."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean import optim
from zeromean.bench.tensors import Shapes
from zeromean.centralization.centralize import centralize
from zeromean.errors import ZeromeanWarning

At = Literal["gradient", "update"]


@dataclass(frozen=True)
class Hyper:
    """An optimizer with its hyperparameters.

    Args:
        name: Class name in ``torch.optim`` and ``zeromean.optim``.
        options: Arguments of the class.
        bytes_per_parameter: Bytes that one step must read and write per float32 parameter: weight,
            gradient and state in, weight and state out.
    """

    name: str
    options: Mapping[str, Any]
    bytes_per_parameter: int


OPTIMIZERS: dict[str, Hyper] = {
    "sgd": Hyper("SGD", {"lr": 1e-3, "momentum": 0.9}, bytes_per_parameter=4 * 5),
    "adamw": Hyper(
        "AdamW",
        {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
        bytes_per_parameter=4 * 7,
    ),
}


@dataclass(frozen=True)
class Work:
    """The tensors and hyperparameters of one step, equal for all baselines.

    Args:
        hyper: Optimizer and hyperparameters.
        shapes: Shapes of the weights.
        device: Device of the weights.
        dtype: Type of weights and gradients (default float32).
    """

    hyper: Hyper
    shapes: Shapes
    device: torch.device
    dtype: torch.dtype = torch.float32

    def weights(self) -> list[Tensor]:
        """Return new weights, the same numbers at each call."""
        return self._draw(seed=0)

    def gradients(self) -> list[Tensor]:
        """Return new gradients, the same numbers at each call."""
        return self._draw(seed=1)

    def parameters(self) -> list[nn.Parameter]:
        """Return new parameters with gradients."""
        parameters = [nn.Parameter(weight) for weight in self.weights()]
        for parameter, gradient in zip(parameters, self.gradients(), strict=True):
            parameter.grad = gradient
        return parameters

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def _draw(self, seed: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        return [
            torch.randn(shape, generator=random).mul_(0.01).to(self.device, self.dtype)
            for shape in self.shapes
        ]


class Unavailable(Exception):  # noqa: N818
    """A baseline cannot run here; the message says why."""


Make = Callable[[Hyper, list[nn.Parameter], "nn.Module | None"], Optimizer]
"""A function from hyperparameters, parameters and (optionally) their model to an optimizer."""


@dataclass(frozen=True)
class Running:
    """A baseline with its tensors.

    Args:
        step: Function that makes one step.
        weights: Function that returns the current weights as CPU tensors.
        optimizer: The torch optimizer, if there is one.
    """

    step: Callable[[], object]
    weights: Callable[[], list[Tensor]]
    optimizer: Optimizer | None = None


@dataclass(frozen=True)
class Baseline:
    """One implementation of a step.

    Args:
        name: Name in tables.
        centers: Where it centers, or None.
        start: Function that creates its tensors; raises :class:`Unavailable` if it cannot run.
        make: Function that creates its torch optimizer, for whole training steps, or None.
        plain: Name of the same implementation without centering, or None.
    """

    name: str
    centers: At | None
    start: Callable[[Work], Running]
    make: Make | None = None
    plain: str | None = None


def from_optimizer(
    name: str, make: Make, centers: At | None = None, plain: str | None = None
) -> Baseline:
    """Return the baseline of a torch optimizer."""
    return Baseline(name, centers, partial(_start_optimizer, make), make, plain)


def _start_optimizer(
    make: Make, work: Work, before: Callable[[list[nn.Parameter]], None] | None = None
) -> Running:
    parameters = work.parameters()
    optimizer = make(work.hyper, parameters, None)

    def step() -> None:
        if before is not None:
            before(parameters)
        optimizer.step()

    return Running(
        optimizer.step if before is None else step,
        lambda: [parameter.detach().cpu() for parameter in parameters],
        optimizer,
    )


# --- torch and zeromean ---------------------------------------------------------------------------


def torch_native(
    hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None, **flags: bool
) -> Optimizer:
    """Create torch's optimizer with these flags; without flags it is torch's default."""
    try:
        optimizer = getattr(torch.optim, hyper.name)(parameters, **hyper.options, **flags)
    except RuntimeError as error:  # torch refuses flags that the device does not support
        raise Unavailable(f"not supported on {parameters[0].device.type}") from error
    return optimizer  # type: ignore[no-any-return]


fused: Make = partial(torch_native, fused=True)


def centralized(
    make: Make,
    at: At,
    hyper: Hyper,
    parameters: list[nn.Parameter],
    model: nn.Module | None,
) -> Optimizer:
    """Create an optimizer and centralize it."""
    optimizer = make(hyper, parameters, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeromeanWarning)  # no model, on purpose
        centralize(optimizer, model, at=at)
    return optimizer


def drop_in(
    at: At, hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None
) -> Optimizer:
    """Create the optimizer of ``zeromean.optim``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeromeanWarning)  # no model, on purpose
        made: Optimizer = getattr(optim, hyper.name)(
            parameters, **hyper.options, model=model, at=at
        )
    return made


def _center_each(parameters: list[nn.Parameter]) -> None:
    """Center gradients as the published code does."""
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.ndim > 1:
            gradient.add_(-gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True))


def _touch_each(parameters: list[nn.Parameter]) -> None:
    """Read and write each gradient: the least that a separate pass over them can cost."""
    torch._foreach_add_([p.grad for p in parameters if p.grad is not None], 0.0)


TORCH = (
    from_optimizer("torch fused", fused),
    from_optimizer("torch foreach", partial(torch_native, foreach=True)),
    from_optimizer("torch default", torch_native),
)
ZEROMEAN = tuple(
    from_optimizer(f"{name}, at {at}", partial(make, at), at, plain)
    for name, make, plain in (
        ("zeromean.optim", drop_in, "torch fused"),
        ("centralize(torch fused)", partial(centralized, fused), "torch fused"),
        ("centralize(torch default)", partial(centralized, torch_native), "torch default"),
    )
    for at in ("gradient", "update")
)
EXTRA_PASS = (
    Baseline(
        "torch fused, one more pass",
        None,
        partial(_start_optimizer, fused, before=_touch_each),
        plain="torch fused",
    ),
    Baseline(
        "published loop, torch fused",
        "gradient",
        partial(_start_optimizer, fused, before=_center_each),
        plain="torch fused",
    ),
)


# --- Optional packages ----------------------------------------------------------------------------


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        reason = "not installed" if error.name == module else f"{error.name} is not installed"
        raise Unavailable(reason) from error
    except Exception as error:  # jax raises a RuntimeError if its parts do not match
        raise Unavailable("cannot be imported") from error


def _pytorch_optimizer(
    use_gc: bool, hyper: Hyper, parameters: list[nn.Parameter], model: nn.Module | None
) -> Optimizer:
    """Create AdamP with ``delta=0``, which is AdamW; neither its SGD nor its AdamW has GC."""
    package = _optional("pytorch_optimizer")
    if hyper.name != "AdamW":
        raise Unavailable(f"its {hyper.name} has no GC")
    made: Optimizer = package.AdamP(parameters, **hyper.options, delta=0.0, use_gc=use_gc)
    return made


def _start_optax(centers: bool, work: Work) -> Running:
    """Start a jitted optax step with weights and state donated."""
    # jax reads both when it starts: as many threads as torch, and no reserved GPU memory.
    os.environ.setdefault("PJRT_NPROC", str(torch.get_num_threads()))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax, optax = _optional("jax"), _optional("optax")
    try:
        platform = {"cpu": "cpu", "cuda": "gpu"}[work.device.type]
        device = jax.devices(platform)[work.device.index or 0]
    except (KeyError, RuntimeError, IndexError) as error:
        raise Unavailable(f"jax has no device {work.device}") from error
    options = dict(work.hyper.options)
    if work.hyper.name == "SGD":
        rule = optax.sgd(options["lr"], momentum=options["momentum"])
    else:
        b1, b2 = options.pop("betas")
        rule = optax.adamw(options.pop("lr"), b1=b1, b2=b2, **options)
    transform = optax.chain(optax.centralize(), rule) if centers else rule

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(weights: Any, state: Any, gradients: Any) -> Any:
        changes, state = transform.update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state

    def to_jax(tensors: list[Tensor]) -> list[Any]:
        # A copy, because jax must own donated arrays.
        copies = [jax.numpy.array(tensor.cpu().numpy(), copy=True) for tensor in tensors]
        return [jax.device_put(copy, device) for copy in copies]

    weights, gradients = to_jax(work.weights()), to_jax(work.gradients())
    state = transform.init(weights)

    def step() -> None:
        nonlocal weights, state
        weights, state = jax.block_until_ready(update(weights, state, gradients))

    def current() -> list[Tensor]:
        return [torch.from_numpy(jax.device_get(weight).copy()) for weight in weights]

    return Running(step, current)


OPTIONAL = (
    from_optimizer("pytorch_optimizer", partial(_pytorch_optimizer, False)),
    from_optimizer(
        "pytorch_optimizer, use_gc",
        partial(_pytorch_optimizer, True),
        "gradient",
        "pytorch_optimizer",
    ),
    Baseline("optax, jitted", None, partial(_start_optax, False)),
    Baseline(
        "optax, jitted, centralize",
        "gradient",
        partial(_start_optax, True),
        plain="optax, jitted",
    ),
)

# All are compared with the first that runs on the device.
BASELINES: tuple[Baseline, ...] = (*TORCH, *ZEROMEAN, *EXTRA_PASS, *OPTIONAL)
