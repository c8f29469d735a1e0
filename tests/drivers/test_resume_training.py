"""Hooks do not outlive copies and checkpoints; what the param groups remember does."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import SGD, AdamW

import zeromean

Say = Callable[[str, str, str, str], None]
HOW = "at=gradient, layers=all, embeddings=False, scope=vector, axes=model"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    convolution, _, head = model.children()
    return [{"params": convolution.parameters(), "lr": 0.1}, {"params": head.parameters()}]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(8, 3, 4, 4)).square().sum().backward()
        optimizer.step()


def trained(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model, and its optimizer that was centralized from the start."""
    model = network()
    optimizer = AdamW(groups(model), lr=0.01)
    zeromean.centralize(optimizer, model, **options)
    train(model, optimizer)
    return model, optimizer


def by_file(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- what is remembered, and where ----------------------------------------------------------------


def test_each_group_holds_one_line_of_text() -> None:
    _, optimizer = trained()
    assert [group["zeromean"] for group in by_file(optimizer)["param_groups"]] == [HOW, HOW]


def test_groups_added_later_hold_the_line() -> None:
    model, optimizer = trained()
    more = nn.Linear(3, 3)
    model.append(more)
    optimizer.add_param_group({"params": more.parameters()})
    assert [group["zeromean"] for group in optimizer.state_dict()["param_groups"]] == [HOW] * 3


def test_line_contains_the_options() -> None:
    def stem(name: str, module: nn.Module) -> bool:
        return name == "0"

    model = network()
    handle = zeromean.centralize(
        SGD(model.parameters(), lr=0.1), model, layers=stem, weight_decay="coupled"
    )
    assert "layers=test_line_contains_the_options.<locals>.stem" in handle.how
    assert handle.how.endswith("weight_decay=coupled")


def test_checkpoint_loads_without_zeromean() -> None:
    model, optimizer = trained()
    plain = AdamW(groups(model), lr=0.01)
    plain.load_state_dict(by_file(optimizer))
    train(model, plain)


# --- what shows that centering was forgotten ------------------------------------------------------


@pytest.mark.parametrize(
    "lose",
    [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
    ids=["deepcopy", "pickle"],
)
def test_status_reports_a_copy_without_hooks(
    lose: Callable[[Any], torch.optim.Optimizer], supports: Say
) -> None:
    _, optimizer = trained()
    assert zeromean.status(optimizer).as_remembered
    status = zeromean.status(lose(optimizer))
    assert (status.attached, status.remembered) == (None, HOW)
    assert not status.as_remembered
    assert "NOT centralized" in str(status)
    supports("Driver", "deepcopy and pickle", "-", "the copy's status reports that hooks were lost")


def test_status_reports_a_loaded_checkpoint_without_hooks() -> None:
    model, optimizer = trained()
    fresh = AdamW(groups(model), lr=0.01)
    assert str(zeromean.status(fresh)) == "AdamW is not centralized"
    fresh.load_state_dict(by_file(optimizer))
    assert zeromean.status(fresh).remembered == HOW
    assert "call zeromean.centralize again" in str(zeromean.status(fresh))


@pytest.mark.parametrize("first", ["centralize", "load"])
def test_resuming_with_the_same_options_is_silent(first: str, supports: Say) -> None:
    model, optimizer = trained()
    fresh = AdamW(groups(model), lr=0.01)
    steps = [
        lambda: zeromean.centralize(fresh, model),
        lambda: fresh.load_state_dict(by_file(optimizer)),
    ]
    for step in steps if first == "centralize" else steps[::-1]:
        step()
    status = zeromean.status(fresh)
    assert status.attached == status.remembered == HOW
    assert str(status).startswith(f"AdamW is centralized with {HOW}: 2 of 4 parameters; step: ")
    supports("Driver", "torch.save and load_state_dict", "-", "resumed the same way, no warning")


@pytest.mark.parametrize("first", ["centralize", "load"])
def test_resuming_with_other_options_warns(first: str, supports: Say) -> None:
    model, optimizer = trained()
    fresh = AdamW(groups(model), lr=0.01)
    steps: list[Callable[[], object]] = [
        lambda: zeromean.centralize(fresh, model, at="update"),
        lambda: fresh.load_state_dict(by_file(optimizer)),
    ]
    before, after = steps if first == "centralize" else steps[::-1]
    before()
    with pytest.warns(zeromean.ZeromeanWarning, match=r"at=gradient.*at=update"):
        after()
    assert zeromean.status(fresh).as_remembered
    supports("Driver", "torch.save and load_state_dict", "-", "resumed another way, a warning")


@pytest.mark.parametrize("at", ["gradient", "backward"])
def test_uncentered_momentum_of_a_checkpoint_warns(at: Any) -> None:
    model = network()
    plain = SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, plain)
    fresh = SGD(model.parameters(), lr=0.01, momentum=0.9)
    zeromean.centralize(fresh, model, at=at)
    with pytest.warns(zeromean.ZeromeanWarning, match="project_state=True"):
        fresh.load_state_dict(by_file(plain))
    assert zeromean.status(fresh).as_remembered


def test_removed_handle_erases_the_line() -> None:
    model = network()
    optimizer = AdamW(groups(model), lr=0.01)
    with zeromean.centralize(optimizer, model):
        train(model, optimizer)
    assert zeromean.status(optimizer).remembered is None
    assert not any("zeromean" in group for group in optimizer.state_dict()["param_groups"])


def test_status_rejects_a_model() -> None:
    with pytest.raises(zeromean.ZeromeanError, match=r"Linear, which is a model.*explain"):
        zeromean.status(nn.Linear(2, 2))  # type: ignore[arg-type]


# --- torch.distributed.checkpoint -----------------------------------------------------------------

FORMS = {
    "whole": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
    "full, on the CPU": StateDictOptions(full_state_dict=True, cpu_offload=True),
}


def through_disk(state: dict[str, Any], wanted: dict[str, Any], folder: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # torch says that it runs in one process; older tensors' storages are its own affair.
        warnings.filterwarnings("ignore", module="torch")
        dcp.save({"optimizer": state}, checkpoint_id=folder)
        loaded = {"optimizer": wanted}
        dcp.load(loaded, checkpoint_id=folder)
    return loaded["optimizer"]


@pytest.mark.parametrize("form", FORMS)
def test_distributed_checkpoint_keeps_the_line(form: str, tmp_path: Path, supports: Say) -> None:
    options = FORMS[form]
    model, optimizer = trained()
    other = copy.deepcopy(model)
    fresh = AdamW(groups(other), lr=0.01)
    zeromean.centralize(fresh, other)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    wanted = get_optimizer_state_dict(other, fresh, options=options)
    state = through_disk(state, wanted, tmp_path)  # type: ignore[arg-type]
    set_optimizer_state_dict(other, fresh, state, options=options)
    assert zeromean.status(fresh).as_remembered
    for net, its in ((model, optimizer), (other, fresh)):
        torch.manual_seed(3)
        train(net, its)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    supports("Driver", f"torch.distributed.checkpoint, {form}", "-", "resumed the same way")


@pytest.mark.parametrize("form", FORMS)
def test_distributed_checkpoint_with_other_options_warns(form: str, tmp_path: Path) -> None:
    options = FORMS[form]
    model, optimizer = trained()
    model.zero_grad()  # torch fills an optimizer's state only where no gradients are
    fresh = AdamW(groups(model), lr=0.01)
    zeromean.centralize(fresh, model, at="update")
    state = get_optimizer_state_dict(model, optimizer, options=options)
    wanted = get_optimizer_state_dict(model, fresh, options=options)
    state = through_disk(state, wanted, tmp_path)  # type: ignore[arg-type]
    with pytest.warns(zeromean.ZeromeanWarning, match=r"at=gradient.*at=update"):
        set_optimizer_state_dict(model, fresh, state, options=options)


def test_state_dict_without_a_disk_keeps_the_line() -> None:
    model, optimizer = trained()
    fresh = AdamW(groups(model), lr=0.01)
    set_optimizer_state_dict(model, fresh, get_optimizer_state_dict(model, optimizer))
    assert zeromean.status(fresh).remembered == HOW


def test_plain_distributed_checkpoint(tmp_path: Path) -> None:
    """The way of docs/drivers.md: torch asks a checkpoint for every key that the groups have."""
    model = network()
    plain = AdamW(groups(model), lr=0.01)
    train(model, plain)
    fresh = AdamW(groups(model), lr=0.01)
    state = get_optimizer_state_dict(model, plain)
    with zeromean.centralize(fresh, model, at="update"):
        wanted = get_optimizer_state_dict(model, fresh)
        with pytest.raises(dcp.api.CheckpointException, match="zeromean"):
            through_disk(state, wanted, tmp_path / "a")  # type: ignore[arg-type]
    wanted = get_optimizer_state_dict(model, fresh)
    loaded = through_disk(state, wanted, tmp_path / "b")  # type: ignore[arg-type]
    set_optimizer_state_dict(model, fresh, loaded)
    zeromean.centralize(fresh, model, at="update")
    train(model, fresh)
