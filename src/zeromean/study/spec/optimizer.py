"""The optimizers of a study and their customary settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zeromean.study.spec.method import Method
from zeromean.study.spec.task import TIMM_NAME, model_family
from zeromean.study.spec.validation import (
    LARGEST_FLOAT32,
    SettingError,
    Spec,
    check_name,
    check_range,
)


class Customary(NamedTuple):
    """The customary settings of an optimizer.

    Args:
        weight_decay: Weight decay.
        rates: Peak learning rate of each model.
        note: Words before the weight decay in reports.
        settings: Its other settings, with their values.
    """

    weight_decay: float
    rates: Mapping[str, float]
    note: str
    settings: Mapping[str, float]


# Models that share their rates: without normalization, and with it after each layer.
_UNNORMALIZED = ("mlp", "mlp-yaleb", "mlp-svhn", "cnn", "vgga")
_NORMALIZED = (
    "resnet20", "resnet18", "resnet50", "resnet56", "resnet101", "resnext29", "vgg11",
    "densenet121", "googlenet", "googlenet-imagenet", TIMM_NAME,
)  # fmt: skip


def _rates(
    unnormalized: float, normalized: float, horses: float, lstm: float, transformer: float
) -> dict[str, float]:
    return {
        **dict.fromkeys(_UNNORMALIZED, unnormalized),
        **dict.fromkeys(_NORMALIZED, normalized),
        "horses": horses,
        "lstm": lstm,
        "transformer": transformer,
    }


# He et al. train residual networks at 0.1; the small networks have no warm-up and take half.
_SGD = _rates(0.05, 0.1, horses=0.01, lstm=1.0, transformer=0.1)
_ADAM = _rates(1e-3, 1e-3, horses=1e-4, lstm=3e-3, transformer=1e-3)
_ADAGRAD = _rates(1e-2, 1e-2, horses=1e-3, lstm=3e-2, transformer=1e-2)
_MOMENTUM = {"momentum": 0.9, "nesterov": False}
_BETAS = "betas 0.9 and 0.999, "
CUSTOMARY: dict[str, Customary] = {
    "sgd": Customary(5e-4, _SGD, "", _MOMENTUM),
    "sgdw": Customary(5e-4, _SGD, "decoupled ", _MOMENTUM),
    "adam": Customary(0.0, _ADAM, f"{_BETAS}coupled ", {}),
    "adamw": Customary(1e-2, _ADAM, f"{_BETAS}decoupled ", {}),
    "adagrad": Customary(0.0, _ADAGRAD, "coupled ", {}),
    "rmsprop": Customary(0.0, _ADAM, "coupled ", {"alpha": 0.99, "momentum": 0.0}),
}
SETTINGS = ("momentum", "nesterov", "alpha")
# The optimizers that a program makes itself.
OF_PROGRAM = "program"
_PROGRAM = Customary(0.0, {}, "", {})


class Optimizer(Spec, frozen=True):
    """An optimizer; None stands for the customary value.

    Args:
        name: ``sgd``, ``sgdw``, ``adam``, ``adamw``, ``adagrad`` or ``rmsprop``; ``program`` for
            the optimizers of a program.
        label: Name in tables and in the database; empty for ``name``.
        lr: Peak learning rate.
        weight_decay: Weight decay, from 0 to 1.
        momentum: Momentum of ``sgd``, ``sgdw`` and ``rmsprop``, from 0 to below 1.
        nesterov: Whether ``sgd`` and ``sgdw`` use Nesterov momentum.
        alpha: Smoothing constant of ``rmsprop``, from 0 to below 1.
        head_lr_multiplier: Factor of the learning rate of the last linear layer.

    Raises:
        ZeromeanError: The optimizer is unknown, has no such setting, or a value is out of range.

    Example:
        >>> Optimizer("sgd", lr=0.1, weight_decay=0.001).describe()
        'momentum 0.9, weight decay 0.001'
    """

    name: str
    label: str = ""
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    alpha: float | None = None
    head_lr_multiplier: float = 1.0

    def _resolve(self, name: str, value: Any) -> Any:
        return value or self.name if name == "label" else value

    def _check(self) -> None:
        check_name("name", self.name, (*CUSTOMARY, OF_PROGRAM))
        for name in self.changed:
            if self.name == OF_PROGRAM and name not in ("name", "label"):
                raise SettingError(name, f"the program sets its own {name}", f"Remove {name}")
        for name in SETTINGS:
            if getattr(self, name) is not None and name not in self.customary.settings:
                known = ", ".join(["lr", "weight_decay", *self.customary.settings])
                raise SettingError(
                    name, f"{self.name} has no {name}; it has {known}", f"Remove {name}"
                )
        if self.lr is not None:
            check_range("lr", self.lr, 0, LARGEST_FLOAT32, exclusive=True)
        if self.weight_decay is not None:
            check_range("weight_decay", self.weight_decay, 0, 1)
        for name in ("momentum", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise SettingError(
                    name, f"{name} is {value}; it has to be from 0 to below 1", f"Change {name}"
                )
        if self.settings.get("nesterov") and not self.settings["momentum"]:
            raise SettingError("nesterov", "nesterov needs a momentum above 0", "Remove nesterov")
        check_range(
            "head_lr_multiplier", self.head_lr_multiplier, 0, LARGEST_FLOAT32, exclusive=True
        )

    @property
    def customary(self) -> Customary:
        """The customary settings of the optimizer."""
        return _PROGRAM if self.name == OF_PROGRAM else CUSTOMARY[self.name]

    @property
    def settings(self) -> dict[str, float]:
        """Arguments of the optimizer other than learning rate and weight decay."""
        return {
            name: value if getattr(self, name) is None else getattr(self, name)
            for name, value in self.customary.settings.items()
        }

    @property
    def decay(self) -> float:
        """The weight decay if it is not tuned."""
        return self.customary.weight_decay if self.weight_decay is None else self.weight_decay

    @property
    def acts_as(self) -> tuple[Any, ...]:
        """Equal for optimizers that do the same."""
        return (self.name, *self.settings.items(), self.lr, self.decay, self.head_lr_multiplier)

    def rate(self, model: str) -> float:
        """Return the learning rate for a model if neither the study nor its tuning sets one."""
        return self.customary.rates[model_family(model)] if self.lr is None else self.lr

    def describe(self, decays: set[float | None] | None = None) -> str:
        """Return the arguments in words.

        Args:
            decays: The weight decays that were used; None stands for the optimizer's own.
        """
        if self.name == OF_PROGRAM:
            return "the program's own"
        used = sorted({self.decay if one is None else one for one in decays or {None}})
        settings = "".join(
            f"{name if value is True else f'{name} {value:g}'}, "
            for name, value in self.settings.items()
            if value is not False
        )
        head = f"; the last linear layer's rate is {self.head_lr_multiplier:g} times the others'"
        return (
            f"{settings}{self.customary.note}weight decay {', '.join(f'{one:g}' for one in used)}"
            f"{head if self.head_lr_multiplier != 1 else ''}"
        )


def equivalent(one: Method, other: Method, optimizer: Optimizer) -> bool:
    r"""Return whether two methods are the same with an optimizer, up to rounding.

    The step of SGD is linear in the gradient and in the coupled decay, and so is the projection P:
    :math:`P(\eta \sum_t \mu^t (g_t + \lambda w_t)) = \eta \sum_t \mu^t P(g_t + \lambda w_t)`.
    So centering the gradient and centering the update are the same method. With decoupled weight
    decay they are not, unless it is 0.

    Args:
        one, other: The methods.
        optimizer: The optimizer of both.

    Example:
        >>> gc, update = Method("a", gradient="gc"), Method("b", gradient="gc", at="update")
        >>> [equivalent(gc, update, Optimizer(name)) for name in ("sgd", "adam")]
        [True, False]
    """
    if one.changes == other.changes:
        return True
    # If the weight decay is tuned, the optimizer has the customary one here, which is not 0.
    linear = optimizer.name == "sgd" or (optimizer.name == "sgdw" and optimizer.decay == 0)
    # The last field is the place of the centering.
    return linear and one.changes[:-1] == other.changes[:-1]
