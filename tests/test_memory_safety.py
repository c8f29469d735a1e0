"""No call lets the kernels read or write memory that a tensor does not own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeromean
from kernel_fuzz import fuzz
from zeromean import FanIn, ZeromeanError, kernels, optim
from zeromean.kernels import AdamRule, Entry, shared_library, tensor_memory, weight_norm
from zeromean.kernels.tensor_memory import Memory

pytestmark = pytest.mark.filterwarnings("ignore:The momentum of earlier")
ROWS = FanIn((1,))
SOURCE = Path(shared_library.__file__).with_name("centered.c")


def step_once(optimizer: torch.optim.Optimizer, layer: nn.Module) -> None:
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def drop_in(layer: nn.Module, name: str, **options: Any) -> torch.optim.Optimizer:
    return getattr(optim, name)(layer, lr=0.1, **options)


def taken_over(layer: nn.Module, name: str, **options: Any) -> torch.optim.Optimizer:
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1, **options)
    zeromean.centralize(optimizer, layer)
    return optimizer


def assert_refused(optimizer: torch.optim.Optimizer, layer: nn.Module, message: str) -> None:
    before = [p.detach().clone() for p in layer.parameters()]
    with pytest.raises(ZeromeanError, match=message):
        optimizer.step()
    assert all(map(torch.equal, layer.parameters(), before))


@pytest.fixture(
    params=[
        (drop_in, "reference"),
        (drop_in, "native"),
        (taken_over, "native"),
        pytest.param((drop_in, "triton"), marks=pytest.mark.slow),
        pytest.param((taken_over, "triton"), marks=pytest.mark.slow),
    ],
    ids=lambda pair: f"{pair[0].__name__}-{pair[1]}",
)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Build an optimizer whose step is made by one backend."""
    made, backend = request.param
    if backend != "reference":
        name = {"native": "native_library", "triton": "triton_interpreter"}[backend]
        request.getfixturevalue(name)
    monkeypatch.setenv("ZEROMEAN_KERNELS", backend)
    return made


@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_state_of_other_shapes(make: Callable[..., Any], name: str, options: Any) -> None:
    layer, small = nn.Linear(64, 6), nn.Linear(64, 2)
    source = getattr(torch.optim, name)(small.parameters(), lr=0.1, **options)
    step_once(source, small)
    for steps in (0, 1):
        optimizer = make(layer, name, **options)
        for _ in range(steps):
            step_once(optimizer, layer)
        optimizer.load_state_dict(source.state_dict())
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        assert_refused(optimizer, layer, r"state .* has the shape \(2, 64\)")


def test_a_weight_that_grows(make: Callable[..., Any]) -> None:
    layer = nn.Linear(8, 4, bias=False)
    optimizer = make(layer, "AdamW")
    step_once(optimizer, layer)
    layer.weight.data = torch.cat([layer.weight.data, torch.randn(3, 8)])
    assert_refused(optimizer, layer, r"gradient has the shape \(4, 8\)")
    layer.weight.grad = torch.ones(7, 8)
    assert_refused(optimizer, layer, r"state .* has the shape \(4, 8\)")


def test_a_weight_whose_fan_in_axes_are_gone(make: Callable[..., Any]) -> None:
    layer = nn.Conv2d(3, 4, 2, bias=False)
    optimizer = make(layer, "SGD")
    step_once(optimizer, layer)
    layer.weight.data = torch.randn(5)
    layer.weight.grad = torch.ones(5)
    assert_refused(optimizer, layer, "fan-in axes")


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("part", ["weight", "gradient", "state"])
def test_a_storage_that_shrinks(make: Callable[..., Any], part: str, size: int) -> None:
    layer = nn.Linear(8, 4, bias=False)
    optimizer = make(layer, "AdamW")
    step_once(optimizer, layer)
    x = {"weight": layer.weight, "gradient": layer.weight.grad}.get(part)
    x = optimizer.state[layer.weight]["exp_avg_sq"] if x is None else x
    x.untyped_storage().resize_(size)
    with pytest.raises(ZeromeanError, match="storage was resized"):
        optimizer.step()


