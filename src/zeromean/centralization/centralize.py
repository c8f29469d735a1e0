"""One line that centralizes any torch optimizer: hooks around its step, nothing else touched."""

from __future__ import annotations

from typing import Any, Literal, Protocol
from weakref import ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from zeromean.centralization.at_backward import AtBackward
from zeromean.centralization.at_gradient import AtGradient, project_momentum, warn_of_momentum
from zeromean.centralization.at_update import AtUpdate
from zeromean.centralization.fingerprint import describe, erase, stamp, warn_of_another
from zeromean.centralization.optimizer_traits import WeightDecay, unwrap
from zeromean.centralization.targets import Targets
from zeromean.centralization.validate import (
    refuse_model,
    refuse_optimizer,
    refuse_subjects,
    refuse_without_effect,
)
from zeromean.errors import ZeromeanError
from zeromean.plan import Layers, Plan, Scope, check_option


def centralize(
    optimizer: Optimizer,
    model: nn.Module | None = None,
    *,
    at: Literal["gradient", "update", "backward"] = "gradient",
    layers: Layers = "all",
    embeddings: bool = False,
    scope: Scope = "vector",
    weight_decay: Literal["auto"] | WeightDecay = "auto",
    project_state: bool = False,
) -> Handle:
    r"""Centralize an optimizer: from now on each step is zero-mean over every fan-in.

    With :math:`P g = g - \operatorname{mean}(g)` over each weight vector's fan-in axes,

    - ``at="gradient"`` lets the optimizer see :math:`P(g)`, or :math:`P(g + \lambda w)` where its
      weight decay is coupled. This writes into ``.grad`` during ``step``.
    - ``at="update"`` projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps the mean it had before the step.
    - ``at="backward"`` centers each gradient as soon as it is accumulated, for optimizers that step
      during the backward pass. Gradients are centered before they are clipped, and coupled weight
      decay is refused.

    For SGD the first two agree; for adaptive methods the authors advise the second. The optimizer's
    class and state stay as they were; its param groups, and with them its checkpoints, get one line
    of text that lets :func:`zeromean.status` tell when a copy or a resumed run forgot to centralize
    again. Parameters added later are planned when first seen.

    Args:
        optimizer: Any ``torch.optim.Optimizer``.
        model: The model whose layers tell the fan-in axes. Without it only shapes are known
            (dimensions 1.. of every parameter with two or more), and a warning says so.
        at: "gradient" (default), "update" or "backward".
        layers: "all" (default); "conv", every convolution, transposed ones and Conv1d too;
            "linear", everything else that has fan-in axes; or a predicate of a module's full name
            and the module. Without a model "conv" means four or more dimensions.
        embeddings: Whether embeddings are centered too, over their tokens without the
            ``padding_idx`` row (default False).
        scope: "vector" (default), or "tensor", an ablation that takes the mean of the whole tensor.
        weight_decay: "auto" (default) reads from the param groups and a table of known optimizers
            whether decay is added to the gradient ("coupled") or applied beside it ("decoupled").
        project_state: Project momentum buffers once, for attaching in the middle of a run
            (default False).

    Returns:
        A handle that detaches by ``remove()`` or as a context manager.

    Raises:
        ZeromeanError: An option has an unknown value or no effect; the optimizer is centralized
            already, owns another optimizer, has weight decay of unknown kind, cannot be right at
            this place, or shares no parameter with the model.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = zeromean.centralize(optimizer, model)
        >>> before = model.weight.mean(1)
        >>> model(torch.tensor([[1.0, 2.0, 6.0]])).sum().backward()
        >>> optimizer.step()
        >>> torch.allclose(model.weight.mean(1), before)
        True
        >>> handle.remove()

    Reference:
        Yong et al., Gradient Centralization, ECCV 2020, Algorithms 1 and 2. The mean is taken over
        each layer's own fan-in axes and fan-in 1 is left alone, unlike in the published code.
    """
    refuse_subjects(optimizer, model)
    check_option("at", at, ("gradient", "update", "backward"))
    check_option("weight_decay", weight_decay, ("auto", "coupled", "decoupled"))
    check_option("project_state", project_state, (True, False))
    refuse_without_effect(at, model, layers, embeddings, weight_decay, project_state)
    refuse_optimizer(optimizer, at, weight_decay)
    refuse_model(optimizer, model, at)
    if handle_of(optimizer) is not None:
        raise ZeromeanError(
            f"{type(optimizer).__name__}, which is centralized already",
            "an optimizer that is not",
            "keep the first handle, or call its remove() before attaching again",
        )
    targets = Targets(optimizer, model, layers, embeddings, scope)
    targets.warn_of_doubt()
    how = describe(
        at,
        layers=layers,
        embeddings=embeddings,
        scope=scope,
        axes="model" if model is not None else "shapes",
        **({} if weight_decay == "auto" else {"weight_decay": weight_decay}),
    )
    options = {
        "at": at,
        "layers": layers,
        "embeddings": embeddings,
        "scope": scope,
        "weight_decay": weight_decay,
    }
    if at == "update":
        return Handle(optimizer, targets, AtUpdate(targets), how, options)
    if project_state:
        project_momentum(optimizer, targets)
    else:
        warn_of_momentum(optimizer, targets)
    if at == "backward":
        place = AtBackward(targets, optimizer, weight_decay)
        return Handle(optimizer, targets, place, how, options)
    return Handle(optimizer, targets, AtGradient(targets, weight_decay), how, options)


