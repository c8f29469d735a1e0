"""Test centralize: places, closures, changing param groups, and errors."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeromean
from zeromean.centralization.centralize import handle_of

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).to(dtype)  # fmt: skip


def loss_of(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    return model(torch.randn(4, 3, 6, 6).to(dtype)).square().mean()


def backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss_of(model).backward()


def centered_rows(model: nn.Module) -> Iterator[tuple[nn.Parameter, Any]]:
    for row in zeromean.explain(model).centered:
        yield row.parameter, row


def vector_means(tensor: Tensor, row: Any) -> Tensor:
    return tensor - zeromean.center(tensor, row.axes, row.groups)


def all_means(model: nn.Module) -> list[Tensor]:
    return [vector_means(p.detach(), row) for p, row in centered_rows(model)]


def assert_same_weights(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


# --- at="gradient" --------------------------------------------------------------------------------

COUPLED = {
    "SGD": lambda p, **k: SGD(p, lr=0.1, momentum=0.9, **k),
    "Adam": lambda p, **k: Adam(p, lr=0.01, **k),
    "Adamax": lambda p, **k: torch.optim.Adamax(p, lr=0.01, **k),
    "NAdam": lambda p, **k: torch.optim.NAdam(p, lr=0.01, **k),
    "RAdam": lambda p, **k: torch.optim.RAdam(p, lr=0.01, **k),
    "Adagrad": lambda p, **k: torch.optim.Adagrad(p, lr=0.01, **k),
    "Adadelta": torch.optim.Adadelta,
    "RMSprop": lambda p, **k: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, **k),
    "ASGD": torch.optim.ASGD,
}


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", COUPLED)
def test_coupled_decay_is_inside_the_projection(name: str, maximize: bool) -> None:
    make, decay = COUPLED[name], 0.3
    model = network()
    reference = copy.deepcopy(model)
    optimizer = make(model.parameters(), weight_decay=decay, maximize=maximize)
    plain = make(reference.parameters())
    zeromean.centralize(optimizer, model)
    axes = {row.name: row for row in zeromean.explain(model).centered}
    for _ in range(4):
        backward(model, optimizer)
        for (key, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert p.grad is not None
            q.grad = (-p.grad if maximize else p.grad) + decay * q.detach()
            if key in axes:
                q.grad = zeromean.center(q.grad, axes[key].axes, axes[key].groups)
        optimizer.step()
        plain.step()
        assert_same_weights(model, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: AdamW(p, lr=0.01, weight_decay=0.3),
        lambda p: Adam(p, lr=0.01, weight_decay=0.3, decoupled_weight_decay=True),
        lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.3, decoupled_weight_decay=True),
        lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.3, decoupled_weight_decay=True),
        lambda p: torch.optim.Rprop(p, lr=0.01),
        lambda p: torch.optim.Adafactor(p, lr=0.01, weight_decay=0.3),
        lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ],
)
def test_optimizer_without_coupled_decay_sees_centered_gradient(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    model = network()
    reference = copy.deepcopy(model)
    optimizer, plain = make(model.parameters()), make(reference.parameters())
    zeromean.centralize(optimizer, model)
    for _ in range(4):
        backward(model, optimizer)
        for p, q in zip(model.parameters(), reference.parameters(), strict=True):
            q.grad = p.grad.clone()
        for q, row in centered_rows(reference):
            q.grad = zeromean.center(q.grad, row.axes, row.groups)
        optimizer.step()
        plain.step()
        assert_same_weights(model, reference, rtol=1e-12, atol=1e-15)


def test_weight_decay_option_overrides_the_table() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.3)
    zeromean.centralize(optimizer, model, weight_decay="decoupled")
    before = all_means(model)
    backward(model, optimizer)
    optimizer.step()
    for mean, old in zip(all_means(model), before, strict=True):
        torch.testing.assert_close(mean, old * (1 - 0.1 * 0.3))


def test_scope_tensor_averages_the_whole_tensor() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, scope="tensor", fused=False)
    backward(model, optimizer)
    before = model[0].weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.grad, before - before.mean())


def test_padding_row_is_neither_averaged_nor_changed() -> None:
    model = nn.Embedding(5, 3, padding_idx=2).double()
    with torch.no_grad():
        model.weight[2] = 7.0
    optimizer = SGD(model.parameters(), lr=1.0)
    zeromean.centralize(optimizer, model, embeddings=True)
    model(torch.tensor([0, 1, 1, 2, 4])).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    tokens = torch.tensor([0, 1, 3, 4])
    moved = before - model.weight.detach()
    assert (moved[2] == 0).all()
    torch.testing.assert_close(moved[tokens, 0], torch.tensor([0.0, 1, -1, 0]).double())


def test_attaching_in_mid_training() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model, optimizer)
    optimizer.step()
    with pytest.warns(zeromean.ZeromeanWarning, match="project_state=True"):
        zeromean.centralize(optimizer, model).remove()
    zeromean.centralize(optimizer, model, project_state=True)
    before = all_means(model)
    for _ in range(3):
        backward(model, optimizer)
        optimizer.step()
    torch.testing.assert_close(all_means(model), before)


@pytest.mark.parametrize(
    "buffer", [torch.zeros(3, 4, dtype=torch.uint8), torch.ones(12)], ids=["quantized", "flat"]
)
def test_momentum_that_is_stored_differently_is_not_projected(buffer: torch.Tensor) -> None:
    model = nn.Linear(4, 3, bias=False)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.weight]["momentum_buffer"] = buffer
    with pytest.raises(zeromean.ZeromeanError, match="cannot project momentum_buffer of SGD"):
        zeromean.centralize(optimizer, model, project_state=True)
    zeromean.centralize(optimizer, model, fused=False)
    optimizer.load_state_dict(optimizer.state_dict())


def test_reattaching_in_centered_training_does_not_warn() -> None:
    model = network(torch.float32)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    handle = zeromean.centralize(optimizer, model)
    for _ in range(20):
        backward(model, optimizer)
        optimizer.step()
    handle.remove()
    zeromean.centralize(optimizer, model)


# --- at="update" ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        *COUPLED.values(),
        lambda p, **k: AdamW(p, lr=0.01, **k),
        lambda p, **k: torch.optim.Adafactor(p, lr=0.01, **k),
    ],
)
def test_the_whole_update_is_projected(make: Callable[..., torch.optim.Optimizer]) -> None:
    model = network()
    optimizer = make(model.parameters(), weight_decay=0.1)
    zeromean.centralize(optimizer, model, at="update")
    for _ in range(4):
        backward(model, optimizer)
        start = [p.detach().clone() for p in model.parameters()]
        # One copy of both, so that the copied optimizer steps the copied model; hooks stay behind.
        plain_model, plain = copy.deepcopy((model, optimizer))
        for p, q in zip(model.parameters(), plain_model.parameters(), strict=True):
            q.grad = p.grad.clone()
        plain.step()
        optimizer.step()
        axes = {row.name: row for row in zeromean.explain(model).centered}
        for (name, p), q, w in zip(
            model.named_parameters(), plain_model.parameters(), start, strict=True
        ):
            delta = w - q.detach()
            if name in axes:
                delta = zeromean.center(delta, axes[name].axes, axes[name].groups)
            torch.testing.assert_close(p.detach(), w - delta, rtol=1e-12, atol=1e-15)


def test_unmoved_parameters_stay_bit_identical() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = network(dtype)
        optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        zeromean.centralize(optimizer, model, at="update")
        for _ in range(3):
            backward(model, optimizer)
            optimizer.step()
        optimizer.zero_grad()
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, before[name])


@pytest.mark.usefixtures("backend")
def test_unmoved_weights_do_not_count_as_changed() -> None:
    first, second = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.RMSprop([*first.parameters(), *second.parameters()], lr=0.1)
    zeromean.centralize(optimizer, nn.ModuleList([first, second]), at="update")
    x = torch.randn(2, 3)
    losses = [first(x).sum(), second(x).sum()]
    losses[0].backward()
    optimizer.step()
    losses[1].backward()  # autograd refuses it if the weights of `second` count as changed
    optimizer.zero_grad()
    loss = second(x).square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def drift_in_half_precision(at: str | None, steps: int = 300) -> float:
    """Return how far the vector means move, in standard deviations of the weights."""
    torch.manual_seed(1)
    model = nn.Linear(256, 64, bias=False).to(torch.bfloat16)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    if at is not None:
        zeromean.centralize(optimizer, model, at=at)  # type: ignore[arg-type]
    start = model.weight.detach().double()
    for _ in range(steps):
        model.weight.grad = torch.randn(64, 256).add_(0.3).to(torch.bfloat16)
        optimizer.step()
    moved = (model.weight.detach().double() - start).mean(1)
    return float(moved.abs().max() / start.std())


def test_half_precision_weights_keep_their_means() -> None:
    assert drift_in_half_precision(None) > 0.1
    assert drift_in_half_precision("update") < 0.003


# --- closures and nested steps --------------------------------------------------------------------


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("how", ["positional", "keyword"])
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_closure_computes_the_gradients(how: str, at: Any, fused: bool | None) -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    plain_model = copy.deepcopy(model)
    plain = Adam(plain_model.parameters(), lr=0.01, weight_decay=0.1)
    zeromean.centralize(optimizer, model, at=at, fused=fused)
    zeromean.centralize(plain, plain_model, at=at, fused=fused)
    for step in range(3):

        def closure(step: int = step) -> Tensor:
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        loss = optimizer.step(closure) if how == "positional" else optimizer.step(closure=closure)
        torch.manual_seed(step)
        plain.zero_grad()
        wanted = loss_of(plain_model)
        wanted.backward()
        plain.step()
        assert torch.equal(loss, wanted)
        assert_same_weights(model, plain_model, rtol=0, atol=0)


def test_lbfgs_sees_centered_gradients_at_every_evaluation() -> None:
    model = nn.Linear(6, 2).double()
    x, y = torch.randn(20, 6).double(), torch.randn(20, 2).double()
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    zeromean.centralize(optimizer, model)
    before = model.weight.detach().mean(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    torch.testing.assert_close(model.weight.detach().mean(1), before)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_step_after_a_closure_that_raised(at: Any, fused: bool | None) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    zeromean.centralize(optimizer, model, at=at, fused=fused)

    def broken() -> Tensor:
        raise RuntimeError("no data")

    for _ in range(20):  # more steps than the maximal depth of the stack
        with pytest.raises(RuntimeError, match="no data"):
            optimizer.step(broken)
        model[4].weight.data *= 1.01  # else a record of the failed step would hold the same means
        before = all_means(model)
        backward(model, optimizer)
        optimizer.step()
        torch.testing.assert_close(all_means(model), before)


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("with_closure", [False, True])
def test_subclass_that_calls_super_step_runs_hooks_twice(at: Any, with_closure: bool) -> None:
    class Twice(Adam):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    results = []
    for kind in (Adam, Twice):
        torch.manual_seed(0)
        model = network()
        optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)
        zeromean.centralize(optimizer, model, at=at)
        for _ in range(3):
            if with_closure:

                def closure(model: nn.Module = model, optimizer: Any = optimizer) -> Tensor:
                    optimizer.zero_grad()
                    loss = loss_of(model)
                    loss.backward()
                    return loss

                optimizer.step(closure)
            else:
                backward(model, optimizer)
                optimizer.step()
        results.append(model)
    assert_same_weights(*results, rtol=1e-12, atol=1e-14)


# --- growing and shrinking ------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_parameters_added_later_are_centered(at: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, at=at)
    model.append(nn.Linear(4, 3).double())
    optimizer.add_param_group({"params": model[1].parameters(), "weight_decay": 0.1})
    before = all_means(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 4).double()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(all_means(model), before)
    assert {row.name for row in handle.plan.centered} == {"0.weight", "1.weight"}


@pytest.mark.parametrize("at", ["gradient", "update", "backward"])
def test_gradual_unfreezing(at: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4)).double()
    optimizer = SGD(model[1].parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, at=at)
    before = all_means(model)
    for step in range(6):
        if step == 3:
            assert {row.name for row in handle.plan.centered} == {"1.weight"}
            optimizer.add_param_group({"params": model[0].parameters()})
        optimizer.zero_grad()
        model(torch.randn(5, 4).double()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(all_means(model), before)
    assert {row.name for row in handle.plan.centered} == {"0.weight", "1.weight"}


@pytest.mark.filterwarnings(
    "ignore:optimizer contains a parameter group with duplicate:UserWarning"
)
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_parameter_listed_twice_is_centered_once(at: Any) -> None:
    model = nn.Linear(4, 3).double()
    optimizer = SGD([model.weight, model.weight], lr=0.1)
    zeromean.centralize(optimizer, model, at=at)
    before = all_means(model)
    for _ in range(3):
        backward_of_linear(model, optimizer)
        optimizer.step()
    torch.testing.assert_close(all_means(model), before)


def backward_of_linear(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4).double()).square().sum().backward()


def test_attaching_inside_a_step_takes_effect_at_the_next() -> None:
    model = nn.Linear(4, 3).double()
    optimizer = SGD(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        if handle_of(optimizer) is None:
            zeromean.centralize(optimizer, model, at="update")
        optimizer.zero_grad()
        loss = model(torch.randn(5, 4).double()).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = all_means(model)
    optimizer.step(closure)
    torch.testing.assert_close(all_means(model), before)


def test_parameters_outside_the_model_warn() -> None:
    model, other = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, fused=False)
    optimizer.add_param_group({"params": other.parameters()})
    model.weight.grad = torch.ones(4, 4)
    other.weight.grad = torch.ones(4, 4)
    with pytest.warns(zeromean.ZeromeanWarning, match="2 of the optimizer's parameters") as caught:
        optimizer.step()
    assert caught[0].filename == __file__  # the user's line, not torch's hook machinery
    optimizer.step()
    assert (other.weight.grad == 1).all()
    assert (model.weight.grad == 0).all()
    assert handle.plan[-1].reason == "not a parameter of the model"


def test_parameters_of_another_optimizer_are_left_alone() -> None:
    model = network()
    optimizer = SGD(model[0].parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model)
    assert [row.name for row in handle.plan.centered] == ["0.weight"]
    assert "not a parameter of this optimizer" in str(handle.plan)


@pytest.mark.parametrize("collect", [list, lambda parts: dict(enumerate(parts))])
def test_optimizer_that_steps_through_several_is_refused(collect: Any) -> None:
    """Around its step, the weight decay inside them would stay outside the projection."""

    class Chained(torch.optim.Optimizer):
        def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
            super().__init__(
                [group["params"][0] for part in parts for group in part.param_groups], {}
            )
            self._parts = collect(parts)

    model = network()
    parts = [SGD([model[n].weight], lr=0.1, weight_decay=0.1) for n in (0, 4)]
    message = r"through its ._parts \(SGD\). Centralize each optimizer in optimizer._parts"
    with pytest.raises(zeromean.ZeromeanError, match=message):
        zeromean.centralize(Chained(parts), model)


@pytest.mark.parametrize("kind", [SGD, zeromean.optim.SGD])
def test_plan_and_status_follow_the_param_groups(kind: Any) -> None:
    model = network()
    if kind is SGD:
        optimizer = SGD(model[0].parameters(), lr=0.1)
        zeromean.centralize(optimizer, model)
    else:
        optimizer = kind(model[0].parameters(), lr=0.1, model=model)
    optimizer.add_param_group({"params": model[4].parameters()})
    assert [row.name for row in zeromean.explain(optimizer).centered] == ["0.weight", "4.weight"]
    assert zeromean.status(optimizer).centered == 2
    optimizer.param_groups[0]["params"].clear()
    assert [row.name for row in zeromean.explain(optimizer).centered] == ["4.weight"]
    assert zeromean.status(optimizer).centered == 1


def test_parameters_without_a_gradient_are_skipped() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, fused=False)
    optimizer.step()
    backward(model, optimizer)
    optimizer.step()
    assert model[0].weight.grad is None
    torch.testing.assert_close(model[4].weight.grad.mean(1), torch.zeros(3).double())


# --- the handle -----------------------------------------------------------------------------------


def test_handle_removes_and_is_a_context_manager() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    with zeromean.centralize(optimizer, model) as handle:
        assert handle_of(optimizer) is handle
        assert repr(zeromean.status(optimizer)).startswith("Status(SGD is centralized with at=")
        assert zeromean.status(optimizer)._repr_html_().startswith("<p>SGD is centralized")
    assert handle_of(optimizer) is None
    handle.remove()
    backward(model, optimizer)
    gradient = model[0].weight.grad.clone()
    optimizer.step()
    assert torch.equal(model[0].weight.grad, gradient)
    zeromean.centralize(optimizer, model, at="update")


def test_optimizer_class_and_state_do_not_change() -> None:
    model = network()
    optimizer = AdamW(model.parameters())
    state, attributes = copy.deepcopy(optimizer.state_dict()), set(vars(optimizer))
    handle = zeromean.centralize(optimizer, model, at="update")
    assert type(optimizer) is AdamW
    assert set(vars(optimizer)) == attributes
    # One line of text in each param group is all that is allowed, and it goes with the hooks.
    assert optimizer.state_dict() == {
        "state": state["state"],
        "param_groups": [{**group, "zeromean": handle.how} for group in state["param_groups"]],
    }
    backward(model, optimizer)
    optimizer.step()
    assert set(optimizer.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    handle.remove()
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]


def test_deleted_optimizer_is_freed() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    handle.remove()


def test_deleted_training_is_freed_without_the_garbage_collector() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model)
    backward(model, optimizer)
    optimizer.step()
    weight = model[0].weight
    gone = [weakref.ref(weight), weakref.ref(optimizer.state[weight]["exp_avg"])]
    gc.collect()
    gc.disable()
    try:
        del weight, model, optimizer
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


# --- errors ---------------------------------------------------------------------------------------


class Unknown(torch.optim.Optimizer):
    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, {"lr": 0.1, **defaults})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * (p.grad + group.get("weight_decay", 0) * p)
                self.state[p]["average"] = p.grad.clone()


class TwoStep(torch.optim.Optimizer):
    """An optimizer with an inner optimizer over the same groups, as in SAM."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.base_optimizer = SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base_optimizer.param_groups