@pytest.mark.usefixtures("native_library")
def test_a_storage_that_shrinks_in_place() -> None:
    """The address may be the same after two changes of the size."""
    for _ in range(50):
        layer = nn.Linear(64, 64, bias=False)
        optimizer = optim.SGD(layer, lr=0.1, momentum=0.9)
        step_once(optimizer, layer)
        storage = optimizer.state[layer.weight]["momentum_buffer"].untyped_storage()
        storage.resize_(0)
        storage.resize_(64)
        with pytest.raises(ZeromeanError, match="storage was resized"):
            optimizer.step()


@pytest.mark.parametrize("count", [torch.zeros(0), torch.zeros(2)])
def test_a_step_counter_that_is_no_number(make: Callable[..., Any], count: Tensor) -> None:
    layer = nn.Linear(8, 4, bias=False)
    optimizer = make(layer, "AdamW")
    step_once(optimizer, layer)
    optimizer.state[layer.weight]["step"] = count
    assert_refused(optimizer, layer, "must hold one number")


@pytest.mark.usefixtures("backend")
def test_targets_and_weights_of_other_shapes() -> None:
    big, small = torch.randn(5, 7), torch.randn(5, 3)
    with pytest.raises(ZeromeanError, match=r"target 0 .* \(5, 3\), but its gradient .* \(5, 7\)"):
        kernels.center_([big], [ROWS], into=[small])
    with pytest.raises(ZeromeanError, match=r"its weight has the shape \(5, 3\)"):
        kernels.center_([big], [ROWS], [(small, 0.1)])
    with pytest.raises(ZeromeanError, match="one of each"):
        kernels.center_([big, big], [ROWS])
    with pytest.raises(ZeromeanError, match="do not fit"):
        kernels.center_([big], [FanIn((0,), groups=2)])


@pytest.mark.usefixtures("backend")
def test_weights_whose_means_are_kept() -> None:
    layer = nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.RMSprop(layer.parameters())
    zeromean.centralize(optimizer, layer, at="update")
    step_once(optimizer, layer)
    layer.weight.untyped_storage().resize_(4)
    with pytest.raises(ZeromeanError, match="storage was resized"):
        optimizer.step()


@pytest.mark.usefixtures("backend")
def test_fewer_rules_than_groups() -> None:
    state = {"step": torch.tensor(0.0)} | {
        key: torch.zeros(5, 7) for key in ("exp_avg", "exp_avg_sq")
    }
    gradient, entry = torch.randn(5, 7), Entry(torch.randn(5, 7), ROWS, state, 1)
    (part,) = kernels.prepare(["adam", "adam"], "gradient", [entry], [gradient])
    with pytest.raises((ZeromeanError, IndexError)):
        part.step.bind([gradient])([AdamRule(0.1, (0.9, 0.99), 1e-8)])


@pytest.mark.usefixtures("native_library")
def test_normalization_serves_only_numbers_of_its_vectors() -> None:
    v, gain = torch.randn(4, 6), torch.ones(4, 1)
    ready = weight_norm.prepare(v, gain, None, True, None, ROWS)
    assert ready is not None
    w, saved = ready.forward(v, gain, None)
    assert weight_norm.prepare(v, torch.ones(3, 1), None, True, None, ROWS) is None
    assert not ready.is_valid(v, torch.ones(3, 1), None)
    assert ready.is_valid_backward(w, v, gain, saved)
    assert not ready.is_valid_backward(w[:2], v, gain, saved)
    assert not ready.is_valid_backward(w, v, torch.ones(3, 1), saved)
    assert not ready.is_valid_backward(w, v, gain, saved[:-1])
    v.untyped_storage().resize_(8)
    assert not ready.is_valid(v, gain, None)
    with pytest.raises(ZeromeanError, match="storage was resized"):
        weight_norm.prepare(v, gain, None, True, None, ROWS)


