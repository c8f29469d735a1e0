"""Report whether an optimizer is centralized, and whether the one that it comes from was."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from torch import nn
from torch.optim import Optimizer

from zeromean.centralization.centralize import centering_of, handle_of
from zeromean.centralization.fingerprint import read
from zeromean.centralization.optimizer_traits import traits_of
from zeromean.centralization.validate import check_optimizer
from zeromean.errors import ZeromeanError


@dataclass(frozen=True, repr=False)
class Status:
    """The result of :func:`zeromean.status`; printing it gives a sentence.

    Args:
        optimizer: Class name of the optimizer.
        attached: How it is centralized now, or None if it is not.
        remembered: How the optimizer that its param groups come from was centralized, or None.
        centered: Number of its parameters that are centered.
        parameters: Number of its parameters.
        way: How the next step is made, and why, if hooks centralize it; see
            :class:`zeromean.Handle`.
        centers_itself: Option by which an optimizer of another library centers gradients itself,
            such as "use_gc=True", or "".
    """

    optimizer: str
    attached: str | None
    remembered: str | None
    centered: int
    parameters: int
    way: str = ""
    centers_itself: str = ""

    @property
    def as_remembered(self) -> bool:
        """Whether it is centralized as its param groups say, or they say nothing."""
        return self.remembered in (None, self.attached)

    def __str__(self) -> str:
        if self.attached is None and self.remembered is None:
            text = f"{self.optimizer} is not centralized"
        elif self.attached is None:
            text = (
                f"{self.optimizer} is NOT centralized, but its param groups come from an optimizer"
                f" that was, with {self.remembered}: call zeromean.centralize again"
            )
        else:
            text = (
                f"{self.optimizer} is centralized with {self.attached}:"
                f" {self.centered} of {self.parameters} parameters"
            )
            if self.way:
                text += f"; step: {self.way}"
            if not self.as_remembered:
                text += f"; its param groups come from an optimizer with {self.remembered}"
        if self.centers_itself:
            text += f"; it centers gradients itself ({self.centers_itself}), by shape alone"
        return text

    def __repr__(self) -> str:
        return f"Status({self})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


def status(optimizer: Optimizer) -> Status:
    """Report what centralizes an optimizer now, and what its param groups remember.

    A copied or unpickled optimizer has lost its hooks, and a new optimizer that a checkpoint was
    loaded into never had any. Both remember in their param groups, under the key ``"zeromean"``,
    how the optimizer that they come from was centralized.

    Args:
        optimizer: Any ``torch.optim.Optimizer``. A drop-in of :mod:`zeromean.optim` remembers
            nothing, because it centers by itself. Inside accelerate's or Lightning's wrapper, or
            :class:`zeromean.optim.Lookahead`, the optimizer in it is reported.

    Returns:
        A :class:`Status`, which prints as a sentence.

    Raises:
        ZeromeanError: ``optimizer`` is no ``torch.optim.Optimizer``, or steps through another.

    Example:
        >>> import copy, torch, zeromean
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> handle = zeromean.centralize(optimizer, model, at="update")
        >>> zeromean.status(optimizer).attached
        'at=update, layers=all, embeddings=False, scope=vector, axes=model'
        >>> zeromean.status(copy.deepcopy(optimizer)).attached is None  # copies lose their hooks
        True
        >>> zeromean.status(copy.deepcopy(optimizer)).as_remembered
        False
    """
    if isinstance(optimizer, nn.Module):
        raise ZeromeanError(
            f"status received a {type(optimizer).__name__}, which is a model",
            "Pass the optimizer, as in status(optimizer); explain(model) shows a model's plan",
        )
    kind = type(optimizer).__name__
    optimizer = check_optimizer(optimizer)
    centering, handle = centering_of(optimizer), handle_of(optimizer)
    return Status(
        optimizer=kind,
        attached=centering.how if centering else None,
        remembered=read(optimizer),
        centered=len(centering.parameters(optimizer)) if centering else 0,
        parameters=len({id(p) for group in optimizer.param_groups for p in group["params"]}),
        way=str(handle.way) if handle else "",
        centers_itself=traits_of(optimizer).centers_itself(optimizer),
    )
