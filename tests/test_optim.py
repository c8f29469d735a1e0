"""The drop-ins: torch's class centralized step for step, its checkpoints, no .grad touched."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeromean
from zeromean import kernels, optim
from zeromean.kernels import triton_backend

TORCH = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "RAdam"]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3},
    ],
    "Adam": [
        {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True},
        {"lr": torch.tensor(0.01, dtype=torch.float64), "weight_decay": 0.3, "maximize": True},
        {"lr": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "AdamW": [{"lr": 0.01, "weight_decay": 0.3, "betas": (0.3, 0.9)}],
    "Adagrad": [{"lr": 0.1, "weight_decay": 0.3, "lr_decay": 0.1}],
    "RMSprop": [{"lr": 0.01, "weight_decay": 0.3, "momentum": 0.9, "centered": True}],
    "RAdam": [
        {"lr": 0.1, "weight_decay": 0.3},
        {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True, "maximize": True},
    ],
}
CASES = [(name, options) for name in TORCH for options in SETTINGS[name]]


pytestmark = pytest.mark.usefixtures("backend")


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).to(dtype)  # fmt: skip


def backward(*models: nn.Module) -> None:
    """Copy the gradients of the first optimizer's weights to all others."""
    models[0].zero_grad()
    dtype = next(models[0].parameters()).dtype
    models[0](torch.randn(4, 3, 6, 6).to(dtype)).square().mean().backward()
    for model in models[1:]:
        for p, q in zip(models[0].parameters(), model.parameters(), strict=True):
            q.grad = p.grad.clone()


def steps(count: int) -> int:
    """Return fewer steps for Triton's interpreter, which takes 50 ms per program."""
    return 2 if triton_backend.interpreted() and kernels.backend() == "triton" else count


