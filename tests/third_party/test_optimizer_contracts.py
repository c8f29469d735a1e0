"""One table of contracts, run over every optimizer of torch and many of third parties."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytorch_optimizer as po
import torch
from optimizer_cases import APART, CASES, TORCH, Case
from torch import Tensor, nn, optim

import zeromean
from zeromean.centralization.optimizer_traits import traits_of

Say = Callable[[str, str, str, str], None]
DECAY = 0.3


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Run optimizers that compile their own steps in eager mode."""
    with torch.compiler.set_stance("force_eager"):
        yield


def layers(case: Case) -> nn.ModuleList:
    """Make layers with different fan-in axes; one is large enough for 8-bit state."""
    made: list[nn.Module] = [nn.Linear(64, 80, bias=not case.matrices)]
    if not case.matrices:
        made += [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.LayerNorm(5)]
    return nn.ModuleList(made).to(case.dtype)


def build(case: Case, model: nn.Module, decay: float, **options: Any) -> optim.Optimizer:
    if case.decay is not None:
        options["weight_decay"] = decay
    optimizer = case.make(model.parameters(), **case.options, **options)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return optimizer


def draw_gradients(model: nn.Module, step: int) -> None:
    for number, p in enumerate(model.parameters()):
        generator = torch.Generator(p.device).manual_seed(100 * step + number)
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) + 0.3


def run(model: nn.Module, optimizer: optim.Optimizer, steps: range) -> None:
    for step in steps:
        draw_gradients(model, step)
        optimizer.step()


def assert_same(a: nn.Module, b: nn.Module, case: Case) -> None:
    tolerance = {} if case.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def means(model: nn.Module) -> list[Tensor]:
    return [
        row.parameter.detach() - zeromean.center(row.parameter.detach(), row.axes, row.groups)
        for row in zeromean.explain(model).centered
    ]


def check_what_it_saw(case: Case, **options: Any) -> None:
    """Compare with a plain optimizer that gets P(g), or P(g + lambda w) without decay.

    The momentum, which is linear in what the optimizer saw, is zero-mean.
    """
    model = layers(case)
    reference = copy.deepcopy(model)
    inside = DECAY if case.decay == "coupled" else 0.0
    optimizer = build(case, model, DECAY, **options)
    plain = build(case, reference, 0.0 if inside else DECAY, **options)
    handle = zeromean.centralize(optimizer, model)
    rows = {row.name: row for row in handle.plan.centered}
    assert len(rows) == (1 if case.matrices else 3)
    for step in range(5):
        draw_gradients(model, step)
        sign = -1 if options.get("maximize") else 1
        for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
            q.grad = p.grad + sign * inside * q.detach()
            if name in rows:
                q.grad = zeromean.center(q.grad, rows[name].axes, rows[name].groups)
        optimizer.step()
        plain.step()
        assert_same(model, reference, case)
    for key in traits_of(optimizer).momentum:
        assert any(key in state for state in optimizer.state.values()), f"there is no {key}"
        for row in rows.values():
            buffer = optimizer.state[row.parameter].get(key)
            if buffer is not None:  # Muon has some keys for its matrices, others for the rest
                centered = zeromean.center(buffer, row.axes, row.groups)
                rounding = 1e-6 * float(buffer.abs().max())
                torch.testing.assert_close(buffer, centered, rtol=0, atol=rounding)


@pytest.fixture(autouse=True)
def _same_rounding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # SOAP uses the eigenvectors of a matrix that is singular for centered gradients: a difference
    # of 1e-17 in a gradient becomes 1e-2 in the weights after four steps. Only the reference
    # rounds exactly as the centering of this test.
    if "SOAP" in request.node.name:
        monkeypatch.setenv("ZEROMEAN_KERNELS", "reference")


@pytest.mark.parametrize("name", CASES)
def test_sees_the_centered_gradient(name: str, supports: Say) -> None:
    check_what_it_saw(CASES[name])
    how = "equal to a plain one that is fed P(g)"
    if CASES[name].decay == "coupled":
        how = "equal to a plain one that is fed P(g + decay w)"
    supports("Optimizer", name, "gradient", how)


def takes(option: str) -> list[str]:
    return [name for name, c in CASES.items() if option in inspect.signature(c.make).parameters]


@pytest.mark.parametrize("name", takes("maximize"))
def test_maximize_changes_the_sign_of_decay(name: str) -> None:
    check_what_it_saw(CASES[name], maximize=True)


