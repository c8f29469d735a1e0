"""``centralize``: hooks around the step of any torch optimizer; nothing else is changed."""

from __future__ import annotations

from typing import Any, Literal
from weakref import ref

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from zeromean.centralization.at_backward import AtBackward
from zeromean.centralization.at_gradient import AtGradient, project_momentum, warn_of_momentum
from zeromean.centralization.at_update import AtUpdate
from zeromean.centralization.centering import Centering
from zeromean.centralization.fingerprint import erase, stamp, warn_of_other_options
from zeromean.centralization.fused_step import Place, TakenOver, Way
from zeromean.centralization.optimizer_traits import is_drop_in, unwrap
from zeromean.centralization.validate import check_subjects, refuse_model, refuse_optimizer
from zeromean.eager import eager
from zeromean.errors import ZeromeanError
from zeromean.gc_options import GCOptions, WeightDecay
from zeromean.plan import Layers, Plan, Scope


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
    fused: bool | None = None,
) -> Handle:
    r"""Center the gradients, or the updates, of an optimizer from now on.

    With :math:`P g = g - \operatorname{mean}(g)` over each weight vector's fan-in axes,

    - ``at="gradient"`` lets the optimizer see :math:`P(g)`, or :math:`P(g + \lambda w)` if its
      weight decay is coupled. In two passes (see ``fused``), this writes into ``.grad`` during
      ``step``.
    - ``at="update"`` projects the whole change of the weights, decay included:
      :math:`w \leftarrow w - P(\Delta)`. Each weight vector keeps the mean it had before the step.
    - ``at="backward"`` centers each gradient as soon as it is accumulated, for optimizers that step
      during the backward pass. Gradients are centered before they are clipped, and coupled weight
      decay is refused. It changes gradients in place as they come. If autograd gave two weights
      gradients in the same memory, as for ``torch.stack(weights).sum(0)``, it changes both, and
      ``step`` raises only if it finds both.

    For SGD the first two agree; for adaptive methods the authors recommend the second. The
    optimizer's class and state do not change. Its param groups, and therefore its checkpoints, get
    one line of text by which :func:`zeromean.status` detects a copy or a resumed run that was not
    centralized again. Parameters that are added later are included.

    Args:
        optimizer: Any ``torch.optim.Optimizer``; inside accelerate's or Lightning's wrapper, or
            :class:`zeromean.optim.Lookahead`, the optimizer in it is centralized.
        model: The model whose layers define the fan-in axes. Without it only shapes are known
            (dimensions 1.. of every parameter with two or more), and a warning says so.
        at: "gradient" (default), "update" or "backward".
        layers: "all" (default); "conv" for every convolution, including transposed ones and Conv1d;
            "linear" for everything else that has fan-in axes; or a predicate of a module's full
            name and the module. Without a model "conv" means four or more dimensions.
        embeddings: Whether embeddings are centered too, over their tokens without the
            ``padding_idx`` row (default False).
        scope: "vector" (default), or "tensor", an ablation that subtracts the mean of the whole
            tensor.
        weight_decay: Kind of weight decay: added to the gradient ("coupled") or not ("decoupled").
            "auto" (default) looks it up in a table of known optimizers and their flags.
        project_state: Whether momentum buffers are projected once, for attaching in the middle of a
            run (default False).
        fused: Whether zeromean's kernels make the whole step of torch's SGD, Adam and AdamW, which
            takes no longer than without centering and leaves ``.grad`` unchanged. None (default)
            does so at each step that allows it and centers in two passes otherwise; True raises
            instead; False always centers in two passes.

    Returns:
        A :class:`zeromean.Handle`, which detaches by ``remove()`` or as a context manager.

    Raises:
        ZeromeanError: An option has an unknown value or no effect; or the optimizer is centralized
            already, steps through another optimizer, has weight decay of unknown kind, cannot be
            correct at this place, or shares no parameter with the model.

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
        Yong et al., Gradient Centralization, ECCV 2020, Algorithms 1 and 2. Unlike in the published
        code, the mean is taken over each layer's own fan-in axes, and fan-in 1 is left alone.
    """
    options = GCOptions(at, layers, embeddings, scope, weight_decay, project_state, fused)
    return attach(optimizer, model, options)