class Daughter(SGD):
    pass


def test_unknown_kind_of_decay_raises() -> None:
    model = network()
    optimizer = Unknown(model.parameters(), weight_decay=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"Unknown.*weight_decay=\"coupled\""):
        zeromean.centralize(optimizer, model)
    zeromean.centralize(optimizer, model, weight_decay="coupled")
    before = all_means(model)
    backward(model, optimizer)
    optimizer.step()
    torch.testing.assert_close(all_means(model), before)


class FlaggedOtherwise(Unknown):
    """An optimizer with a flag whose meaning zeromean does not know."""

    def __init__(self, params: Any, flag: bool) -> None:
        super().__init__(params, weight_decay=0.1, decoupled_weight_decay=flag)


@pytest.mark.parametrize("flag", [False, True])
def test_flag_of_an_unknown_optimizer_is_not_trusted(flag: bool) -> None:
    model = network()
    optimizer = FlaggedOtherwise(model.parameters(), flag)
    with pytest.raises(zeromean.ZeromeanError, match=r"FlaggedOtherwise has weight_decay=0\.1"):
        zeromean.centralize(optimizer, model)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.parametrize("at", ["gradient", "backward"])
def test_gradients_with_a_graph_raise(at: Any) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at=at)
    loss = model(torch.randn(5, 4)).square().sum()
    with pytest.raises(zeromean.ZeromeanError, match=r"has a graph \(create_graph=True\)"):  # noqa: PT012
        torch.autograd.backward(loss, create_graph=True, inputs=[model.weight])
        optimizer.step()