class Place(Protocol):
    """Where centering acts: what is done before and after each step of the optimizer."""

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Act before the step; may return its arguments changed."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Act after the step."""

    def after_load(self, optimizer: Optimizer) -> None:
        """Act after a checkpoint was loaded into the optimizer."""

    def remove(self) -> None:
        """Take back what was left at the parameters, and forget what was remembered."""


class Handle:
    """An optimizer centralized by :func:`centralize`; detaches by ``remove()`` or as a context.

    ``how`` tells the place and the options in one line; ``options`` are those of
    :func:`centralize`, to do the same with another optimizer.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with zeromean.centralize(optimizer, model) as handle:
        ...     [row.name for row in handle.plan.centered]
        ['weight']
    """

    def __init__(
        self,
        optimizer: Optimizer,
        targets: Targets,
        place: Place,
        how: str,
        options: dict[str, Any],
    ) -> None:
        self.how = how
        self.options = options
        self._targets = targets
        self._place = place
        self._optimizer = ref(optimizer)
        warn_of_another(optimizer, how)
        stamp(optimizer, how)
        self._hooks: tuple[RemovableHandle, ...] = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_pre_hook(self._before_save),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        )

    @property
    def plan(self) -> Plan:
        """Every parameter of the model and of the optimizer, and what is done with it."""
        return self._targets.plan

    def remove(self) -> None:
        """Detach: the optimizer steps as it did before. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._place.remove()
        optimizer = self._optimizer()
        if optimizer is not None and handle_of(optimizer) is None:
            erase(optimizer)
            erase(unwrap(optimizer))  # which some outer ones copy their groups from

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    # Bound methods, so that the hooks that really run tell whether an optimizer is centralized.
    # A compiled step compiles around them.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._targets.before_step(optimizer)
        return self._place.before_step(optimizer, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._place.after_step(optimizer)

    def _before_save(self, optimizer: Optimizer) -> None:
        stamp(optimizer, self.how)  # groups may have been added since

    def _after_load(self, optimizer: Optimizer) -> None:
        warn_of_another(optimizer, self.how)
        stamp(optimizer, self.how)
        self._place.after_load(optimizer)


def handle_of(optimizer: Optimizer) -> Handle | None:
    """The handle that centralizes this optimizer now, or None."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Handle):
            return owner
    return None