VARIANTS = [
    (name, option)
    for option in ("foreach", "fused")
    for name in takes(option)
    if name.startswith("torch ")
]


@pytest.mark.parametrize(("name", "option"), VARIANTS)
def test_foreach_and_fused_see_the_same(name: str, option: str, supports: Say) -> None:
    check_what_it_saw(CASES[name], **{option: True})
    supports(
        "Optimizer", f"torch, {option}=True", "gradient", "equal to a plain one that is fed P(g)"
    )


@pytest.mark.parametrize("name", [one for one in takes("capturable") if one.startswith("torch ")])
def test_capturable(name: str, supports: Say) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(AssertionError, match=r"If capturable=True, .* on supported devices"):
            check_what_it_saw(CASES[name], capturable=True)
        return
    with torch.device("cuda"):
        check_what_it_saw(CASES[name], capturable=True)
    supports(
        "Optimizer", "torch, capturable=True", "gradient", "equal to a plain one that is fed P(g)"
    )


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("torch ")])
def test_lr_as_a_tensor(name: str, supports: Say) -> None:
    case = CASES[name]
    check_what_it_saw(replace(case, options=case.options | {"lr": torch.tensor(0.01)}))
    supports("Optimizer", "torch, lr as a tensor", "gradient", "as with a number")


@pytest.mark.parametrize("name", takes("differentiable"))
def test_differentiable_raises(name: str, supports: Say) -> None:
    case = CASES[name]
    model = layers(case)
    optimizer = build(case, model, 0.0, differentiable=True)
    with pytest.raises(zeromean.ZeromeanError, match="differentiable"):
        zeromean.centralize(optimizer, model)
    supports("Optimizer", "torch, differentiable=True", "-", "refused: autograd misses the hooks")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.update])
def test_the_whole_update_is_projected(name: str, supports: Say) -> None:
    case = CASES[name]
    model = layers(case)
    twin = copy.deepcopy(model)
    optimizer, plain = build(case, model, DECAY), build(case, twin, DECAY)
    zeromean.centralize(optimizer, model, at="update")
    rows = {row.name: row for row in zeromean.explain(model).centered}
    before, start = means(model), [p.detach().clone() for p in model.parameters()]
    for step in range(4):
        old = [q.detach().clone() for q in twin.parameters()]
        run(model, optimizer, range(step, step + 1))
        run(twin, plain, range(step, step + 1))
        for (key, q), w in zip(twin.named_parameters(), old, strict=True):
            if key in rows:
                delta = zeromean.center(w - q.detach(), rows[key].axes, rows[key].groups)
                with torch.no_grad():
                    q.copy_(w - delta)
        assert_same(model, twin, case)
    assert not any(torch.equal(p, w) for p, w in zip(model.parameters(), start, strict=True))
    torch.testing.assert_close(means(model), before)
    supports("Optimizer", name, "update", "w - P(delta) of a plain twin; means kept")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.update])
def test_update_raises_for_optimizers_with_other_iterates(name: str, supports: Say) -> None:
    case = CASES[name]
    model = layers(case)
    with pytest.raises(zeromean.ZeromeanError, match="another iterate"):
        zeromean.centralize(build(case, model, DECAY), model, at="update")
    supports("Optimizer", name, "update", "refused: its other iterate would drift")


AT = [
    (name, at)
    for name, case in CASES.items()
    for at in (("gradient", "update") if case.update else ("gradient",))
]


