"""One line that centralizes any torch optimizer: hooks around its step, nothing else touched."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Protocol
from weakref import ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from zeromean import fsdp1
from zeromean.at_backward import AtBackward, refuse_decay_inside
from zeromean.at_gradient import AtGradient, project_momentum, warn_of_momentum
from zeromean.at_update import AtUpdate
from zeromean.errors import ZeromeanError, warn
from zeromean.fingerprint import describe, erase, stamp, warn_of_another
from zeromean.mro import is_a
from zeromean.optimizers import WeightDecay, acting, decay_inside, facts_of
from zeromean.plan import Layers, Plan, Scope, check_option
from zeromean.targets import Targets


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
    _check_subjects(optimizer, model)
    check_option("at", at, ("gradient", "update", "backward"))
    check_option("weight_decay", weight_decay, ("auto", "coupled", "decoupled"))
    check_option("project_state", project_state, (True, False))
    _check_effect(at, model, layers, embeddings, weight_decay, project_state)
    _check_optimizer(optimizer, at, weight_decay)
    check_model(optimizer, model, at)
    targets = Targets(optimizer, model, layers, embeddings, scope)
    if not targets.plan.centered:
        warn("nothing is centered: print(handle.plan) tells why for each parameter")
    how = describe(
        at,
        layers=layers,
        embeddings=embeddings,
        scope=scope,
        axes="model" if model is not None else "shapes",
        **({} if weight_decay == "auto" else {"weight_decay": weight_decay}),
    )
    if at == "update":
        return Handle(optimizer, targets, AtUpdate(targets), how)
    if project_state:
        project_momentum(optimizer, targets)
    else:
        warn_of_momentum(optimizer, targets)
    if at == "backward":
        return Handle(optimizer, targets, AtBackward(targets, optimizer, weight_decay), how)
    return Handle(optimizer, targets, AtGradient(targets, weight_decay), how)


class Place(Protocol):
    """Where centring acts: what is done before and after each step of the optimizer."""

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

    ``how`` tells the place and the options in one line.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with zeromean.centralize(optimizer, model) as handle:
        ...     [row.name for row in handle.plan.centered]
        ['weight']
    """

    def __init__(self, optimizer: Optimizer, targets: Targets, place: Place, how: str) -> None:
        self.how = how
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
            erase(acting(optimizer))  # which some outer ones copy their groups from

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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


_DDP = "torch.nn.parallel.distributed.DistributedDataParallel"


def _holds_all(optimizer: Optimizer, model: nn.Module) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(p) in held for p in model.parameters() if p.requires_grad)


