"""Tasks as a user of the study writes them: nothing here knows zeromean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset


def _points(seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator)
    return inputs, (inputs.sum(1) > 0).long()


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def signs() -> Any:
    return _model, (TensorDataset(*_points(0)), TensorDataset(*_points(1))), F.cross_entropy


def sums() -> Any:
    (train, _), (test, _) = _points(0), _points(1)
    data = ((train, train.sum(1, keepdim=True)), (test, test.sum(1, keepdim=True)))
    return lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)), data, nn.MSELoss()


def built_model() -> Any:
    return _model(), (_points(0), _points(1)), F.cross_entropy


def no_tuple() -> Any:
    return _model


def uneven() -> Any:
    inputs, targets = _points(0)
    return _model, ((inputs, targets[:-1]), _points(1)), F.cross_entropy


def unfitting() -> Any:
    return lambda: nn.Linear(5, 2), (_points(0), _points(1)), F.cross_entropy


def no_mean() -> Any:
    return _model, (_points(0), _points(1)), nn.CrossEntropyLoss(reduction="none")


def fails() -> Any:
    raise ValueError("the disk is\ngone")
