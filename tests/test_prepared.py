"""Test prepared work: correct at every place, and prepared again when a tensor moves."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeromean
from test_kernels import DTYPES, cases
from zeromean import FanIn, kernels, optim
from zeromean.kernels import Entry, cpu_backend, reference, triton_backend
from zeromean.kernels.residuals import Residuals

ROWS = FanIn((1,))
COMPILED = {"reference": reference, "native": cpu_backend, "triton": triton_backend}


def centered() -> list[tuple[tuple[int, ...], FanIn]]:
    return [(shape, fan_in) for shape, fan_in in cases().values() if fan_in]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).double()  # fmt: skip


def backward(*models: nn.Module) -> None:
    """Copy the gradients of the first optimizer's weights to all others."""
    models[0].zero_grad()
    models[0](torch.randn(4, 3, 6, 6).double()).square().mean().backward()
    for model in models[1:]:
        for p, q in zip(models[0].parameters(), model.parameters(), strict=True):
            q.grad = p.grad.clone()


def means(tensor: Tensor, fan_in: FanIn) -> Tensor:
    return tensor - zeromean.center(tensor, fan_in.axes, fan_in.groups)


def rounding(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": torch.finfo(dtype).eps, "atol": 2e-7 + torch.finfo(dtype).eps / 2}


@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_prepared_centering_equals_float64(backend: str, dtype: torch.dtype, decayed: bool) -> None:
    entries = [
        Entry(torch.randn(shape).to(dtype), fan_in, {}, n % 3)
        for n, (shape, fan_in) in enumerate(centered())
    ]
    decays = [0.3, 0.0, torch.tensor(-0.2)] if decayed else [0.0] * 3
    gradients = [torch.randn_like(entry.weight) for entry in entries]
    parts = kernels.prepare_center(entries, gradients, decayed)
    assert all(isinstance(part.center, COMPILED[backend].Center) for part in parts)
    for _ in range(2):
        gradients = [torch.randn_like(entry.weight) for entry in entries]
        expected = [
            g.double() - means(g.double() + float(decays[e.group]) * e.weight.double(), e.fan_in)
            for e, g in zip(entries, gradients, strict=True)
        ]
        for center, indices in parts:
            found = [gradients[n] for n in indices]
            bound = center.bind(found)
            assert bound is not None
            bound(decays)
        for gradient, exact in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient.double(), exact, **rounding(dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_restored_means_and_unmoved_weights(backend: str, dtype: torch.dtype) -> None:
    residuals = Residuals()
    weights = [torch.randn(shape).to(dtype) for shape, _ in centered()]
    fan_ins = [fan_in for _, fan_in in centered()]
    entries = [
        Entry(w, fan_in, {}, 0, residuals.of(w, fan_in))
        for w, fan_in in zip(weights, fan_ins, strict=True)
    ]
    half = dtype.itemsize == 2
    assert all((entry.residual is not None) == half for entry in entries)
    keeps = kernels.prepare_mean_keeper(entries)
    served = COMPILED[backend].MeanKeeper if dtype in DTYPES else reference.MeanKeeper
    assert [type(keep) for keep in keeps] == [served]
    start = [w.clone() for w in weights]
    for moved in (False, True):
        noted = [keep.record() for keep in keeps]
        for w in weights if moved else []:
            w.add_(torch.rand_like(w))
        changed = [w.clone() for w in weights]
        for keep, note in zip(keeps, noted, strict=True):
            keep.restore(note)
        if not moved:
            assert all(map(torch.equal, weights, changed))
    for w, before, old, entry in zip(weights, start, changed, entries, strict=True):
        fan_in = entry.fan_in
        assert fan_in is not None
        shift = w.double() - old.double()
        spread = 2 * torch.finfo(dtype).eps * old.double().abs().max().item() if half else 1e-6
        torch.testing.assert_close(shift, means(shift, fan_in), rtol=0, atol=spread)
        drift = means(w.double() - before.double(), fan_in)
        if entry.residual is None:
            assert drift.abs().max() < 1e-6
        else:
            lost = reference.vector_means([drift], [fan_in])[0].flatten()
            torch.testing.assert_close(-lost, entry.residual.double(), rtol=0, atol=1e-5)


def test_means_of_moved_weights_are_restored(backend: str) -> None:
    weight = nn.Parameter(torch.randn(6, 50))
    (keep,) = kernels.prepare_mean_keeper([Entry(weight, ROWS, {}, 0)])
    before = weight.detach().mean(1)
    noted = keep.record()
    weight.data = weight.data + torch.rand(6, 50)
    left = weight.data.clone()
    with torch.no_grad():
        keep.restore(noted)
    torch.testing.assert_close(weight.detach().mean(1), before)
    assert not torch.equal(weight, left)
    if backend != "reference":
        assert keep.record() is None


@pytest.mark.usefixtures("native_library")
def test_moved_tensors_invalidate_centering() -> None:
    weight, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    entry = Entry(weight, FanIn((1, 2, 3)), {}, 0)
    center = cpu_backend.Center([entry], [gradient], decayed=True)
    assert center.bind([gradient]) is not None
    assert center.bind([gradient.clone()]) is not None
    assert center.bind([gradient[:3]]) is None  # the same strides, fewer entries
    assert center.bind([gradient.double()]) is None
    assert center.bind([gradient.to_sparse()]) is None
    assert center.bind([nn.Parameter(gradient)]) is None
    assert center.bind([gradient.to(memory_format=torch.channels_last)]) is None
    weight.data = weight.data.clone()
    assert center.bind([gradient]) is None
    assert cpu_backend.Center([entry], [gradient], decayed=False).bind([gradient]) is not None


@pytest.mark.usefixtures("backend")
def test_empty_gradients_share_no_memory() -> None:
    entries = [Entry(torch.empty(0, 5), ROWS, {}, 0) for _ in range(2)]
    gradients = [torch.empty(0, 5) for _ in entries]
    (part,) = kernels.prepare_center(entries, gradients, decayed=False)
    assert part.center.bind(gradients) is not None


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_centralized_optimizer_follows_changes(at: Any, fused: bool | None) -> None:
    model = network()
    other = copy.deepcopy(model)
    decayed = {"lr": 0.1, "momentum": 0.9}
    optimizer, plain = (torch.optim.SGD(m[:3].parameters(), **decayed) for m in (model, other))
    zeromean.centralize(optimizer, model, at=at, fused=fused)
    rows = zeromean.explain(other)

    def channels_last() -> None:
        model[0].to(memory_format=torch.channels_last)

    def new_storage() -> None:
        for p in model.parameters():
            p.data, p.grad.data = p.data.clone(), p.grad.data.clone()

    def no_gradient() -> None:
        model[2].weight.grad = other[2].weight.grad = None

    def decay() -> None:
        for o in (optimizer, plain):
            o.param_groups[0]["weight_decay"] = 0.3

    def another_group() -> None:
        for o, m in ((optimizer, model), (plain, other)):
            o.add_param_group({"params": list(m[4].parameters()), "weight_decay": 0.1})

    def moved_to_the_other_group() -> None:
        for o in (optimizer, plain):
            first, second = (group["params"] for group in o.param_groups)
            second[:0] = first[-2:]
            del first[-2:]

    def load() -> None:
        for o in (optimizer, plain):
            o.load_state_dict(o.state_dict())

    def gradient_laid_otherwise() -> None:
        model[2].weight.grad = model[2].weight.grad.to(memory_format=torch.channels_last)

    changes = [
        channels_last, new_storage, no_gradient, decay, another_group, moved_to_the_other_group,
        load, gradient_laid_otherwise,
    ]  # fmt: skip
    for change in [None, *changes, None]:
        backward(model, other)
        if change is not None:
            change()
        by_hand(rows, plain, at)
        optimizer.step()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("backend")
def test_means_of_weights_that_change_their_type_are_kept() -> None:
    for types in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        weight = nn.Parameter(torch.randn(6, 50, dtype=types[0]))
        optimizer = torch.optim.SGD([weight], lr=0.01)
        with pytest.warns(zeromean.ZeromeanWarning, match="only shapes"):
            zeromean.centralize(optimizer, at="update", fused=False)
        for dtype in types:
            weight.data = weight.data.to(dtype)
            before = weight.detach().double().mean(1)
            for _ in range(300):
                weight.grad = torch.rand_like(weight)
                optimizer.step()
        torch.testing.assert_close(weight.detach().double().mean(1), before, rtol=0, atol=3e-3)


@torch.no_grad()
def by_hand(rows: zeromean.Plan, optimizer: torch.optim.Optimizer, at: str) -> None:
    """One step, centered by the definition."""
    fan_ins = {row.parameter: row.fan_in for row in rows.centered}
    before = {p: p.clone() for group in optimizer.param_groups for p in group["params"]}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if at == "gradient" and p in fan_ins and p.grad is not None:
                p.grad -= means(p.grad + group["weight_decay"] * p, fan_ins[p])
    optimizer.step()
    for p, old in before.items():
        if at == "update" and p in fan_ins:
            p.sub_(means(p - old, fan_ins[p]))


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize(
    ("at", "fused"),
    [
        ("gradient", None),
        ("gradient", False),
        ("update", None),
        ("update", False),
        ("backward", None),
    ],
)
def test_every_place_uses_the_native_kernels(
    monkeypatch: pytest.MonkeyPatch, at: Any, fused: bool | None
) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("a loop over tensors")

    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    zeromean.centralize(optimizer, model, at=at, fused=fused)
    start = copy.deepcopy(model)
    monkeypatch.setattr(reference, "vector_means", refuse)
    monkeypatch.setattr(reference, "shift_", refuse)
    backward(model)
    optimizer.step()
    assert not torch.equal(model[0].weight, start[0].weight)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("at", ["gradient", "update"])
def test_subclass_that_calls_super_step(at: Any) -> None:
    """super().step() runs the hooks again, and each level restores the means that it recorded."""

    class Decaying(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.add_(0.125)
            return super().step(closure)

    model = network()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)  # patches torch's own step with hooks
    optimizer = Decaying(model.parameters(), lr=0.1)
    zeromean.centralize(optimizer, model, at=at)
    before = means(model[4].weight.detach(), ROWS)
    backward(model)
    optimizer.step()
    gained = means(model[4].weight.detach(), ROWS) - before
    torch.testing.assert_close(gained, torch.full_like(gained, 0.125 if at == "gradient" else 0.0))
    assert plain.param_groups


@pytest.fixture
def _frozen() -> Iterator[None]:
    """Hide all objects that are alive from the garbage collector, which is slow by their number."""
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> dict[int, int]:
    """Return the sizes of the storages of the tensors made since the freeze, by address."""
    gc.collect()
    # Tensors of other types, such as the compiler's fake ones, may have no address.
    found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    storages = [x.untyped_storage() for x in found if x.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


@pytest.mark.usefixtures("_frozen")
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", ["AdamW", "RMSprop", "centralize"])
def test_memory_kept_between_steps(way: str, dtype: torch.dtype, at: Any, supports: Any) -> None:
    """One float32 per vector for half precision at="update"; none for float32 and float64."""
    supports(
        "Number",
        f"memory kept between steps, {str(dtype).removeprefix('torch.')} weights",
        at,
        "no bytes" if dtype.itemsize > 2 or at == "gradient" else "one float32 a weight vector",
    )
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 4)).to(dtype)
    known = live_bytes()
    if way == "centralize":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        zeromean.centralize(optimizer, model, at=at)
    else:
        optimizer = getattr(optim, way)(model, lr=0.1, at=at)
    for _ in range(3):
        model(torch.randn(3, 7).to(dtype)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {
        x.untyped_storage().data_ptr()
        for held in optimizer.state.values()
        for x in held.values()
        if isinstance(x, Tensor)
    }
    kept = {at: size for at, size in live_bytes().items() if at not in state and at not in known}
    residuals = 4 * (5 + 4) if dtype == torch.bfloat16 and at == "update" else 0
    assert sum(kept.values()) == residuals
