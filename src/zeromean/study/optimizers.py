"""The optimizers that a study can use, and their settings: names joined by ``+``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zeromean.errors import ZeromeanError
from zeromean.reparam.nnn import NaturalLinear
from zeromean.study.networks.build import OF_TIMM
from zeromean.study.run import Candidate
from zeromean.study.settings import LARGEST_FLOAT32, SettingError
from zeromean.study.sgdw import SGDW

# Settings that every optimizer has.
SHARED = ("lr", "decay", "head-lr")


@dataclass(frozen=True)
class OptimizerKind:
    """One optimizer by its bare name.

    Args:
        make: From param groups, ``lr``, ``weight_decay`` and ``settings`` to the optimizer.
        weight_decay: The customary one.
        learning_rates: The customary learning rate of each network.
        note: What is said before the weight decay, in reports.
        settings: Arguments of ``make`` that a name can set, with the customary values: numbers
            from 0 to below 1, or False for what is named to be switched on.
    """

    make: Callable[..., Optimizer]
    weight_decay: float
    learning_rates: Mapping[str, float]
    note: str
    settings: Mapping[str, float] = field(default_factory=dict)


# Networks that share their customary rates: without normalization, and with it after each layer.
PLAIN = ("mlp", "mlp-yaleb", "mlp-svhn", "cnn", "vgga")
NORMALIZED = (
    "resnet20", "resnet18", "resnet50", "resnet56", "resnet101", "resnext29", "vgg11",
    "densenet121", "googlenet", "googlenet-imagenet", OF_TIMM,
)  # fmt: skip


def _rates(
    images: float, lstm: float, transformer: float, residual: float, horses: float
) -> dict[str, float]:
    return {
        **dict.fromkeys(PLAIN, images),
        **dict.fromkeys(NORMALIZED, residual),
        "horses": horses,
        "lstm": lstm,
        "transformer": transformer,
    }


# He et al. train residual networks at 0.1; the small networks go without a warm-up at half.
_SGD_RATES = _rates(0.05, lstm=1.0, transformer=0.1, residual=0.1, horses=0.01)
_ADAM_RATES = _rates(1e-3, lstm=3e-3, transformer=1e-3, residual=1e-3, horses=1e-4)
_MOMENTUM = {"momentum": 0.9, "nesterov": False}

OPTIMIZERS: dict[str, OptimizerKind] = {
    "sgd": OptimizerKind(torch.optim.SGD, 5e-4, _SGD_RATES, "", _MOMENTUM),
    "sgdw": OptimizerKind(SGDW, 5e-4, _SGD_RATES, "decoupled ", _MOMENTUM),
    "adam": OptimizerKind(torch.optim.Adam, 0.0, _ADAM_RATES, "betas 0.9 and 0.999, coupled "),
    "adamw": OptimizerKind(torch.optim.AdamW, 1e-2, _ADAM_RATES, "betas 0.9 and 0.999, decoupled "),
    "adagrad": OptimizerKind(
        torch.optim.Adagrad,
        0.0,
        _rates(1e-2, lstm=3e-2, transformer=1e-2, residual=1e-2, horses=1e-3),
        "coupled ",
    ),
    "rmsprop": OptimizerKind(
        torch.optim.RMSprop, 0.0, _ADAM_RATES, "coupled ", {"alpha": 0.99, "momentum": 0.0}
    ),
}


@dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer by its name: bare, or with settings, such as ``sgd+lr=0.1+momentum=0``.

    Args:
        name: As it was given.
        kind: What the name begins with.
        settings: All of the kind's, as they are.
        lr: Peak learning rate that the name sets, or None.
        decay: Weight decay that the name sets, or None.
        head: How many times the others' rate that of the last linear layer is.

    Example:
        >>> OptimizerChoice.parse("sgd+lr=0.1+decay=0.001").describe({None})
        'momentum 0.9, weight decay 0.001'
    """

    name: str
    kind: OptimizerKind
    settings: Mapping[str, float]
    lr: float | None = None
    decay: float | None = None
    head: float = 1.0

    @classmethod
    def parse(cls, name: str) -> OptimizerChoice:
        """The optimizer of that name.

        Raises:
            ZeromeanError: It is unknown, has no such setting, or one that cannot be.
        """
        bare, *parts = name.split("+")
        if bare not in OPTIMIZERS:
            raise ZeromeanError(
                f"optimizer {bare!r}", ", ".join(OPTIMIZERS), "name one of these optimizers"
            )
        kind = OPTIMIZERS[bare]
        found: dict[str, float] = {}
        for part in parts:
            key, value = _setting(name, bare, part)
            if key in found:
                raise ZeromeanError(
                    f"optimizer {name!r} with {key} twice", "each setting once", "leave one out"
                )
            found[key] = value
        settings = {**kind.settings, **{key: found[key] for key in found if key in kind.settings}}
        if settings.get("nesterov") and not settings["momentum"]:
            raise ZeromeanError(
                f"optimizer {name!r}", "nesterov with a momentum above 0", "leave one out"
            )
        return cls(
            name, kind, settings, found.get("lr"), found.get("decay"), found.get("head-lr", 1.0)
        )

    @property
    def _weight_decay(self) -> float:
        return self.kind.weight_decay if self.decay is None else self.decay

    @property
    def means(self) -> tuple[Any, ...]:
        """Equal for names that mean the same."""
        return (self.kind.make, *self.settings.items(), self.lr, self._weight_decay, self.head)

    def rate(self, model: str) -> float:
        """The learning rate where neither the study nor its tuning tells one."""
        return self.kind.learning_rates[model] if self.lr is None else self.lr

    def build(self, network: nn.Module, candidate: Candidate) -> Optimizer:
        """An optimizer of all parameters of the network.

        Raises:
            ZeromeanError: The name sets a rate of the last linear layer, and there is none.
        """
        decay, rate = candidate.weight_decay, candidate.lr
        groups: list[dict[str, Any]] = [{"params": [*network.parameters()]}]
        if self.head != 1:
            of_head = {id(one) for one in self._last_linear(network).parameters()}
            body = [one for one in network.parameters() if id(one) not in of_head]
            head = [one for one in network.parameters() if id(one) in of_head]
            # A single linear layer is all head.
            groups = [{"params": body}] if body else []
            groups.append({"params": head, "lr": min(self.head * rate, LARGEST_FLOAT32)})
        return self.kind.make(
            groups,
            lr=rate,
            weight_decay=self._weight_decay if decay is None else decay,
            **self.settings,
        )

    def _last_linear(self, network: nn.Module) -> nn.Module:
        linear = [one for one in network.modules() if isinstance(one, nn.Linear | NaturalLinear)]
        if not linear:
            raise SettingError(
                "optimizers",
                f"optimizer {self.name} for a network without a linear layer",
                "a linear layer for head-lr",
                "leave head-lr out, or use another model",
            )
        return linear[-1]

    def describe(self, decays: set[float | None]) -> str:
        """The arguments, for reports; ``decays`` are those that were used."""
        shown = sorted({self._weight_decay if one is None else one for one in decays})
        settings = "".join(
            f"{key if value is True else f'{key} {value:g}'}, "
            for key, value in self.settings.items()
            if value is not False
        )
        head = f"; the last linear layer's rate is {self.head:g} times the others'"
        return (
            f"{settings}{self.kind.note}weight decay {', '.join(f'{one:g}' for one in shown)}"
            f"{head if self.head != 1 else ''}"
        )


def _setting(name: str, bare: str, part: str) -> tuple[str, float]:
    """Key and value of one part of an optimizer's name."""
    key, equals, text = part.partition("=")
    settings = OPTIMIZERS[bare].settings
    if settings.get(key) is False:
        if not equals:
            return key, True
        raise ZeromeanError(
            f"optimizer {name!r} with {part!r}", key, "leave the number out, or the whole part"
        )
    if key not in (*SHARED, *settings):
        known = ", ".join(
            one if settings.get(one) is False else f"{one}=NUMBER" for one in (*SHARED, *settings)
        )
        raise ZeromeanError(
            f"optimizer {name!r} with {part!r}", f"{bare}, with any of {known}", "mend the setting"
        )
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    wanted, right = {
        "lr": ("a positive float32", 0 < number <= LARGEST_FLOAT32),
        "head-lr": ("a positive float32", 0 < number <= LARGEST_FLOAT32),
        "decay": ("a number from 0 to 1", 0 <= number <= 1),
    }.get(key, ("a number from 0 to below 1", 0 <= number < 1))
    if not right:
        raise ZeromeanError(
            f"optimizer {name!r} with {part!r}", f"{key}={wanted}", "mend the number"
        )
    return key, number