def handle_of(optimizer: Optimizer) -> Handle | None:
    """The handle that centralizes this optimizer now, or None."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Handle):
            return owner
    return None


def refuse_wrapper(optimizer: object) -> None:
    """Raise unless this is an optimizer, and one that applies the gradients itself."""
    kind = type(optimizer).__name__
    for name, inner in getattr(optimizer, "__dict__", {}).items():
        if not isinstance(inner, Optimizer) or not _share_parameters(optimizer, inner):
            continue
        if not isinstance(optimizer, Optimizer) or inner is not acting(optimizer):
            public = name.lstrip("_")
            raise ZeromeanError(
                f"{kind}, which steps through its .{name} ({type(inner).__name__})",
                "the optimizer that applies the gradients itself",
                f"pass optimizer.{public if getattr(optimizer, public, None) is inner else name}",
            )
    if not isinstance(optimizer, Optimizer):
        raise ZeromeanError(
            f"{kind} as the optimizer",
            "a torch.optim.Optimizer",
            "call centralize(optimizer, model), the optimizer first",
        )


def _share_parameters(outer: Any, inner: Optimizer) -> bool:
    held = {id(p) for group in getattr(outer, "param_groups", ()) for p in group["params"]}
    return any(id(p) in held for group in inner.param_groups for p in group["params"])


def _check_subjects(optimizer: object, model: object) -> None:
    refuse_wrapper(optimizer)
    if model is not None and not isinstance(model, nn.Module):
        raise ZeromeanError(
            f"{type(model).__name__} as the model",
            "a torch.nn.Module, or None to go by shapes alone",
            "call centralize(optimizer, model)",
        )


def _check_effect(
    at: str,
    model: nn.Module | None,
    layers: Layers,
    embeddings: bool,
    weight_decay: str,
    project_state: bool,
) -> None:
    """Refuse options that would have no effect, rather than ignore them."""
    if at == "update" and weight_decay != "auto":
        raise ZeromeanError(
            f'weight_decay={weight_decay!r} with at="update"',
            "no word on decay, because the whole change of the weights is projected",
            "leave weight_decay out",
        )
    if at == "update" and project_state:
        raise ZeromeanError(
            'project_state=True with at="update"',
            "no word on momentum, because the whole change of the weights is projected",
            "leave project_state out",
        )
    if model is None and callable(layers):
        raise ZeromeanError(
            "a layers predicate without a model",
            "the model whose modules it chooses from",
            "call centralize(optimizer, model, layers=...)",
        )
    if model is None and embeddings:
        raise ZeromeanError(
            "embeddings=True without a model",
            "the model, because a shape alone does not tell an embedding",
            "call centralize(optimizer, model, embeddings=True)",
        )


def _check_optimizer(optimizer: Optimizer, at: str, weight_decay: Any) -> None:
    kind = type(optimizer).__name__
    from zeromean.optim.centered import Centered  # which imports this file

    if isinstance(optimizer, Centered):
        raise ZeromeanError(
            f"zeromean.optim.{kind}, which centers inside its step",
            "an optimizer that does not",
            f"leave centralize out, or make a torch.optim.{kind}",
        )
    if getattr(optimizer, "_overlap_with_ddp", False):  # ZeroRedundancyOptimizer
        raise ZeromeanError(
            f"{kind} with overlap_with_ddp=True, which steps inside DDP's communication hook",
            "a step that fires the optimizer's hooks",
            "overlap_with_ddp=False",
        )
    if handle_of(optimizer) is not None:
        raise ZeromeanError(
            f"{kind}, which is centralized already",
            "an optimizer that is not",
            "keep the first handle, or call its remove() before attaching again",
        )
    facts = facts_of(optimizer)
    if at == "update" and facts is not None and facts.refuses_update:
        raise ZeromeanError(
            f'at="update" with {kind}', f"another place: {facts.refuses_update}", 'at="gradient"'
        )
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise ZeromeanError(
                f"{kind} with differentiable=True",
                "a step that autograd need not follow, because hooks act outside its graph",
                "differentiable=False, or zeromean.center on the gradients: autograd follows that",
            )
        if at == "gradient":
            decay_inside(optimizer, group, weight_decay)
        elif at == "backward":
            refuse_decay_inside(optimizer, group, weight_decay)


def check_model(optimizer: Optimizer, model: nn.Module | None, at: str) -> None:
    """Warn without a model; refuse a model or a sharding that tells no whole rows."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if any(map(fsdp1.is_flat, held)) and (
        at != "backward" or model is None or not fsdp1.origins(model)
    ):
        raise ZeromeanError(
            f'at="{at}" with FullyShardedDataParallel (FSDP1), whose flat shards have no rows',
            "whole rows: those of FSDP2, or of the gradients before FSDP1 cuts them",
            "shard with fully_shard (FSDP2), or wrap with use_orig_params=True, pass the wrapped"
            ' model and at="backward"',
        )
    if model is None:
        warn(
            "without a model only shapes are known: transposed convolutions, embeddings, position"
            " embeddings and tied weights may be centered over the wrong axes; pass the model"
        )
    elif at == "backward" and is_a(type(model), _DDP) and not _holds_all(optimizer, model):
        raise ZeromeanError(
            'at="backward" under DistributedDataParallel, whose parameters it holds in part',
            "all of them on every rank, because each rank centers before gradients are averaged",
            'at="gradient", which centers the average',
        )