def attach(optimizer: Optimizer, model: nn.Module | None, options: GCOptions) -> Handle:
    """Centralize an optimizer with options that were validated before."""
    optimizer = check_subjects(optimizer, model)
    if handle_of(optimizer) is not None:
        raise ZeromeanError(
            f"this {type(optimizer).__name__} is centralized already",
            "Keep the first handle, or call its remove() before attaching again",
        )
    refuse_optimizer(optimizer, options)
    refuse_model(optimizer, model, options)
    centering = Centering(optimizer, model, options)
    centering.warn_of_doubt()
    warn_of_other_options(optimizer, centering.how)
    if options.at != "update" and not options.project_state:
        warn_of_momentum(optimizer, centering)
    # Warnings come first: as errors, they must leave nothing behind.
    place: Place
    if options.at == "backward":
        place = AtBackward(centering, optimizer)
    else:
        place = AtUpdate(centering) if options.at == "update" else AtGradient(centering)
        if options.fused is not False:
            place = TakenOver(centering, place)
    handle = Handle(optimizer, centering, place)
    try:
        if isinstance(place, TakenOver):
            place.check_required(optimizer)
        if options.project_state:
            project_momentum(optimizer, centering)
    except ZeromeanError:
        handle.remove()
        raise
    return handle


class Handle:
    """An optimizer centralized by :func:`centralize`; detaches by ``remove()`` or as a context.

    Example:
        >>> import torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with zeromean.centralize(optimizer, model) as handle:
        ...     [row.name for row in handle.plan.centered]
        ['weight']
        >>> handle
        <Handle of SGD, removed>
    """

    def __init__(self, optimizer: Optimizer, centering: Centering, place: Place) -> None:
        self.centering = centering
        self._place = place
        self._optimizer = ref(optimizer)
        self._kind = type(optimizer).__name__
        stamp(optimizer, self.how)
        self._hooks: tuple[RemovableHandle, ...] = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_pre_hook(self._before_save),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        )

    @property
    def way(self) -> Way:
        """The way in which the next step will be made, and the reason."""
        optimizer = self._optimizer()
        if optimizer is None or handle_of(optimizer) is not self:
            return Way("not centered", "the handle was removed")
        if isinstance(self._place, TakenOver):
            return self._place.way(optimizer)
        if self.options.at == "backward":
            return Way("in backward", "each gradient is centered as soon as it is accumulated")
        return Way("two passes", "fused=False")

    @property
    def plan(self) -> Plan:
        """Every parameter of the model and of the optimizer, and whether it is centered now."""
        optimizer = self._optimizer()
        return self.centering.plan if optimizer is None else self.centering.current_plan(optimizer)

    @property
    def options(self) -> GCOptions:
        """The options that :func:`centralize` was called with."""
        return self.centering.options

    @property
    def how(self) -> str:
        """The place and the options in one line."""
        return self.centering.how

    def remove(self) -> None:
        """Detach, so that the optimizer steps as before. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._place.remove()
        optimizer = self._optimizer()
        if optimizer is not None and handle_of(optimizer) is None:
            erase(optimizer)
            erase(unwrap(optimizer))  # some outer optimizers copy their groups from it

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        optimizer = self._optimizer()
        if optimizer is None or handle_of(optimizer) is not self:
            return f"<Handle of {self._kind}, removed>"
        return f"<Handle of {self._kind}: {self.how}; {self.plan.total()}>"

    # These are bound methods, so that an optimizer's hooks lead to its handle. A compiled step
    # compiles around them.
    @eager
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.centering.before_step(optimizer)
        return self._place.before_step(optimizer, args, kwargs)

    @eager
    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._place.after_step(optimizer)

    def _before_save(self, optimizer: Optimizer) -> None:
        stamp(optimizer, self.how)  # groups may have been added since

    def _after_load(self, optimizer: Optimizer) -> None:
        warn_of_other_options(optimizer, self.how)
        stamp(optimizer, self.how)
        self._place.after_load(optimizer)


def handle_of(optimizer: Optimizer) -> Handle | None:
    """Return the handle that centralizes this optimizer now, or None."""
    for hook in optimizer._optimizer_step_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Handle):
            return owner
    return None


def centering_of(optimizer: Optimizer) -> Centering | None:
    """Return how an optimizer is centered now, by hooks or by its own step, or None."""
    handle = handle_of(optimizer)
    if handle is not None:
        return handle.centering
    if is_drop_in(optimizer):
        drop_in: Any = optimizer
        found: Centering | None = drop_in.centering
        return found
    return None