@pytest.mark.parametrize(("name", "at"), AT)
def test_resumed_training_equals_uninterrupted_training(name: str, at: Any) -> None:
    case = CASES[name]
    model = layers(case)
    optimizer = build(case, model, DECAY)
    handle = zeromean.centralize(optimizer, model, at=at)
    run(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = copy.deepcopy(model)
    other = build(case, resumed, DECAY)
    zeromean.centralize(other, resumed, at=at)
    other.load_state_dict(torch.load(file, weights_only=True))  # without a warning
    assert zeromean.status(other).remembered == handle.how
    run(model, optimizer, range(3, 5))
    run(resumed, other, range(3, 5))
    assert_same(model, resumed, case)


def state_types(optimizer: optim.Optimizer) -> list[dict[str, object]]:
    return [
        {key: getattr(value, "dtype", type(value)) for key, value in state.items()}
        for state in optimizer.state.values()
    ]


@pytest.mark.parametrize(("name", "at"), AT)
def test_dtypes_do_not_change(name: str, at: Any) -> None:
    case = CASES[name]
    model = layers(case)
    plain_model = copy.deepcopy(model)
    optimizer, plain = build(case, model, DECAY), build(case, plain_model, DECAY)
    zeromean.centralize(optimizer, model, at=at)
    run(model, optimizer, range(3))
    run(plain_model, plain, range(3))
    assert {p.dtype for p in model.parameters()} == {case.dtype}
    assert state_types(optimizer) == state_types(plain)


@pytest.mark.parametrize(("name", "at"), AT)
def test_closure_computes_the_gradients(name: str, at: Any) -> None:
    case = CASES[name]
    model = layers(case)
    twin = copy.deepcopy(model)
    optimizer, other = build(case, model, DECAY), build(case, twin, DECAY)
    zeromean.centralize(optimizer, model, at=at)
    zeromean.centralize(other, twin, at=at)
    for step in range(3):

        def closure(step: int = step) -> Tensor:
            draw_gradients(model, step)
            return torch.tensor(float(step))

        loss = optimizer.step(closure)
        assert loss == step
        run(twin, other, range(step, step + 1))
    assert_same(model, twin, case)


@pytest.mark.parametrize(("name", "at"), AT)
def test_parameters_without_a_gradient_do_not_move(name: str, at: Any) -> None:
    case = CASES[name]
    model = layers(case)
    model.append(nn.Linear(6, 6, bias=False).to(case.dtype))
    optimizer = build(case, model, DECAY)
    zeromean.centralize(optimizer, model, at=at)
    still = model[-1].weight.detach().clone()
    for step in range(3):
        draw_gradients(model, step)
        model[-1].weight.grad = None
        optimizer.step()
    assert torch.equal(model[-1].weight, still)
    run(model, optimizer, range(3, 6))
    assert not torch.equal(model[-1].weight, still)


@pytest.mark.parametrize(("name", "at"), AT)
def test_removed_handle_leaves_the_plain_step(name: str, at: Any) -> None:
    case = CASES[name]
    model = layers(case)
    twin = copy.deepcopy(model)
    optimizer, plain = build(case, model, DECAY), build(case, twin, DECAY)
    zeromean.centralize(optimizer, model, at=at).remove()
    run(model, optimizer, range(4))
    run(twin, plain, range(4))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert zeromean.status(optimizer).remembered is None


# --- optimizers that need other inputs ----------------------------------------------------------


def test_cases_contain_every_torch_optimizer() -> None:
    names = {
        name
        for name, kind in vars(optim).items()
        if inspect.isclass(kind) and issubclass(kind, optim.Optimizer)
    }
    assert names == {name.partition(",")[0] for name in TORCH} | APART | {"Optimizer"}


def test_lbfgs_sees_centered_gradients(supports: Say) -> None:
    x, y = torch.randn(20, 6).double(), torch.randn(20, 2).double()
    model = nn.Linear(6, 2).double()
    reference = copy.deepcopy(model)
    optimizer = optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    plain = optim.LBFGS(reference.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    zeromean.centralize(optimizer, model)

    def closure(model: nn.Linear, optimizer: optim.Optimizer, by_hand: bool) -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        if by_hand:
            model.weight.grad = zeromean.center(model.weight.grad, 1)
        return loss

    for _ in range(3):
        optimizer.step(lambda: closure(model, optimizer, False))
        plain.step(lambda: closure(reference, plain, True))
    torch.testing.assert_close(model.weight, reference.weight)
    supports("Optimizer", "torch LBFGS", "gradient", "equal to a plain one that is fed P(g)")
    with pytest.raises(zeromean.ZeromeanError, match="curvature"):
        zeromean.centralize(optim.LBFGS(model.parameters()), model, at="update")
    supports("Optimizer", "torch LBFGS", "update", "refused: its curvature pairs would break")


def test_sparse_adam_is_refused_at_gradient_and_kept_at_update(supports: Say) -> None:
    def trained(at: Any) -> nn.Embedding:
        torch.manual_seed(0)
        model = nn.Embedding(7, 3, sparse=True).double()
        optimizer = optim.SparseAdam(model.parameters(), lr=0.1)
        zeromean.centralize(optimizer, model, at=at, embeddings=True)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.tensor([1, 2, 2, 5])).square().sum().backward()
            optimizer.step()
        return model

    with pytest.raises(zeromean.ZeromeanError, match="sparse gradient"):
        trained("gradient")
    torch.manual_seed(0)
    start = nn.Embedding(7, 3, sparse=True).double().weight.detach()
    weight = trained("update").weight.detach()
    assert not torch.equal(weight, start)
    torch.testing.assert_close(weight.mean(0), start.mean(0))
    supports("Optimizer", "torch SparseAdam", "gradient", "refused: its gradients are sparse")
    supports("Optimizer", "torch SparseAdam", "update", "means kept")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_lars_keeps_means_and_uses_the_centered_gradient(
    at: Any, momentum: float, supports: Say
) -> None:
    lr, trust = 0.5, 0.1
    model = nn.Linear(6, 4, bias=False).double()
    optimizer = po.LARS(
        model.parameters(), lr, weight_decay=DECAY, momentum=momentum, trust_coefficient=trust
    )
    zeromean.centralize(optimizer, model, at=at)
    before = means(model)
    for step in range(3):
        draw_gradients(model, step)
        w, g = model.weight.detach().clone(), model.weight.grad.clone()
        optimizer.step()
        if momentum == 0:
            if at == "gradient":  # the decay that is added later has its mean subtracted now
                g = zeromean.center(g + DECAY * w, 1) - DECAY * w
            ratio = trust * w.norm() / (g.norm() + DECAY * w.norm())
            expected = w - lr * ratio * zeromean.center(g + DECAY * w, 1)
            torch.testing.assert_close(model.weight.detach(), expected)
    torch.testing.assert_close(means(model), before)
    supports(
        "Optimizer", "pytorch_optimizer LARS", at, "its formula with P(g + decay w); means kept"
    )


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda p: po.Ranger21(p, num_iterations=10), "centralize_gradients=True"),
        (po.Ranger, "use_gc=True"),
        (lambda p: po.AdamP(p, use_gc=True), "use_gc=True"),
        (lambda p: po.Adai(p, use_gc=True), "use_gc=True"),
    ],
)
def test_self_centering_optimizer_is_reported(make: Any, option: str) -> None:
    model = nn.Linear(6, 4)
    optimizer = make(model.parameters())
    assert zeromean.status(optimizer).centers_itself == option
    assert f"centers gradients itself ({option})" in str(zeromean.status(optimizer))
    with pytest.warns(zeromean.ZeromeanWarning, match=f"itself .{option}.*=False"):
        zeromean.centralize(optimizer, model)
    assert zeromean.status(po.AdamP(model.parameters())).centers_itself == ""