def test_subclass_has_the_traits_of_its_parent() -> None:
    model = network()
    zeromean.centralize(Unknown(model.parameters()), model)
    zeromean.centralize(Daughter(model.parameters(), lr=0.1, weight_decay=0.1), model)


def test_project_state_of_an_unknown_optimizer_raises() -> None:
    model = network()
    optimizer = Unknown(model.parameters())
    zeromean.centralize(optimizer, model, project_state=True).remove()
    backward(model, optimizer)
    optimizer.step()
    with pytest.raises(zeromean.ZeromeanError, match="average"):
        zeromean.centralize(optimizer, model, project_state=True)


def invalid_arguments() -> dict[str, tuple[Callable[[], object], str]]:
    model = network()
    sgd = SGD(model.parameters(), lr=0.1)
    lbfgs = torch.optim.LBFGS(model.parameters())

    def attach(*subjects: Any, **options: Any) -> Callable[[], object]:
        return lambda: zeromean.centralize(*(subjects or (sgd, model)), **options)

    return {
        "at": (attach(at="forward"), r'at="forward" is not one of "gradient", "update"'),
        "layers": (attach(layers="convs"), r'layers="convs"'),
        "layers list": (attach(layers=["0", "4"]), r"is a list.*predicate.*lambda name, module"),
        "layers arguments": (attach(layers=lambda name: True), "does not take two arguments"),
        "layers class": (attach(layers=nn.Linear), r"layers=<class"),
        "scope": (attach(scope="row"), r'scope="row"'),
        "embeddings": (attach(embeddings="yes"), r'embeddings="yes"'),
        "weight_decay": (attach(weight_decay="l2"), r'weight_decay="l2"'),
        "project_state": (attach(project_state="yes"), r'project_state="yes"'),
        "fused": (attach(fused=0), r"fused=0 is not one of None, True, False"),
        "swapped": (attach(model, sgd), r"Sequential, which is a model.*optimizer first"),
        "not a model": (attach(sgd, [1]), r"model is of type list"),
        "other model": (attach(sgd, network()), r"share no parameter"),
        "two-step": (attach(TwoStep(model.parameters()), model), r"optimizer\.base_optimizer"),
        "LBFGS": (attach(lbfgs, model, at="update"), r"curvature"),
        "decay at update": (attach(at="update", weight_decay="coupled"), r"Leave weight_decay out"),
        "state at update": (attach(at="update", project_state=True), r"Leave project_state out"),
        "predicate": (
            attach(sgd, layers=lambda n, m: True),
            r"predicate of modules, but there is no model",
        ),
        "shape embeddings": (attach(sgd, embeddings=True), r"embeddings=True needs the model"),
    }


