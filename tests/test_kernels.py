"""Every backend against torch's own optimizers in float64, over odd shapes, layouts and types."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zeromean
from zeromean import FanIn, kernels
from zeromean.kernels import (
    AdamRule,
    Entry,
    SGDRule,
    backends,
    cpu_backend,
    reference,
    shared_library,
    triton_backend,
    weight_norm,
)
from zeromean.kernels.layout import Layout, layout_of
from zeromean.kernels.step_spec import STATE, Rule

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
ROWS, COLUMNS, TRANSPOSED = FanIn((1,)), FanIn((0,)), FanIn((0, 2, 3), groups=2)
CASES: dict[str, tuple[tuple[int, ...], FanIn | None]] = {
    "matrix": ((5, 7), ROWS),
    "one row": ((1, 301), ROWS),
    "long rows": ((3, 50257), ROWS),
    "many short rows": ((5001, 2), ROWS),
    "fan-in 9": ((130, 1, 3, 3), FanIn((1, 2, 3))),
    "convolution": ((20, 3, 5, 5), FanIn((1, 2, 3))),
    "columns": ((70, 93), COLUMNS),
    "many columns": ((33, 2050), COLUMNS),
    "long columns": ((20011, 3), COLUMNS),
    "transposed convolution": ((6, 5, 3, 3), TRANSPOSED),
    "transposed convolution, one pixel": ((6, 50, 1, 1), TRANSPOSED),
    "middle axis": ((4, 5, 6), FanIn((1,))),
    "whole tensor": ((4, 5, 6), FanIn((0, 1, 2))),
    "bias": ((40001,), None),
    "scalar": ((), None),
    "empty": ((0, 3), None),
}
# Triton's interpreter takes a twentieth of a second a program.
SMALLER = {
    "long rows": ((2, 9001), ROWS),
    "many short rows": ((301, 2), ROWS),
    "many columns": ((33, 80), COLUMNS),
    "long columns": ((700, 3), COLUMNS),
    "bias": ((5001,), None),
}
RULES: dict[str, tuple[Rule, type[torch.optim.Optimizer]]] = {
    "SGD": (SGDRule(0.1, weight_decay=0.2), torch.optim.SGD),
    "SGD, maximize": (SGDRule(0.1, weight_decay=0.2, maximize=True), torch.optim.SGD),
    "momentum": (SGDRule(0.1, 0.9, 0.3, weight_decay=0.2), torch.optim.SGD),
    "nesterov": (SGDRule(0.1, 0.9, nesterov=True), torch.optim.SGD),
    "Adam": (AdamRule(0.02, (0.8, 0.95), 1e-3, weight_decay=0.2), torch.optim.Adam),
    "Adam, amsgrad": (AdamRule(0.02, (0.8, 0.95), 1e-3, True), torch.optim.Adam),
    "AdamW": (
        AdamRule(0.02, (0.8, 0.95), 1e-3, weight_decay=0.2, decoupled=True),
        torch.optim.AdamW,
    ),
}


def cases() -> dict[str, tuple[tuple[int, ...], FanIn | None]]:
    return CASES | SMALLER if interpreted() else CASES


def interpreted() -> bool:
    return triton_backend.interpreted() and kernels.backend() == "triton"


def fresh_state(kind: str, weight: Tensor) -> dict[str, Any]:
    if kind in ("adam", "amsgrad"):
        return {"step": torch.tensor(0.0)} | {k: torch.zeros_like(weight) for k in STATE[kind]}
    return {}


def residual_of(weight: Tensor, fan_in: FanIn | None, at: str) -> Tensor | None:
    if fan_in is None or at == "gradient" or weight.dtype.itemsize > 2:
        return None
    return torch.zeros(weight.numel() // fan_in.size(weight.shape))


def entry_of(weight: Tensor, fan_in: FanIn | None, rule: Rule, at: str, group: int = 0) -> Entry:
    residual = residual_of(weight, fan_in, at)
    return Entry(weight, fan_in, fresh_state(rule.kind, weight), group, residual)


def run(entries: list[Entry], gradients: list[Tensor], rules: list[Rule], at: str) -> None:
    """Step by the backend in use; an available library must serve every entry."""
    parts = kernels.prepare([rule.kind for rule in rules], at, entries, gradients)
    name = kernels.backend(entries[0].weight.device)
    expected = {"reference": reference, "native": cpu_backend, "triton": triton_backend}[name]
    assert all(isinstance(part.step, expected.Step) for part in parts)
    for step, indices in parts:
        bound = step.bind([gradients[i] for i in indices])
        assert bound is not None
        bound(rules)


class Oracle:
    """Step by torch's optimizer in float64, with the projection by its definition."""

    def __init__(self, entry: Entry, rule: Rule, kind: type[torch.optim.Optimizer], at: str):
        self.weight = entry.weight.detach().double().clone()
        self.rule, self.at, self.fan_in = rule, at, entry.fan_in
        options: dict[str, Any] = {"lr": rule.lr, "maximize": rule.maximize}
        self.coupled = 0.0 if rule.decoupled or at == "update" else rule.weight_decay
        options["weight_decay"] = 0.0 if self.coupled else rule.weight_decay
        if isinstance(rule, AdamRule):
            options |= {"betas": rule.betas, "eps": rule.eps, "amsgrad": rule.amsgrad}
        else:
            options |= {"momentum": rule.momentum, "dampening": rule.dampening}
            options["nesterov"] = rule.nesterov
        self.optimizer = kind([self.weight], **options)

    def center(self, x: Tensor) -> Tensor:
        if self.fan_in is None:
            return x
        return zeromean.center(x, self.fan_in.axes, self.fan_in.groups)

    def step(self, gradient: Tensor) -> None:
        before = self.weight.clone()
        sign = -1 if self.rule.maximize else 1
        gradient = gradient.double() + sign * self.coupled * before
        self.weight.grad = self.center(gradient) if self.at == "gradient" else gradient
        self.optimizer.step()
        if self.at == "update":
            self.weight.copy_(before - self.center(before - self.weight))


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Return the tolerance: rounding, and for bfloat16 three rounding steps of weights near 4."""
    return {
        torch.float64: {"rtol": 1e-12, "atol": 1e-13},
        torch.float32: {"rtol": 2e-6, "atol": 2e-6},
        torch.bfloat16: {"rtol": 2**-6, "atol": 2**-6},
    }[dtype]


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("rule_name", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_step_equals_torch_in_float64(
    backend: str, dtype: torch.dtype, rule_name: str, at: str, supports: Any
) -> None:
    how = f"{backend} kernels, interpreted" if interpreted() else f"{backend} kernels"
    supports(
        "Optimizer",
        f"{how}, {str(dtype).removeprefix('torch.')}",
        at,
        "SGD, Adam and AdamW equal to torch's in float64, centered by the definition",
    )
    rule, kind = RULES[rule_name]
    entries = [
        entry_of(torch.randn(shape).to(dtype), fan_in, rule, at)
        for shape, fan_in in cases().values()
    ]
    oracles = [Oracle(entry, rule, kind, at) for entry in entries]
    for _ in range(2):  # from no state, and from state
        gradients = [torch.randn(entry.weight.shape).to(dtype) for entry in entries]
        kept = [gradient.clone() for gradient in gradients]
        run(entries, gradients, [rule], at)
        for case, entry, oracle, gradient in zip(CASES, entries, oracles, kept, strict=True):
            oracle.step(gradient)
            torch.testing.assert_close(
                entry.weight.double(),
                oracle.weight,
                **tolerance(dtype),
                msg=lambda m, c=case: c + m,
            )
            for key, value in oracle.optimizer.state[oracle.weight].items():
                if value is not None:
                    torch.testing.assert_close(
                        entry.state[key].double(),
                        value.double(),
                        **tolerance(dtype),
                        check_device=False,
                    )
        assert all(map(torch.equal, gradients, kept))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_centering_equals_float64(backend: str, dtype: torch.dtype) -> None:
    centered = [(shape, fan_in) for shape, fan_in in cases().values() if fan_in is not None]
    gradients = [torch.randn(shape).to(dtype) for shape, _ in centered]
    weights = [torch.randn(shape).to(dtype) for shape, _ in centered]
    decays = [(weight, 0.3) if i % 2 else None for i, weight in enumerate(weights)]
    expected = []
    for gradient, decay, (_, fan_in) in zip(gradients, decays, centered, strict=True):
        decayed = gradient.double() + (0.3 * decay[0].double() if decay else 0)
        mean = decayed - zeromean.center(decayed, fan_in.axes, fan_in.groups)
        expected.append(gradient.double() - mean)
    into = [torch.empty_like(gradient) for gradient in gradients]
    before = [gradient.clone() for gradient in gradients]
    kernels.center_(gradients, [fan_in for _, fan_in in centered], decays, into)
    assert all(map(torch.equal, gradients, before))
    kernels.center_(gradients, [fan_in for _, fan_in in centered], decays)
    for target, gradient, exact in zip(into, gradients, expected, strict=True):
        assert torch.equal(target, gradient)
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(
            gradient.double(), exact, rtol=rounding, atol=2e-7 + rounding / 2
        )


@pytest.mark.parametrize("weight_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gradient_format", [torch.contiguous_format, torch.channels_last])
def test_channels_last_weights_and_gradients(
    backend: str, weight_format: torch.memory_format, gradient_format: torch.memory_format
) -> None:
    rule, kind = RULES["AdamW"]
    weights = [torch.randn(6, 4, 3, 3).double() for _ in range(2)]
    entries = [
        entry_of(weight.to(memory_format=weight_format), fan_in, rule, "update")
        for weight, fan_in in zip(weights, (FanIn((1, 2, 3)), TRANSPOSED), strict=True)
    ]
    oracles = [Oracle(entry, rule, kind, "update") for entry in entries]
    gradients = [torch.randn(6, 4, 3, 3).double() for _ in entries]
    parts = kernels.prepare(
        ["adam"], "update", entries, [g.to(memory_format=gradient_format) for g in gradients]
    )
    for step, indices in parts:
        step.bind([gradients[i].to(memory_format=gradient_format) for i in indices])([rule])
    for entry, oracle, gradient in zip(entries, oracles, gradients, strict=True):
        oracle.step(gradient)
        torch.testing.assert_close(entry.weight, oracle.weight)


@settings(max_examples=40)
@given(data=st.data())
def test_layout_finds_the_entries_of_every_vector(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    groups = groups if 0 in axes else 1
    shape[0] *= groups
    order = data.draw(st.permutations(range(len(shape))))
    fan_in = FanIn(tuple(sorted(axes)), groups)
    memory = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    x = memory.view([shape[axis] for axis in order]).permute(
        [list(order).index(axis) for axis in range(len(shape))]
    )
    assert list(x.shape) == shape
    layout = layout_of(tuple(x.shape), x.stride(), fan_in)
    if layout is None:
        return  # the reference serves it
    blocks = memory.clone().view(layout)
    blocks -= blocks.mean((1, 3), keepdim=True)
    expected = zeromean.center(x, fan_in.axes, groups)
    torch.testing.assert_close(blocks.flatten()[x.long().flatten()].view(x.shape), expected)


def test_usual_layouts_are_served() -> None:
    assert layout_of((5, 7), (7, 1), ROWS) == Layout(5, 1, 1, 7)
    assert layout_of((5, 7), (7, 1), COLUMNS) == Layout(1, 5, 7, 1)
    assert layout_of((6, 5, 3, 3), (45, 9, 3, 1), TRANSPOSED) == Layout(2, 3, 5, 9)
    assert layout_of((5, 4, 3, 3), (36, 1, 12, 4), FanIn((1, 2, 3))) == Layout(5, 1, 1, 36)
    assert layout_of((5, 7), (8, 1), ROWS) is None
    assert layout_of((5, 7), (0, 1), ROWS) is None
    assert layout_of((5, 7), (7, 1), FanIn((0,), padding_idx=2)) is None


def test_unserved_tensors_use_the_reference(backend: str) -> None:
    rule = RULES["AdamW"][0]
    gaps = torch.randn(5, 14)[:, ::2]
    entries = [
        entry_of(weight, ROWS, rule, "gradient")
        for weight in (torch.randn(5, 7).half(), gaps, torch.randn(5, 7, dtype=torch.complex64))
    ]
    gradients = [torch.randn(5, 7).to(entry.weight.dtype) for entry in entries]
    (part,) = kernels.prepare(["adam"], "gradient", entries, gradients)
    assert isinstance(part.step, reference.Step)
    before = [entry.weight.clone() for entry in entries]
    part.step.bind(gradients)([rule])
    assert not any(
        torch.equal(entry.weight, old) for entry, old in zip(entries, before, strict=True)
    )


def test_groups_and_types_in_one_step(backend: str) -> None:
    rules = [RULES["AdamW"][0], replace(RULES["AdamW"][0], lr=0.05, weight_decay=0.0)]
    entries = [
        entry_of(torch.randn(5, 7).to(dtype), ROWS, rules[group], "gradient", group)
        for group in (0, 1)
        for dtype in DTYPES
    ]
    oracles = [Oracle(e, rules[e.group], torch.optim.AdamW, "gradient") for e in entries]
    gradients = [torch.randn(5, 7).to(entry.weight.dtype) for entry in entries]
    run(entries, gradients, rules, "gradient")
    for entry, oracle, gradient in zip(entries, oracles, gradients, strict=True):
        oracle.step(gradient)
        torch.testing.assert_close(
            entry.weight.double(), oracle.weight, **tolerance(entry.weight.dtype)
        )


@pytest.mark.parametrize("name", ["momentum", "AdamW"])
def test_bfloat16_means_keep_their_rounding_error(backend: str, name: str) -> None:
    rule = replace(RULES[name][0], lr=1e-3)
    weight = torch.randn(6, 64).bfloat16()
    entry = entry_of(weight, ROWS, rule, "update")
    before, start = weight.double().mean(1), weight.clone()
    for _ in range(30 if interpreted() else 300):
        run([entry], [torch.randn(6, 64).bfloat16() + 1], [rule], "update")
    assert not torch.equal(weight, start)
    drift = weight.double().mean(1) - before
    # One rounding step of the largest entry, shared by 64: no matter how many steps were made.
    assert (drift.abs() < 2**-8 * weight.abs().max() / 8).all()
    torch.testing.assert_close(-drift, entry.residual.double(), rtol=0, atol=1e-5)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("first", [0, 60])
def test_weights_that_share_memory_are_stepped_in_turn(backend: str, at: str, first: int) -> None:
    """As after ``decoder.weight.data = encoder.weight.data``; each has its own momentum."""
    rule = RULES["momentum"][0]
    weight = torch.randn(120, 10 if interpreted() else 100)
    exact = weight.clone()
    pairs = [(weight, exact), (weight[first:], exact[first:])]
    entries = [entry_of(shared, ROWS, rule, at) for shared, _ in pairs]
    alone = [entry_of(shared, ROWS, rule, at) for _, shared in pairs]
    for _ in range(3 if interpreted() else 30):
        gradients = [torch.randn(entry.weight.shape) for entry in entries]
        run(entries, gradients, [rule], at)
        for entry, gradient in zip(alone, gradients, strict=True):
            run([entry], [gradient], [rule], at)
        assert torch.equal(weight, exact)


@pytest.mark.usefixtures("_two_threads")
def test_tensors_that_share_memory_are_centered_in_turn(backend: str) -> None:
    gradient = torch.randn(120, 10 if interpreted() else 100) + 5
    expected = zeromean.center(gradient, 1)
    kernels.center_([gradient, gradient, gradient[60:]], [ROWS] * 3)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)
    keepers = kernels.prepare_mean_keeper([Entry(gradient, ROWS, {}, 0) for _ in range(2)])
    means = [keeper.record() for keeper in keepers]
    gradient += torch.rand_like(gradient)
    for keeper, recorded in zip(keepers, means, strict=True):
        keeper.restore(recorded)
    torch.testing.assert_close(gradient.mean(1), torch.zeros(120), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("native_library")
def test_two_threads_step_as_one_does() -> None:
    rule = RULES["AdamW"][0]
    entries = [
        entry_of(torch.randn(shape), fan_in, rule, "gradient") for shape, fan_in in CASES.values()
    ]
    by_two = copy.deepcopy(entries)
    gradients = [torch.randn(entry.weight.shape) for entry in entries]
    run(entries, gradients, [rule], "gradient")
    torch.set_num_threads(2)
    run(by_two, gradients, [rule], "gradient")
    for case, entry, other in zip(CASES, entries, by_two, strict=True):
        torch.testing.assert_close(other.weight, entry.weight, msg=lambda m, c=case: c + m)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("fan_in", [ROWS, COLUMNS], ids=["rows", "columns"])
def test_two_threads_normalize_as_one_does(fan_in: FanIn) -> None:
    v, gain, gradient = torch.randn(200, 200), torch.rand(200), torch.randn(200, 200)
    normalize = weight_norm.prepare(v, gain, None, True, None, fan_in)
    assert normalize is not None
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        w, kept = normalize.forward(v, gain, None)
        found.append((w, kept, *normalize.backward(gradient, v, gain, kept, (True, True))))
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("backend")
def test_centering_is_not_recorded_by_autograd() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 7))
    for tensors in ([weight], [weight * weight]):
        with pytest.raises(zeromean.ZeromeanError, match="requires a gradient"):
            kernels.center_(tensors, [ROWS])
    gradient = torch.randn(5, 7)
    kernels.center_([gradient], [ROWS], [(weight, 0.1)])
    assert not gradient.requires_grad
    with torch.no_grad():
        kernels.center_([weight], [ROWS])
    torch.testing.assert_close(weight.mean(1), torch.zeros(5))


def test_float64_step_counters_are_advanced(backend: str) -> None:
    rule = RULES["AdamW"][0]
    entry = entry_of(torch.randn(5, 7), ROWS, rule, "gradient")
    entry.state["step"] = torch.tensor(3.0, dtype=torch.float64)
    run([entry], [torch.randn(5, 7)], [rule], "gradient")
    assert entry.state["step"].item() == 4
    assert entry.state["step"].dtype == torch.float64


@pytest.fixture
def prepared(native_library: None) -> tuple[cpu_backend.Step, Entry, Tensor]:
    rule = RULES["AdamW"][0]
    entry = entry_of(torch.randn(6, 4, 3, 3), FanIn((1, 2, 3)), rule, "gradient")
    gradient = torch.randn(6, 4, 3, 3)
    return cpu_backend.Step("adam", "gradient", [entry], [gradient]), entry, gradient


def test_moved_tensors_invalidate_the_step(
    prepared: tuple[cpu_backend.Step, Entry, Tensor],
) -> None:
    step, entry, gradient = prepared
    assert step.bind([gradient]) is not None
    assert step.bind([gradient.clone()]) is not None
    assert step.bind([gradient.double()]) is None
    assert step.bind([gradient.to_sparse()]) is None
    assert step.bind([gradient.to(memory_format=torch.channels_last)]) is None
    exp_avg = entry.state["exp_avg"]
    entry.state["exp_avg"] = exp_avg.clone()
    assert step.bind([gradient]) is None
    entry.state["exp_avg"] = exp_avg
    assert step.bind([gradient]) is not None
    entry.weight.data = entry.weight.data.clone()
    assert step.bind([gradient]) is None


def test_step_increments_weight_versions(backend: str) -> None:
    weight = torch.nn.Parameter(torch.randn(5, 7))
    entry = entry_of(weight, ROWS, RULES["SGD"][0], "gradient")
    loss = (weight * weight).sum()
    with torch.no_grad():
        run([entry], [torch.randn(5, 7)], [RULES["SGD"][0]], "gradient")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("native_library")
def test_threads_are_torchs() -> None:
    """No second OpenMP runtime, no more threads than torch uses, denormals left alone."""
    probe = """