def assert_same(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def means(model: nn.Module) -> list[Tensor]:
    return [
        row.parameter.detach() - zeromean.center(row.parameter.detach(), row.axes, row.groups)
        for row in zeromean.explain(model).centered
    ]


def torch_twin(name: str, model: nn.Module, options: dict[str, Any], at: str) -> Any:
    twin = getattr(torch.optim, name)(model.parameters(), **options)
    zeromean.centralize(twin, model, at=at, fused=False)  # else the same kernels may step both
    return twin


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_step_equals_centralized_torch(
    name: str, options: dict[str, Any], at: str, supports: Any
) -> None:
    supports("Optimizer", f"zeromean.optim.{name}", at, "equal to torch's class centralized")
    model = network()
    other = copy.deepcopy(model)
    optimizer = getattr(optim, name)(model, **options, at=at)
    twin = torch_twin(name, other, options, at)
    for _ in range(steps(7)):
        backward(model, other)
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        twin.step()
        assert_same(model, other, rtol=1e-10, atol=1e-12)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        state, expected = optimizer.state[p], twin.state[q]
        assert set(state) == {key for key, value in expected.items() if value is not None}
        for key in state:
            torch.testing.assert_close(
                state[key], expected[key], rtol=1e-9, atol=1e-12, check_device=False
            )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_checkpoints_move_to_torch_and_back(
    name: str, options: dict[str, Any], supports: Any
) -> None:
    supports(
        "Optimizer", f"zeromean.optim.{name}", "-", "checkpoints from torch's class and back to it"
    )
    model = network()
    kind, twin_kind = getattr(optim, name), getattr(torch.optim, name)
    whole = copy.deepcopy(model)
    optimizer = kind(whole, **options)
    switching: Any = twin_kind(model.parameters(), **options)
    handle = zeromean.centralize(switching, model)
    for step in range(9):
        if step in (3, 6):
            kept = switching.state_dict()
            if step == 3:
                handle.remove()
                switching = kind(model, **options)
            else:
                switching = twin_kind(model.parameters(), **options)
                zeromean.centralize(switching, model)
            switching.load_state_dict(copy.deepcopy(kept))
        backward(model, whole)
        switching.step()
        optimizer.step()
        assert_same(model, whole, rtol=1e-10, atol=1e-12)
    ours, theirs = optimizer.state_dict(), twin_kind(model.parameters(), **options).state_dict()
    assert [set(group) for group in ours["param_groups"]] == [
        set(group) for group in theirs["param_groups"]
    ]


@pytest.mark.parametrize("name", TORCH)
def test_signature_is_torchs_plus_centering_options(name: str) -> None:
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    own = {"model", "at", "layers", "embeddings"}
    assert set(ours) == set(theirs) | own
    for key, parameter in theirs.items():
        assert ours[key].default == parameter.default
        assert ours[key].kind == parameter.kind
    positional = [key for key in ours if key in theirs and ours[key].kind != ours[key].KEYWORD_ONLY]
    assert positional == [key for key in theirs if theirs[key].kind != theirs[key].KEYWORD_ONLY]


@pytest.mark.parametrize("name", TORCH)
def test_copies_and_pickles_keep_the_plan(name: str) -> None:
    model = network()
    optimizer = getattr(optim, name)(model, lr=0.01, at="update")
    for step in range(2):
        backward(model)
        optimizer.step()
        if step == 0:
            other, optimizer_of_other = pickle.loads(pickle.dumps((model, optimizer)))
        else:
            other, optimizer_of_other = copy.deepcopy((model, optimizer))
        before = means(other)
        backward(model, other)
        optimizer.step()
        optimizer_of_other.step()
        assert_same(model, other, rtol=1e-12, atol=0)
        torch.testing.assert_close(means(other), before)


def test_param_groups_have_their_own_rules_and_schedulers_act() -> None:
    model = network()
    other = copy.deepcopy(model)

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        return [
            {"params": decayed, "weight_decay": 0.3, "momentum": 0.9},
            {"params": [p for p in model.parameters() if p.ndim == 1], "lr": 0.3},
        ]

    optimizer = optim.SGD(groups(model), lr=0.1, model=model)
    twin = torch.optim.SGD(groups(other), lr=0.1)
    zeromean.centralize(twin, other, fused=False)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (optimizer, twin)]
    for step in range(6):
        backward(model, other)
        if step == 2:  # some have no gradient for once
            model[0].weight.grad = other[0].weight.grad = None
        if step == 4:  # the momentum starts late
            for o in (optimizer, twin):
                o.param_groups[1]["momentum"] = 0.5
        optimizer.step()
        twin.step()
        for schedule in schedules:
            schedule.step()
        assert_same(model, other, rtol=1e-10, atol=1e-12)


def test_a_parameter_added_later_is_planned() -> None:
    model = network()
    optimizer = optim.AdamW(model[:3].parameters(), model=model, at="update")
    backward(model)
    optimizer.step()
    optimizer.add_param_group({"params": model[4].parameters()})
    before = means(model)
    start = model[4].weight.detach().clone()
    backward(model)
    optimizer.step()
    assert not torch.equal(model[4].weight, start)
    torch.testing.assert_close(means(model), before)