@pytest.mark.parametrize("name", invalid_arguments())
def test_invalid_arguments_raise(name: str) -> None:
    call, message = invalid_arguments()[name]
    with pytest.raises(zeromean.ZeromeanError, match=message):
        call()


def test_attaching_twice_raises() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model)
    with pytest.raises(zeromean.ZeromeanError, match="centralized already"):
        zeromean.centralize(optimizer, model, at="update")
    handle.remove()
    zeromean.centralize(optimizer, model)


def test_sparse_gradients_raise() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, embeddings=True)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(zeromean.ZeromeanError, match=r"sparse gradient.*sparse=False"):
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_shared_gradient_raises(decay: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=decay)
    zeromean.centralize(optimizer, model, fused=False)
    model(torch.randn(2, 3)).square().sum().backward()
    optimizer.step()  # prepared from here on
    model[1].weight.grad = model[0].weight.grad
    with pytest.raises(zeromean.ZeromeanError, match=r"0\.weight and 1\.weight.*clone"):
        optimizer.step()
    model[1].weight.grad = model[0].weight.grad.clone()
    model[0].weight.grad = model[0].bias.grad = None
    optimizer.step()


class SumOfExperts(nn.Module):
    """Adds two weights, so that autograd gives both gradients the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3, bias=False) for _ in range(2))
        self.together = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = [expert.weight for expert in self.experts]
        return x @ (torch.stack(weights).sum(0) if self.together else weights[0] + weights[1]).mT


def only_the_second(name: str, module: nn.Module) -> bool:
    return name == "experts.1"


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("layers", "steps_before"), [("all", 0), ("all", 1), (only_the_second, 0)])
def test_gradients_that_share_memory_raise(layers: Any, steps_before: int) -> None:
    model = SumOfExperts()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    zeromean.centralize(optimizer, model, layers=layers, fused=False)
    for _ in range(steps_before):
        model(torch.randn(2, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.together = True
    model(torch.randn(2, 4)).square().sum().backward()
    with pytest.raises(
        zeromean.ZeromeanError, match=r"experts\.0\.weight and experts\.1\.weight.*clone"
    ):
        optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("steps_before", [0, 1])
def test_gradients_of_different_backends_that_share_memory_raise(
    steps_before: int, fused: bool | None
) -> None:
    """No kernel serves an embedding with a padding row."""
    model = nn.Sequential(nn.Embedding(4, 4, padding_idx=0), nn.Linear(4, 4, bias=False))
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, embeddings=True, fused=fused)
    for _ in range(steps_before):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    shared = torch.randn(4, 4)
    for p in model.parameters():
        p.grad = shared.view(4, 4)
    before = copy.deepcopy(model.state_dict()), shared.clone()
    with pytest.raises(zeromean.ZeromeanError, match=r"0\.weight and 1\.weight share memory"):
        optimizer.step()
    torch.testing.assert_close((model.state_dict(), shared), before, rtol=0, atol=0)


def test_expanded_gradient_raises() -> None:
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, fused=False)
    model.weight.grad = torch.randn(2, 1).expand(2, 3)
    with pytest.raises(zeromean.ZeromeanError, match=r"gradient of weight is expanded.*clone"):
        optimizer.step()


def test_plan_without_centered_parameters_warns() -> None:
    model = nn.BatchNorm1d(3)
    with pytest.warns(zeromean.ZeromeanWarning, match="Nothing is centered"):
        zeromean.centralize(SGD(model.parameters(), lr=0.1), model)


def test_a_layer_that_its_predicate_no_longer_finds_warns() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    handle = zeromean.centralize(optimizer, model, layers=lambda name, module: name == "0")
    model[0] = nn.Sequential(model[0])
    backward_of_linear(model, optimizer)
    with pytest.warns(zeromean.ZeromeanWarning, match=r"0\.0\.weight first.*leaves out 0\.0"):
        optimizer.step()
    assert not handle.plan.centered
    backward_of_linear(model, optimizer)
    optimizer.step()  # warns once


def test_optimizer_without_parameters_warns_and_plans_later() -> None:
    model = nn.Linear(4, 3).double()
    optimizer = SGD([{"params": []}], lr=0.1)
    with pytest.warns(zeromean.ZeromeanWarning, match="holds no parameter"):
        zeromean.centralize(optimizer, model)
    optimizer.add_param_group({"params": model.parameters()})
    before = all_means(model)
    backward_of_linear(model, optimizer)
    optimizer.step()
    torch.testing.assert_close(all_means(model), before)


def test_warnings_point_to_the_caller() -> None:
    model = network()
    with pytest.warns(zeromean.ZeromeanWarning, match="Without a model") as caught:
        zeromean.centralize(SGD(model.parameters(), lr=0.1))
    assert caught[0].filename == __file__
