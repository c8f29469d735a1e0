"""Prediction of the next character of a text."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from zeromean.study.data.text import LENGTH, TEST_FRACTION, read_text, windows
from zeromean.study.networks.language_models import TEXT_NETWORKS
from zeromean.study.spec.metric import LOSS
from zeromean.study.spec.task import TextTask
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.subset import take_subset


def text_problem(task: TextTask, device: torch.device) -> Problem:
    """Load a text task: the end of the text is the test set, the score is the loss in nats."""
    pieces, alphabet = windows(read_text(task.data))
    count = round(len(pieces) * (1 - TEST_FRACTION))
    train, test = (
        Examples(part[:, :-1].contiguous(), part[:, 1:].contiguous()).to(device)
        for part in (pieces[:count], pieces[count:])
    )
    return Problem(
        device=device,
        train=take_subset(train, task),
        watched=test,
        test=test,
        loss=F.cross_entropy,
        metric=LOSS,
        make=partial(TEXT_NETWORKS[task.model], alphabet),
        description=f"{count:,} train and {len(pieces) - count:,} test pieces of {LENGTH}"
        f" characters, {alphabet} different ones",
        split=f"the last {TEST_FRACTION:.0%} of the text",
        preprocessing="characters as indices; the score is the mean loss in nats per character",
        ordered=True,
    )
