"""The Triton backend: each path once, interpreted, and what only this backend does.

``make slow`` runs all tests of the kernels with it; test_gpu.py needs a GPU.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import test_kernels
import test_prepared
import zeromean
from zeromean import FanIn, kernels, optim
from zeromean.kernels import AdamRule, Entry, SGDRule, reference, triton_backend

ROWS, COLUMNS = FanIn((1,)), FanIn((0,))


@pytest.fixture
def _forced(triton_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROMEAN_KERNELS", "triton")


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize(
    ("dtype", "rule", "at"),
    [
        (torch.float32, "SGD", "gradient"),
        (torch.float32, "SGD, maximize", "update"),
        (torch.bfloat16, "momentum", "update"),
        (torch.float64, "nesterov", "gradient"),
        (torch.float64, "Adam", "update"),
        (torch.float32, "Adam, amsgrad", "gradient"),
        (torch.bfloat16, "AdamW", "gradient"),
    ],
)
def test_each_path_of_a_step(dtype: torch.dtype, rule: str, at: str, supports: Any) -> None:
    test_kernels.test_step_equals_torch_in_float64("triton", dtype, rule, at, supports)


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("decayed", [False, True])
def test_each_path_of_centering(decayed: bool) -> None:
    test_prepared.test_prepared_centering_equals_float64("triton", torch.float32, decayed)


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("make", ["drop-in", "taken over"])
def test_an_optimizer_steps_by_triton(make: str) -> None:
    model = torch.nn.Linear(36, 5)
    other = torch.nn.Linear(36, 5)
    other.load_state_dict(model.state_dict())
    if make == "drop-in":
        optimizer: torch.optim.Optimizer = optim.AdamW(model, at="update")
    else:
        optimizer = torch.optim.AdamW(model.parameters())
        zeromean.centralize(optimizer, model, at="update", fused=True)
    twin = torch.optim.AdamW(other.parameters())
    zeromean.centralize(twin, other, at="update", fused=False)
    for _ in range(2):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize(
    ("shape", "fan_in"), [((1, 33333), ROWS), ((520, 3), COLUMNS)], ids=["rows", "columns"]
)
def test_very_long_vectors_are_shared_among_programs(
    shape: tuple[int, ...], fan_in: FanIn, at: Any
) -> None:
    weight, gradient = torch.randn(shape), torch.randn(shape) + 1
    expected = weight.double() - zeromean.center(0.1 * gradient.double(), fan_in.axes)
    (part,) = kernels.prepare(["sgd"], at, [Entry(weight, fan_in, {}, 0)], [gradient])
    assert part.step._launch._shares
    part.step.bind([gradient])([SGDRule(0.1)])
    torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_means_are_kept_through_steps_of_others(dtype: torch.dtype) -> None:
    cases = [
        ((5, 36), ROWS),
        ((70, 9), COLUMNS),
        ((6, 5, 3, 3), FanIn((0, 2, 3), 2)),
        ((3, 8), ROWS),
    ]
    half = dtype == torch.bfloat16
    entries = []
    for shape, fan_in in cases:
        vectors = torch.Size(shape).numel() // fan_in.size(shape)
        residual = torch.zeros(vectors) if half else None
        entries.append(Entry(torch.randn(shape).to(dtype), fan_in, {}, 0, residual))
    slow = copy.deepcopy(entries)
    (keep,) = kernels.prepare_mean_keeper(entries)
    assert isinstance(keep, triton_backend.MeanKeeper)
    twin = reference.MeanKeeper(slow)
    for _ in range(3):
        noted, known = keep.record(), twin.record()
        still = entries[-1].weight.clone()
        for entry, other in zip(entries[:-1], slow[:-1], strict=True):
            change = torch.randn(entry.weight.shape).to(dtype) / 8 + 0.5
            entry.weight.add_(change)
            other.weight.add_(change)
        keep.restore(noted)
        twin.restore(known)
        for entry, other in zip(entries, slow, strict=True):
            tolerance = {"rtol": 2**-7, "atol": 2**-7} if half else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(entry.weight, other.weight, **tolerance)
            if half:
                torch.testing.assert_close(entry.residual, other.residual, rtol=0, atol=2e-3)
        assert torch.equal(entries[-1].weight, still)  # what did not move, to the bit


@pytest.mark.usefixtures("_forced")
def test_gradients_may_lie_anywhere() -> None:
    """Views into buckets are not aligned, and their addresses differ at every step."""
    weight = torch.randn(4, 16)
    exact = weight.double()
    part = None
    for offset in (0, 1, 4):
        gradient = torch.randn(80)[offset : offset + 64].view(4, 16)
        if part is None:
            (part,) = kernels.prepare(["sgd"], "gradient", [Entry(weight, ROWS, {}, 0)], [gradient])
        part.step.bind([gradient])([SGDRule(0.1)])
        exact -= 0.1 * zeromean.center(gradient.double(), 1)
    torch.testing.assert_close(weight.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("_forced")
def test_default_device_does_not_matter() -> None:
    gradient = torch.randn(4, 16)
    with torch.device("meta"):
        kernels.center_([gradient], [ROWS])
    torch.testing.assert_close(gradient.mean(1), torch.zeros(4))


@pytest.mark.usefixtures("_forced")
def test_a_rate_may_be_a_tensor_on_the_device() -> None:
    weight = torch.randn(4, 16)
    other = torch.nn.Parameter(weight.clone())
    state = {"step": torch.tensor(0.0)} | {
        key: torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")
    }
    rate = torch.tensor(0.1)
    rule = AdamRule(rate, (torch.tensor(0.8), 0.9), 1e-8, weight_decay=0.1, decoupled=True)
    twin = torch.optim.AdamW([other], 0.1, (0.8, 0.9), weight_decay=0.1)
    gradient = torch.randn(4, 16)
    (part,) = kernels.prepare(["adam"], "gradient", [Entry(weight, ROWS, state, 0)], [gradient])
    for lr in (0.1, 0.03):
        rate.fill_(lr)
        twin.param_groups[0]["lr"] = lr
        other.grad = zeromean.center(gradient, 1)
        part.step.bind([gradient])([rule])
        twin.step()
    torch.testing.assert_close(weight, other.detach())


@pytest.mark.usefixtures("_forced")
def test_what_is_remembered_does_not_grow() -> None:
    for rows in range(1, 12):
        kernels.center_([torch.randn(rows, 3)], [ROWS])
    assert triton_backend._remembered.cache_info().currsize <= 8


@pytest.mark.usefixtures("_forced")
def test_tensor_subclasses_fall_back() -> None:
    class Other(Tensor):
        pass

    weight = torch.randn(4, 3).as_subclass(Other)
    entry = Entry(weight, ROWS, {}, 0)
    (part,) = kernels.prepare(["sgd"], "gradient", [entry], [torch.randn(4, 3)])
    assert isinstance(part.step, reference.Step)


def test_tensors_beyond_32_bits() -> None:
    def counted(shape: tuple[int, ...], fan_in: FanIn) -> bool:
        return triton_backend._counted(
            triton_backend.layout(torch.empty(shape, device="meta"), fan_in)
        )

    assert counted((2**22, 2**12), ROWS)
    assert counted((2**22, 2**12), COLUMNS)
    assert not counted((2**32, 2), ROWS)
    assert not counted((2, 2**26), COLUMNS)
    assert not counted((2**10, 2**10, 2**6, 2**6), FanIn((0, 2, 3)))


@pytest.mark.usefixtures("triton_interpreter")
def test_programs_compile_without_a_gpu() -> None:
    """Compile as for a launch on a Hopper GPU; aligned tensors use words of 16 bytes."""
    program = """
import triton.language as tl
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zeromean.kernels import triton_kernels
from zeromean.kernels.triton_backend import _LAUNCH

words = {
    "tensor_of_program": "*i32", "tensors": "*i64", "gradients": "*i64", "into": "*i64",
    "rules": "*fp64", "corrections": "*fp64", "scratch": "*fp32", "means": "*fp32", "count": "i32",
}
known = dict(
    KIND="adam", UPDATE=True, STEPS=True, CARRIES=True,
    T=tl.bfloat16, A=tl.float32, LEVELS=7, VECTOR=8, BLOCK=128,
)
for kernel in (triton_kernels.step, triton_kernels.sum_parts, triton_kernels.count_step):
    names = kernel.arg_names
    signature = {name: words.get(name, "constexpr") for name in names}
    constants = {name: known[name] for name in names if name in known}
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(_LAUNCH))
    if kernel is triton_kernels.step:
        print(built.asm["ptx"].count("ld.global.v4"), built.asm["ptx"].count("st.global.v4"))
"""
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    environment.pop("TRITON_INTERPRET")
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    loads, stores = map(int, shown.stdout.split())
    assert loads >= 4
    assert stores >= 3
