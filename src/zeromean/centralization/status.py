"""Whether an optimizer is centralized now, and whether the one it comes from was."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from zeromean.centralization.centralize import handle_of
from zeromean.centralization.fingerprint import read
from zeromean.centralization.validate import refuse_wrapper
from zeromean.optim.centered import Centered


@dataclass(frozen=True)
class Status:
    """What :func:`zeromean.status` found; printing it gives a sentence.

    Args:
        optimizer: The optimizer's class.
        attached: How it is centralized now, or None if it is not.
        remembered: How the optimizer that its param groups come from was centralized, or None.
        centered: How many of its parameters are centered.
        parameters: How many parameters it has.
    """

    optimizer: str
    attached: str | None
    remembered: str | None
    centered: int
    parameters: int

    @property
    def as_remembered(self) -> bool:
        """Whether it is centralized as its param groups say; true where they say nothing."""
        return self.remembered in (None, self.attached)

    def __str__(self) -> str:
        if self.attached is None and self.remembered is None:
            return f"{self.optimizer} is not centralized"
        if self.attached is None:
            return (
                f"{self.optimizer} is NOT centralized, but its param groups come from one that was,"
                f" with {self.remembered}: call zeromean.centralize again"
            )
        text = (
            f"{self.optimizer} is centralized with {self.attached}:"
            f" {self.centered} of {self.parameters} parameters"
        )
        if self.as_remembered:
            return text
        return f"{text}; its param groups come from one with {self.remembered}"


def status(optimizer: Optimizer) -> Status:
    """Tell what centralizes an optimizer now, and what its param groups remember.

    A copied or unpickled optimizer has lost its hooks, and so has a fresh one that a checkpoint is
    loaded into: both remember in their param groups, under the key ``"zeromean"``, how the
    optimizer that they come from was centralized.

    Args:
        optimizer: Any ``torch.optim.Optimizer``; a drop-in of :mod:`zeromean.optim` remembers
            nothing, because it centers by itself.

    Returns:
        A :class:`Status`, which prints as a sentence.

    Raises:
        ZeromeanError: ``optimizer`` is not a ``torch.optim.Optimizer`` that steps itself.

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
    refuse_wrapper(optimizer)
    by = optimizer if isinstance(optimizer, Centered) else handle_of(optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    centered = by.plan.centered if by else ()
    return Status(
        optimizer=type(optimizer).__name__,
        attached=by.how if by else None,
        remembered=read(optimizer),
        centered=sum(id(row.parameter) in held for row in centered),
        parameters=len(held),
    )