def test_new_storage_for_weights_gradients_and_state_is_seen() -> None:
    model = network()
    other = copy.deepcopy(model)
    optimizer, twin = optim.AdamW(model), torch_twin("AdamW", other, {}, "gradient")
    for step in range(6):
        backward(model, other)
        if step == 1:
            for p in model.parameters():
                p.data = p.data.clone()
        if step == 2:
            model[0].to(memory_format=torch.channels_last)
        if step == 3:
            for state in optimizer.state.values():
                state["exp_avg"] = state["exp_avg"].clone()
        if step == 4:
            optimizer.state.clear()
            twin.state.clear()
        optimizer.step()
        twin.step()
        assert_same(model, other, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings(
    "ignore:optimizer contains a parameter group with duplicate:UserWarning"
)
@pytest.mark.parametrize(
    ("name", "options"),
    # Not momentum, which torch's SGD starts again for each listing; nor decay inside adaptive
    # steps, whose mean moves between the two, after the twin's gradient was centered.
    [
        ("SGD", {"lr": 0.1, "weight_decay": 0.3, "maximize": True}),
        ("AdamW", {"lr": 0.01, "weight_decay": 0.3}),
        ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    ],
)
def test_parameter_listed_twice_is_stepped_twice(name: str, options: dict[str, Any]) -> None:
    model = nn.Linear(9, 9).double()
    other = copy.deepcopy(model)
    optimizer = getattr(optim, name)([model.weight, model.weight], model=model, **options)
    twin = getattr(torch.optim, name)([other.weight, other.weight], foreach=False, **options)
    zeromean.centralize(twin, other)
    for _ in range(3):
        model.weight.grad = torch.randn(9, 9).double()
        other.weight.grad = model.weight.grad.clone()
        optimizer.step()
        twin.step()
        assert_same(model, other, rtol=1e-10, atol=1e-12)


def test_expanded_and_shared_gradients_are_only_read() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other = copy.deepcopy(model)
    optimizer, twin = optim.SGD(model, weight_decay=0.1), optim.SGD(other, weight_decay=0.1)
    gradient = torch.randn(3, 1).expand(3, 3)
    for number in range(2):
        model[number].weight.grad = gradient
        other[number].weight.grad = gradient.clone()
    optimizer.step()
    twin.step()
    assert_same(model, other, rtol=1e-6, atol=1e-7)


def test_a_closure_makes_the_gradients() -> None:
    for name in TORCH:
        model = network()
        other = copy.deepcopy(model)
        optimizer, twin = (getattr(optim, name)(m, lr=0.01, at="update") for m in (model, other))
        x = torch.randn(4, 3, 6, 6, dtype=torch.float64)

        def closure(model: nn.Module = model, x: Tensor = x) -> Tensor:
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() > 0
        other(x).square().mean().backward()
        twin.step()
        assert_same(model, other, rtol=0, atol=0)


def test_sgdw_shrinks_first_and_keeps_the_decay_outside(supports: Any) -> None:
    supports("Optimizer", "zeromean.optim.SGDW", "gradient", "its decay alone shrinks the means")
    model = network()
    optimizer = optim.SGDW(model, lr=0.1, momentum=0.9, weight_decay=0.3)
    before = means(model)
    for _ in range(3):
        backward(model)
        optimizer.step()
    torch.testing.assert_close(means(model), [mean * (1 - 0.1 * 0.3) ** 3 for mean in before])
    twin = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert set(twin.state_dict()["param_groups"][0]) == set(
        optimizer.state_dict()["param_groups"][0]
    )


def test_bfloat16_weights_keep_their_means(supports: Any) -> None:
    supports(
        "Optimizer", "zeromean.optim.AdamW, bfloat16 weights", "update", "means kept, 200 steps"
    )
    model = network(torch.bfloat16)
    optimizer = optim.AdamW(model, lr=1e-3, at="update")
    before = [mean.double() for mean in means(network_as(model))]
    for _ in range(200):
        backward(model)
        optimizer.step()
    for mean, old in zip(means(network_as(model)), before, strict=True):
        torch.testing.assert_close(mean.double(), old, rtol=0, atol=1e-3)


def network_as(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def test_complex_weights_step_as_torchs() -> None:
    p = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128))
    q = nn.Parameter(p.detach().clone())
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes"):
        optimizer = optim.AdamW([p], lr=0.01)
    twin = torch.optim.AdamW([q], lr=0.01)
    for _ in range(3):
        p.grad = torch.randn_like(p)
        q.grad = zeromean.center(p.grad, 1)
        optimizer.step()
        twin.step()
        torch.testing.assert_close(p, q)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_means_of_half_precision_complex_weights_are_kept() -> None:
    p = nn.Parameter(torch.randn(4, 64, dtype=torch.complex64).to(torch.complex32))
    before = p.detach().to(torch.complex128).mean(1)
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes"):
        optimizer = optim.AdamW([p], lr=1e-3, at="update")
    for _ in range(100):
        p.grad = (torch.randn(4, 64, dtype=torch.complex64) + 1).to(torch.complex32)
        optimizer.step()
    after = p.detach().to(torch.complex128).mean(1)
    torch.testing.assert_close(after, before, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", TORCH)
def test_hooks_of_a_step_run_once(name: str) -> None:
    """Even if torch has instantiated its own class, whose step then runs hooks too."""
    model = network()
    getattr(torch.optim, name)(model.parameters())
    optimizer = getattr(optim, name)(model)
    ran = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    backward(model)
    optimizer.step()
    assert ran == ["before", "after"]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_weights_keep_means_through_type_changes(name: str) -> None:
    """Rounding errors are carried from then on, or no longer."""
    for types in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        model = network(types[0])
        optimizer = getattr(optim, name)(model, lr=1e-2, at="update")
        backward(model)
        optimizer.step()
        model.to(types[1])
        before = means(network_as(model))
        for _ in range(100):
            backward(model)
            optimizer.step()
        torch.testing.assert_close(means(network_as(model)), before, rtol=0, atol=1e-3)


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_lookahead_follows_its_definition(at: str, supports: Any) -> None:
    supports("Optimizer", "zeromean.optim.Lookahead around AdamW", at, "equal to its definition")
    model = network()
    other = copy.deepcopy(model)
    optimizer = optim.Lookahead(optim.AdamW(model, at=at), k=3, alpha=0.4)
    inner = optim.AdamW(other, at=at)
    slow = [p.detach().clone() for p in other.parameters()]
    before = means(model)
    for step in range(1, 8):
        backward(model, other)
        optimizer.step()
        inner.step()
        if step % 3 == 0:
            for phi, theta in zip(slow, other.parameters(), strict=True):
                phi.add_(0.4 * (theta.detach() - phi))
                theta.data.copy_(phi)
        assert_same(model, other)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    if at == "update":
        torch.testing.assert_close(means(model), before)


@pytest.mark.parametrize("way", ["state_dict", "deepcopy"])
def test_lookahead_resumes_where_it_was(way: str, supports: Any) -> None:
    supports(
        "Optimizer", "zeromean.optim.Ranger", "-", "a copy and a checkpoint go on the same way"
    )
    model = network()
    optimizer = optim.Ranger(model, lr=0.1, k=3)
    for _ in range(4):
        backward(model)
        optimizer.step()
    if way == "deepcopy":
        other, resumed = copy.deepcopy((model, optimizer))
    else:
        other = copy.deepcopy(model)
        resumed = optim.Ranger(other, lr=0.5, k=3)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups is resumed.optimizer.param_groups
    assert resumed.param_groups[0]["lr"] == 0.1
    for _ in range(4):
        backward(model, other)
        optimizer.step()
        resumed.step()
        assert_same(model, other)


@pytest.mark.filterwarnings(
    "ignore:optimizer contains a parameter group with duplicate:UserWarning"
)
def test_lookahead_counts_steps_of_a_parameter_listed_twice_once() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    start = weight.detach().clone()
    optimizer = optim.Lookahead(torch.optim.SGD([weight, weight], lr=0.1), k=3, alpha=0.0)
    for step in range(1, 7):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert torch.equal(weight, start) == (step % 3 == 0)


def test_lookahead_adds_groups_to_the_optimizer_inside() -> None:
    model = network()
    optimizer = optim.Lookahead(optim.SGD(model[:3].parameters(), model=model), k=2)
    optimizer.add_param_group({"params": list(model[4].parameters()), "lr": 0.1})
    assert len(optimizer.optimizer.param_groups) == 2
    start = model[4].weight.detach().clone()
    backward(model)
    optimizer.step()
    assert not torch.equal(model[4].weight, start)


def test_lookahead_has_the_defaults_that_schedulers_look_at() -> None:
    optimizer = optim.Ranger(network(), lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=5)
    assert optimizer.optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.1


def test_lookahead_shares_groups_after_inner_load() -> None:
    optimizer = optim.Lookahead(optim.SGD(network(), lr=0.1))
    optimizer.optimizer.load_state_dict(optimizer.optimizer.state_dict())
    # A scheduler sets the rate of the next step, and adds keys that it reads later.
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=5)
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 / 25)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == pytest.approx(0.2 / 25)


