"""The training examples that a task keeps, and those that it holds out for validation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zeromean.study.spec.task import TrainedTask
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.problem import Examples, Problem

# The choices below are the same for every run of every study.
SUBSET_SEED = 0


def take_subset(train: Examples, task: TrainedTask) -> Examples:
    """Return the training examples that a task keeps, drawn at random within each class.

    With an imbalance of r, class c of the C classes that occur gets r^(-c / (C - 1)) times as many
    as class 0 (the long-tailed sets of Cao et al., NeurIPS 2019).

    Raises:
        ZeromeanError: There are too few, or no classes to imbalance.
    """
    if task.train_size is None and task.imbalance == 1:
        return train
    classes = _are_classes(train.targets)
    if not classes and task.imbalance != 1:
        raise SettingError(
            "imbalance",
            f"imbalance is {task.imbalance:g}, but the targets are not classes",
            "Remove imbalance",
        )
    targets = train.targets.cpu() if classes else torch.zeros(len(train.targets))
    values, labels, counts = torch.unique(targets, return_inverse=True, return_counts=True)
    available = counts.double()
    share = float(task.imbalance) ** -torch.linspace(0, 1, len(available), dtype=torch.float64)
    if task.train_size is None:
        wanted = share * (available / share).min()
        sizes = wanted.round().long()
    else:
        wanted = share * task.train_size / share.sum()
        sizes = wanted.long()
        # The largest remainders are rounded up, so that the sum is train_size.
        largest = (wanted - sizes).argsort(descending=True, stable=True)
        sizes[largest[: task.train_size - int(sizes.sum())]] += 1
    if (sizes > available).any() or (sizes < 1).any():
        worst = int((wanted / available).argmax() if (sizes >= 1).all() else sizes.argmin())
        given = [name for name in ("train_size", "imbalance") if name in task.changed]
        settings = " with ".join(f"{name} = {getattr(task, name)}" for name in given)
        raise SettingError(
            given[0],
            f"{settings} takes {int(sizes[worst])} of the {int(available[worst])} training examples"
            + (f" of class {values[worst].item()}" if classes else ""),
            f"Change {' or '.join(given)} so that each class keeps from one to all of its examples"
            if classes
            else "Lower train_size",
        )
    generator = torch.Generator().manual_seed(SUBSET_SEED)
    chosen = torch.cat(
        [
            members[torch.randperm(len(members), generator=generator)[:size]]
            for label, size in enumerate(sizes.tolist())
            for members in [(labels == label).nonzero().flatten()]
        ]
    ).sort()[0]
    return Examples(train.inputs[chosen], train.targets[chosen])


def _are_classes(targets: Tensor) -> bool:
    whole = not (targets.is_floating_point() or targets.is_complex())
    return targets.ndim == 1 and whole and bool((targets >= 0).all())


def hold_out(problem: Problem, fraction: float) -> tuple[Examples, Examples]:
    """Split the training examples into those to train on and a share for validation.

    The share is drawn at random, within each class if there are classes. If the examples are
    ordered, it is the last ones.

    Raises:
        ZeromeanError: There are too few.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    inputs, targets = problem.train
    count, ordered = len(targets), problem.ordered
    try:
        learned, held = train_test_split(
            np.arange(count),
            test_size=count - round(count * (1 - fraction)) if ordered else fraction,
            random_state=SUBSET_SEED,
            shuffle=not ordered,
            stratify=targets.cpu().numpy() if not ordered and _are_classes(targets) else None,
        )
    except ValueError as error:
        raise SettingError(
            "validation",
            f"{100 * fraction:g}% of {count} training examples cannot be held out ({error})",
            "Change validation",
            instead="Use more training examples, at least two per class",
        ) from error
    parts = [Examples(inputs[part], targets[part]) for part in map(np.sort, (learned, held))]
    return parts[0], parts[1]
