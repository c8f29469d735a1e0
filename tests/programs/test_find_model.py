"""The model is found among the live objects of the process."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from zeromean.programs.find_model import find_model, live_modules


def test_root_is_found_below_its_containers() -> None:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
            self.critic = nn.Linear(3, 1)

    agent = Agent()
    assert find_model(list(agent.actor.parameters())).model is agent.actor
    assert find_model(list(agent.parameters())).model is agent
    assert find_model([agent.critic.weight]).model is agent.critic


def test_two_roots_make_a_list() -> None:
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    parameters = [*first.parameters(), *second.parameters()]
    found = find_model(parameters)
    assert isinstance(found.model, nn.ModuleList)
    assert set(found.model) == {first, second}
    again = find_model(parameters)  # the list itself is no root
    assert isinstance(again.model, nn.ModuleList)
    assert set(again.model) == {first, second}


def test_module_with_a_shared_parameter_does_not_change_the_plan() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    other = nn.Embedding(4, 6)
    other.weight = model[0].weight
    found = find_model(list(model.parameters()))
    assert found.model is model
    assert found.conflicts == (
        "0.weight is shared with Embedding, which uses it differently"
        " (Embedding); Sequential decides",
    )


@pytest.mark.parametrize("others", [0, 1])
def test_list_of_the_parameters_is_not_the_model(others: int) -> None:
    models = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(1 + others)]
    gc.collect()  # younger objects are listed first
    parameters = nn.ParameterList([p for model in models for p in model.parameters()])
    holder = nn.Module()
    holder.parameters_to_clip = parameters
    found = find_model(list(parameters))
    assert (found.conflicts, found.reason) == ((), "")
    assert set(found.model if others else [found.model]) == set(models)


def test_tied_parameter_keeps_both_owners() -> None:
    model = nn.Module()
    model.inside, model.outside = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    model.outside.weight = model.inside.weight
    assert find_model([model.inside.weight]).model is model


def test_no_module_owns_a_bare_tensor() -> None:
    found = find_model([torch.zeros(3, 3, requires_grad=True)])
    assert (found.model, found.reason) == (None, "no module owns its parameters")


def test_known_model_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    monkeypatch.setattr("zeromean.programs.find_model.live_modules", lambda: 1 / 0)
    assert find_model(list(model.parameters()), [nn.Linear(3, 2), model]).model is model


def test_frozen_objects_are_found_and_stay_frozen() -> None:
    model = nn.Linear(3, 2)
    gc.freeze()
    try:
        assert any(module is model for module in live_modules())
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_lazy_objects_are_not_touched() -> None:
    class Lazy:
        @property
        def __class__(self) -> type:
            raise AssertionError("loaded")

        @__class__.setter
        def __class__(self, value: type) -> None: ...

    class Strange(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            raise AssertionError("compared")

    kept = [Lazy(), Strange("Odd", (), {})()]
    model = nn.Linear(3, 2)
    assert any(module is model for module in live_modules())
    assert kept


def test_module_whose_init_was_not_called_is_passed_over() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            pass

    half, model = Half(), nn.Linear(3, 2)
    assert find_model(list(model.parameters())).model is model
    assert half is not model


def test_wrapper_for_parallel_training_is_kept() -> None:
    class Wrapper(nn.Module):
        __module__ = "torch.nn.parallel.distributed"

    model, wrapper = nn.Linear(3, 2), Wrapper()
    wrapper.module = model
    trainer = nn.Module()
    trainer.model = wrapper
    assert find_model(list(model.parameters())).model is wrapper
