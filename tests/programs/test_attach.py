"""The treatment of optimizers by ``zeromean run``, tested in the process of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zeromean.centralization.centralize import handle_of
from zeromean.programs.attach import Attachment
from zeromean.programs.options import Options


def step(attachment: Attachment, optimizer: torch.optim.Optimizer) -> None:
    attachment.before_step(optimizer)
    optimizer.step()
    attachment.after_step(optimizer)


def test_plain_program_with_a_lazy_parameter_continues(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[0](torch.ones(1, 3)).sum().backward()
    attachment = Attachment(Options(str(tmp_path), method="plain"))
    step(attachment, optimizer)
    entry = attachment._observed[optimizer].entry
    assert (entry.steps, entry.parameters, entry.entries) == (1, 4, 8)
    assert attachment._recorder.record.errors == []


def test_lazy_parameter_is_refused_with_its_reason(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment = Attachment(Options(str(tmp_path)))
    with pytest.raises(SystemExit):
        attachment.before_step(optimizer)
    assert "1.weight is a lazy parameter" in str(attachment._recorder.record.refused)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_diverged_step_is_not_checked(name: str, number: float, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
    attachment = Attachment(Options(str(tmp_path)))

    def train(inputs: Tensor) -> None:
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        step(attachment, optimizer)

    train(torch.tensor([[1.0, 2.0, 4.0]]))
    entry = attachment._observed[optimizer].entry
    assert entry.holds is True
    train(torch.full((1, 3), number))
    assert (entry.steps, entry.holds) == (2, True)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_step_that_is_not_centered_is_noticed(name: str, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
    attachment = Attachment(Options(str(tmp_path)))
    for holds in (True, False):
        optimizer.zero_grad()
        model(torch.tensor([[1.0, 2.0, 4.0]])).square().sum().backward()
        step(attachment, optimizer)
        assert attachment._observed[optimizer].entry.holds is holds
        if handle := handle_of(optimizer):
            handle.remove()


def test_zscore_leaves_the_gradients_of_other_optimizers_alone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model)
    model(torch.tensor([[1.0, 2.0, 4.0]])).square().sum().backward()
    gradients = [layer.weight.grad for layer in model]
    attachment = Attachment(Options(str(tmp_path), method="zscore"))
    attachment._models.add(model)  # as if another optimizer had trained all of it
    accumulated = gradients[1].clone()
    step(attachment, first)
    torch.testing.assert_close(gradients[0].mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.equal(gradients[1], accumulated)
    step(attachment, second)
    torch.testing.assert_close(gradients[1].mean(1), torch.zeros(4), atol=1e-6, rtol=0)


def test_optimizer_that_adds_the_decay_to_the_gradient_is_centered(tmp_path: Path) -> None:
    class Mine(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                parameter.grad.add_(parameter, alpha=0.1)
                parameter.sub_(parameter.grad, alpha=0.1)

    model = nn.Linear(3, 2)
    optimizer = Mine(model.parameters(), {"weight_decay": 0.1})
    model(torch.tensor([[1.0, 2.0, 4.0]])).square().sum().backward()
    attachment = Attachment(Options(str(tmp_path), weight_decay="coupled"))
    step(attachment, optimizer)
    assert attachment._observed[optimizer].entry.holds is True
