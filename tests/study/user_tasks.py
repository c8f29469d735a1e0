"""Tasks as a user of the study writes them: nothing here knows zeromean."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
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


def pairs_of_classes() -> Any:
    class Pairs(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).view(-1, 2, 2)

    data = [(inputs, torch.stack([one, one], 1)) for inputs, one in map(_points, (0, 1))]
    return lambda: Pairs(4, 4), data, F.cross_entropy


def viewed_images() -> Any:
    class Viewed(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.view(len(inputs), -1))

    data = [(inputs.view(16, 4, 2, 2), targets[:16]) for inputs, targets in map(_points, (0, 1))]
    return lambda: Viewed(16, 2), data, F.cross_entropy


def computed_features() -> Any:
    weight = nn.Parameter(torch.eye(4))
    data = [(torch.tanh(inputs @ weight), targets) for inputs, targets in map(_points, (0, 1))]
    return _model, data, F.cross_entropy


def built_model() -> Any:
    return _model(), (_points(0), _points(1)), F.cross_entropy


_BUILT = _model()


def one_model() -> Any:
    return lambda: _BUILT, (_points(0), _points(1)), F.cross_entropy


def weights_of_numpy() -> Any:
    def model() -> nn.Module:
        network = nn.Linear(4, 2)
        network.weight.data = torch.from_numpy(np.random.normal(size=(2, 4))).float()
        return network

    return model, (_points(0), _points(1)), F.cross_entropy


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


def fails_within_a_library() -> Any:
    return json.loads("{")


def leaves() -> Any:
    raise SystemExit(0)


def named_outputs() -> Any:
    class Named(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            return {"logits": super().forward(inputs)}

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], targets)

    return lambda: Named(4, 2), (_points(0), _points(1)), loss


def one_logit() -> Any:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())

    return lambda: nn.Linear(4, 1), (_points(0), _points(1)), loss


def complex_outputs() -> Any:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.abs(), targets)

    data = [
        (torch.complex(inputs, inputs).conj(), targets) for inputs, targets in map(_points, (0, 1))
    ]
    return lambda: nn.Linear(4, 2, dtype=torch.complex64), data, loss


def other_test() -> Any:
    inputs, targets = _points(1)
    return _model, (_points(0), (inputs[:, :3], targets)), F.cross_entropy


def no_parameters() -> Any:
    return nn.Identity, (_points(0), _points(1)), F.cross_entropy


def single_number() -> Any:
    return _model, ((torch.tensor(1.0), torch.tensor(1)), _points(1)), F.cross_entropy


def empty_data() -> Any:
    return _model, (TensorDataset(*_points(0, 0)), _points(1)), F.cross_entropy


def raising_data() -> Any:
    class Raising(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            raise KeyError("lost")

    return _model, (Raising(*_points(0)), _points(1)), F.cross_entropy


def ignored_targets() -> Any:
    inputs, targets = _points(0)
    return (
        _model,
        ((inputs, targets.clone().index_fill_(0, torch.tensor(0), -100)), _points(1)),
        (F.cross_entropy),
    )


def drawn_anew() -> Any:
    return _model, (_points(torch.seed() % 2**31), _points(1)), F.cross_entropy


def dies_on_a_cluster() -> Any:
    if "RAY_JOB_ID" in os.environ:
        os._exit(1)
    return signs()


def raises_on_a_cluster() -> Any:
    class Raising(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if "RAY_JOB_ID" in os.environ and len(inputs) > 2:  # not while it is tried out
                raise RuntimeError("gone")
            return super().forward(inputs)

    return lambda: Raising(4, 2), (_points(0), _points(1)), F.cross_entropy
