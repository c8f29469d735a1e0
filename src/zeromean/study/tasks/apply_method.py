"""The effect of a method on networks and optimizers."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from zeromean.centralization.centralize import centralize
from zeromean.centralization.explain import explain
from zeromean.centralization.zscore import standardize_gradients
from zeromean.errors import ZeromeanWarning
from zeromean.reparam import reparametrize
from zeromean.study.networks.initialization import initialize
from zeromean.study.spec.method import Method
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.normalization import normalize_by


def prepare_network(network: nn.Module, method: Method) -> None:
    """Change a fresh network in place, before it gets an optimizer.

    Random numbers come from torch's global state.
    """
    if method.normalization is not None:
        normalize_by(network, kind=method.normalization)
    if method.initialization is not None:
        initialize(network, name=method.initialization)
    if method.reparametrization is not None:
        reparametrize(
            network,
            method.reparametrization,
            layers=method.layers,
            init=method.init,
            mean=method.mean,
            eps=method.eps,
        )


def attach(optimizer: Optimizer, network: nn.Module, method: Method) -> None:
    """Change what an optimizer does to its network; gradients are clipped before centering.

    Methods without centering get an empty plan. Then the same kernels make their steps, and a
    difference in time is the cost of centering.
    """

    def clip(*arguments: object) -> None:
        if method.clip_value is not None:
            clip_grad_value_(network.parameters(), method.clip_value)
        if method.clip_norm is not None:
            clip_grad_norm_(network.parameters(), method.clip_norm)

    if method.clip_value is not None or method.clip_norm is not None:
        optimizer.register_step_pre_hook(clip)
    if method.gradient == "zscore":
        standardize_gradients(optimizer, network)
    if method.gradient in (None, "zscore"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Nothing is centered", ZeromeanWarning)
            centralize(optimizer, network, layers=lambda name, module: False)
    else:
        centralize(
            optimizer,
            network,
            at=method.at,
            layers="conv" if method.gradient == "gc-conv" else "all",
            scope="tensor" if method.gradient == "gc-tensor" else "vector",
        )


def check_layers(network: nn.Module, method: Method, task: str) -> None:
    """Raise if a part of a method has no layer to act on.

    Args:
        network: The network without the method.
        method: The method.
        task: Label of the task, for the message.

    Raises:
        ZeromeanError: A part has none.
    """
    needed = {
        "conv": method.gradient == "gc-conv"
        or (method.reparametrization is not None and method.layers == "conv"),
        "linear": method.reparametrization == "nnn",
    }
    roles = {row.role for row in explain(network)}
    for role, wanted in needed.items():
        if wanted and role not in roles:
            raise SettingError(
                "methods",
                f'the method "{method.label}" needs {role} layers, and the network of {task} has'
                " none",
                "Leave that method out, or use another model",
            )