@pytest.fixture(params=["in C", "in Python"])
def _compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in Python":
        monkeypatch.setattr(tensor_memory, "_native", lambda: None)
    else:
        request.getfixturevalue("native_library")
        assert tensor_memory._native() is not None


class Subclass(Tensor):
    pass


@pytest.mark.usefixtures("_compared")
def test_memory_recognizes_tensors_that_lie_alike() -> None:
    x, y = torch.randn(6, 4, 3, 3), torch.tensor(2.0)
    memory, held = Memory([x, y], fixed=False), Memory([x, y], fixed=True)
    places = [x.data_ptr(), y.data_ptr()]
    assert [*(memory.addresses([x, y]) or ())] == [*(held.addresses([x, y]) or ())] == places
    moved = x.clone()
    assert [*(memory.addresses((moved, y)) or ())] == [moved.data_ptr(), y.data_ptr()]
    assert held.addresses([moved, y]) is None
    assert memory.addresses([x]) is None
    smaller = torch.zeros(6, 4, 3, 3, 1)[..., 0]
    assert memory.addresses([smaller, y]) is not None
    smaller.untyped_storage().resize_(8)
    others = [
        x[:3], x.double(), x.to_sparse(), nn.Parameter(x), x.flatten(), x.int(), smaller,
        x.to(memory_format=torch.channels_last), x.to("meta"), x.as_subclass(Subclass),
    ]  # fmt: skip
    for other in others:
        assert memory.addresses([other, y]) is None
        assert held.addresses([other, y]) is None
    assert memory.addresses([x, torch._neg_view(y)]) is None


@pytest.mark.usefixtures("_compared")
def test_memory_notices_a_swap_and_a_change_in_place() -> None:
    square = nn.Parameter(torch.randn(4, 4))
    memory = Memory([square], fixed=True)
    square.data = square.data.t()
    assert memory.addresses([square]) is None
    square.data = square.data.t()
    assert memory.addresses([square]) is not None
    torch.utils.swap_tensors(square, nn.Parameter(torch.randn(4, 4)))
    assert memory.addresses([square]) is None


def test_a_dense_tensor_stays_dense() -> None:
    """The check in C of tensors that are kept alive assumes it."""
    x = torch.eye(3)
    for other in (x.to_sparse(), x.to_mkldnn()):
        with pytest.raises(RuntimeError, match="incompatible tensor type"):
            x.data = other


@pytest.mark.usefixtures("native_library")
def test_a_truncated_library_is_not_loaded(tmp_path: Path) -> None:
    whole = shared_library._path().read_bytes()
    for part in (0, 1, 63, 64, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{part}.so"
        path.write_bytes(whole[:part])
        with pytest.warns(zeromean.ZeromeanWarning, match="damaged"):
            assert shared_library._load(path) is None
    path.write_bytes(whole)
    assert shared_library._load(path) is not None


@pytest.mark.usefixtures("native_library")
def test_random_cases() -> None:
    counts = fuzz(cases=150, seed=0)
    assert sum(count for name, count in counts.items() if "refused" in name) > 30
    assert sum(count for name, count in counts.items() if "done" in name) > 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_random_cases_under_address_sanitizer(march: str, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    needed = {"x86-64": "sse2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}[march]
    if needed not in flags or which("gcc") is None:
        pytest.skip(f"needs gcc and a processor with {needed}")
    library = tmp_path / "centered.so"
    subprocess.run(
        [
            "gcc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-fopenmp-simd",
            "-fno-math-errno", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
            f"-march={march}", "-DCLONES=", str(SOURCE), "-o", str(library), "-lm",
        ],
        check=True,
    )  # fmt: skip
    sanitizers = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    program = Path(__file__).with_name("kernel_fuzz.py")
    done = subprocess.run(
        [sys.executable, str(program), str(library), "1500", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "LD_PRELOAD": " ".join(sanitizers),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": ":".join(sys.path),
            "PATH": "/usr/bin:/bin",
        },
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert int(done.stdout.split()[0]) >= 2000
