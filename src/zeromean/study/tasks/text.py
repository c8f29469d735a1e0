"""Telling the next character of a text."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from zeromean.study.data.text import LENGTH, TEST_FRACTION, read_text, windows
from zeromean.study.metric import LOSS
from zeromean.study.networks.text import TEXT_NETWORKS
from zeromean.study.problem import Examples, Problem, as_they_are
from zeromean.study.task import Task
from zeromean.study.tasks.parts import cut


def text_problem(task: Task, device: torch.device) -> Problem:
    """The end of the text is the test set; the score is the loss, in nats a character."""
    pieces, alphabet = windows(read_text(task.data))
    count = round(len(pieces) * (1 - TEST_FRACTION))
    train, test = (
        Examples(part[:, :-1].contiguous(), part[:, 1:].contiguous()).to(device)
        for part in (pieces[:count], pieces[count:])
    )
    return Problem(
        device=device,
        train=cut(train, task),
        watched=test,
        test=test,
        fit=as_they_are,
        augment=None,
        loss=F.cross_entropy,
        metric=LOSS,
        make=partial(TEXT_NETWORKS[task.model], alphabet),
        description=f"{count:,} train and {len(pieces) - count:,} test pieces of {LENGTH}"
        f" characters, {alphabet} different ones",
        split=f"the last {TEST_FRACTION:.0%} of the text",
        preparation="characters as indices; the score is the mean loss in nats a character",
        ordered=True,
    )