def test_flag_of_an_unknown_optimizer_is_not_trusted() -> None:
    """The flag of ScalableShampoo does not say that its decay acts after the preconditioner."""
    model = nn.Linear(6, 4)
    optimizer = po.ScalableShampoo(model.parameters(), weight_decay=0.1)
    with pytest.raises(zeromean.ZeromeanError, match=r"ScalableShampoo has weight_decay=0\.1"):
        zeromean.centralize(optimizer, model)


# --- unusual steps -------------------------------------------------------------------


class Clearing(optim.SGD):
    """Drops the gradients inside its step."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.zero_grad()
        return loss


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_gradients_cleared_inside_the_step(at: Any) -> None:
    case = Case(Clearing, {"lr": 0.1, "momentum": 0.9})
    model = layers(case)
    optimizer = build(case, model, DECAY)
    zeromean.centralize(optimizer, model, at=at)
    before = means(model)
    run(model, optimizer, range(3))
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(means(model), before)


def test_schedule_free_would_drift_at_update() -> None:
    """Show why at="update" raises: the evaluated weights follow z, which is not projected."""
    from zeromean.centralization.at_update import AtUpdate
    from zeromean.centralization.centering import Centering
    from zeromean.centralization.centralize import Handle
    from zeromean.gc_options import GCOptions

    case = CASES["schedulefree AdamWScheduleFree"]
    model = layers(case)
    optimizer: Any = build(case, model, 0.0)
    centering = Centering(optimizer, model, GCOptions(at="update"))
    Handle(optimizer, centering, AtUpdate(centering))
    before = means(model)
    run(model, optimizer, range(20))
    torch.testing.assert_close(means(model), before)
    optimizer.eval()
    drift = max(
        float((now - old).abs().max()) for now, old in zip(means(model), before, strict=True)
    )
    assert drift > 1e-3