def test_lookahead_refuses_the_checkpoint_of_another_optimizer() -> None:
    model = network()
    optimizer = optim.Lookahead(optim.SGD(model, lr=0.1))
    with pytest.raises(zeromean.ZeromeanError, match=r"Load it into \.optimizer"):
        optimizer.load_state_dict(optimizer.optimizer.state_dict())


@pytest.mark.parametrize("name", TORCH)
def test_differentiable_checkpoint_is_refused(name: str) -> None:
    model = network()
    theirs = getattr(torch.optim, name)(model.parameters(), differentiable=True)
    optimizer = getattr(optim, name)(model)
    optimizer.load_state_dict(theirs.state_dict())
    backward(model)
    with pytest.raises(zeromean.ZeromeanError, match="differentiable"):
        optimizer.step()
    assert not getattr(optimizer, "_copies", ())  # of the gradients: nothing is left behind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {option: True}) for name in ("SGD", "SGDW", "Adam", "AdamW")
          for option in ("foreach", "differentiable", "fused")],
        *[(name, {"differentiable": True}) for name in ("Adagrad", "RMSprop", "RAdam")],
        ("Adagrad", {"fused": True}),
        *[(name, {"at": "backward"}) for name in TORCH],
        ("SGD", {"model": network()}),
    ],
)  # fmt: skip
def test_unsupported_options_raise(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(zeromean.ZeromeanError):
        getattr(optim, name)(network(), **options)


def test_unsupported_option_names_an_optimizer_that_torch_has() -> None:
    with pytest.raises(zeromean.ZeromeanError, match=r"or centralize torch\.optim\.Adam\.$"):
        optim.Adam(network(), foreach=True)
    with pytest.raises(zeromean.ZeromeanError, match=r"Leave foreach out\.$"):
        optim.SGDW(network(), foreach=True)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_capturable_takes_the_triton_kernels(name: str, backend: str) -> None:
    model = network()
    if backend != "triton":
        with pytest.raises(zeromean.ZeromeanError, match="capturable"):
            getattr(optim, name)(model, capturable=True)
        return
    lr = torch.tensor(0.01)
    optimizer = getattr(optim, name)(model, lr, capturable=True)
    backward(model)
    optimizer.step()
    assert {state["step"].device for state in optimizer.state.values()} == {lr.device}


def test_options_that_need_a_model_are_refused_without() -> None:
    parameters = list(network().parameters())
    with pytest.raises(zeromean.ZeromeanError, match="needs the model"):
        optim.AdamW(parameters, embeddings=True)
    with pytest.raises(zeromean.ZeromeanError, match="there is no model"):
        optim.AdamW(parameters, layers=lambda name, module: True)


def test_centralize_on_a_drop_in_is_refused() -> None:
    model = network()
    with pytest.raises(zeromean.ZeromeanError, match="inside its step"):
        zeromean.centralize(optim.AdamW(model), model)


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 2))
    optimizer = optim.SGD(model, lr=0.1)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(zeromean.ZeromeanError, match="sparse"):
        optimizer.step()


def test_checkpoint_flags_are_ignored() -> None:
    model = network()
    theirs = torch.optim.AdamW(model.parameters(), foreach=True)
    optimizer = optim.AdamW(model)
    optimizer.load_state_dict(theirs.state_dict())
    backward(model)
    optimizer.step()


def test_plan_and_status() -> None:
    optimizer = optim.AdamW(network(), layers="conv")
    assert [row.name for row in optimizer.plan.centered] == ["0.weight", "2.weight"]
    status = zeromean.status(copy.deepcopy(optimizer))
    assert str(status) == f"AdamW is centralized with {optimizer.how}: 2 of 6 parameters"
    assert status.as_remembered
    assert repr(optimizer).endswith(f"{optimizer.how}; {optimizer.plan.total()}")


def test_status_reports_other_checkpoint_options() -> None:
    model = network()
    theirs: Any = torch.optim.AdamW(model.parameters())
    zeromean.centralize(theirs, model, at="update")
    for at, same in (("update", True), ("gradient", False)):
        optimizer = optim.AdamW(model, at=at)
        optimizer.load_state_dict(theirs.state_dict())
        status = zeromean.status(optimizer)
        assert status.as_remembered == same
        assert ("come from an optimizer with at=update" in str(status)) != same