import os, torch
from pathlib import Path
from zeromean import FanIn, kernels
assert kernels.backend() == "native"
gradient = torch.randn(4000, 500)
for threads in (1, 2):
    torch.set_num_threads(threads)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(5):
        kernels.center_([gradient], [FanIn((1,))])
    print(len(os.listdir("/proc/self/task")) - before)
maps = Path("/proc/self/maps").read_text().split()
runtimes = {path for path in maps if "omp" in Path(path).name}
print(len(runtimes), (torch.tensor([1e-40]) * 1).item() > 0)
"""
    environment = {"ZEROMEAN_KERNELS": "native", "PYTHONPATH": ":".join(sys.path)}
    shown = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True, env=environment
    )
    by_one, by_two, runtimes, denormals = shown.stdout.split()
    assert (int(by_one), int(by_two) <= 1) == (0, True)
    assert (runtimes, denormals) == ("1", "True")


def test_unknown_or_missing_backend_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROMEAN_KERNELS", "fast")
    with pytest.raises(zeromean.ZeromeanError, match="reference, native or triton"):
        kernels.backend()
    monkeypatch.setenv("ZEROMEAN_KERNELS", "native")
    monkeypatch.setattr(backends, "library", lambda: None)
    with pytest.raises(zeromean.ZeromeanError, match="not built"):
        kernels.backend()
    monkeypatch.setenv("ZEROMEAN_KERNELS", "triton")
    monkeypatch.setattr(triton_backend, "installed", lambda: False)
    with pytest.raises(zeromean.ZeromeanError, match="Triton"):
        kernels.backend()
    monkeypatch.delenv("ZEROMEAN_KERNELS")
    assert kernels.backend() == "reference"
    assert kernels.backend("cuda") == "reference"


@pytest.fixture
def _library_looked_for_anew() -> Iterator[None]:
    shared_library.library.cache_clear()
    yield
    shared_library.library.cache_clear()


@pytest.mark.usefixtures("native_library", "_library_looked_for_anew")
def test_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROMEAN_KERNELS", raising=False)
    monkeypatch.setattr(shared_library, "LAYOUT", shared_library.LAYOUT + 1)
    gradient = torch.randn(5, 7)
    expected = zeromean.center(gradient, 1)
    with pytest.warns(zeromean.ZeromeanWarning, match="layout is .* make test") as warned:
        kernels.center_([gradient], [ROWS])
    assert len(warned) == 1
    torch.testing.assert_close(gradient, expected)
    assert kernels.backend() == "reference"  # warned of once
    monkeypatch.setenv("ZEROMEAN_KERNELS", "native")
    with pytest.raises(zeromean.ZeromeanError, match="from other sources"):
        kernels.backend()


def test_other_files_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "centered.so").write_text("no library")
    with pytest.warns(zeromean.ZeromeanWarning, match="other sources"):
        assert shared_library._load(tmp_path / "centered.so") is None
    with pytest.warns(zeromean.ZeromeanWarning, match="no layout number"):
        assert shared_library._load(Path(torch._C.__file__)) is None


def test_layout_number_matches_the_sources() -> None:
    """If this fails, raise LAYOUT in centered.c and in shared_library, then write its sum here."""
    folder = Path(shared_library.__file__).parent
    names = ("centered.c", "normalized.h", "tensors.h")
    text = "".join((folder / name).read_text() for name in names)
    plain = re.sub(r"/\*.*?\*/|\s+", " ", text, flags=re.DOTALL)
    declared = re.findall(
        r"struct (?:tensor|rule|normal|torch) {.*?}|enum (?:kind|at|type|word) {.*?}"
        r"|EXPORT \w+ \w+\(.*?\)",
        plain,
    )
    assert len(declared) == 15
    declared = [" ".join(words.split()) for words in declared]
    assert (shared_library.LAYOUT, zlib.crc32("".join(declared).encode())) == (3, 0x38F6850F)


def test_triton_serves_supported_devices_only(
    monkeypatch: pytest.MonkeyPatch, triton_interpreter: None
) -> None:
    monkeypatch.setenv("ZEROMEAN_KERNELS", "triton")
    assert kernels.backend("meta") == "reference"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert kernels.backend("cpu") == "reference"


@pytest.fixture
def _triton_looked_for_anew() -> Iterator[None]:
    for found in (triton_backend._starts, triton_backend._capable):
        found.cache_clear()
    yield
    for found in (triton_backend._starts, triton_backend._capable):
        found.cache_clear()


@pytest.mark.usefixtures("_triton_looked_for_anew")
@pytest.mark.parametrize("compiler", [True, False])
def test_triton_without_a_compiler_is_not_used(
    monkeypatch: pytest.MonkeyPatch, compiler: bool
) -> None:
    runtime = pytest.importorskip("triton.runtime")

    class Driver:
        @property
        def active(self) -> Any:
            if not compiler:
                raise RuntimeError("Failed to find C compiler")
            return Mock()

    monkeypatch.delenv("ZEROMEAN_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(runtime, "driver", Driver())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = [kernels.backend(f"cuda:{n}") for n in range(2)]
    assert found == ["triton" if compiler else "reference"] * 2
    assert ["Failed to find C compiler" in str(one.message) for one in warned] == (
        [] if compiler else [True]
    )
