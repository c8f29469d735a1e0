"""Test on a GPU: steps inside CUDA graphs, without waiting, without recompiling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zeromean
from zeromean import optim

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

Make = Callable[[nn.Module, torch.Tensor], torch.optim.Optimizer]


def hooked(at: str) -> Make:
    def make(model: nn.Module, lr: torch.Tensor) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(model.parameters(), lr, capturable=True)
        zeromean.centralize(optimizer, model, at=at)
        return optimizer

    return make


MAKES: dict[str, Make] = {
    "AdamW": lambda model, lr: optim.AdamW(model, lr, capturable=True),
    "AdamW, at update": lambda model, lr: optim.AdamW(model, lr, capturable=True, at="update"),
    "Adam, amsgrad": lambda model, lr: optim.Adam(model, lr, amsgrad=True, capturable=True),
    "SGD": lambda model, lr: optim.SGD(model, lr, momentum=0.9),
    "centralize": hooked("gradient"),
    "centralize, at update": hooked("update"),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 5 * 5, 3),
    ).to(dtype)  # fmt: skip


def train(model: nn.Module, x: torch.Tensor) -> None:
    model(x).square().mean().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKES)
def test_a_graph_steps_as_without_one(name: str, dtype: torch.dtype) -> None:
    """A whole training step is captured, gradients of its own in it; the rate changes later."""
    model = network(dtype)
    other = copy.deepcopy(model)
    rates = [torch.tensor(0.01) for _ in range(2)]
    optimizer, twin = (MAKES[name](m, lr) for m, lr in zip((model, other), rates, strict=True))
    x = torch.randn(4, 3, 6, 6, dtype=dtype)
    batches = [torch.randn_like(x) for _ in range(6)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad()
            train(model, x)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train(model, x)
        optimizer.step()

    for _ in range(3):
        twin.zero_grad()
        train(other, x)
        twin.step()
    for n, batch in enumerate(batches):
        for rate in rates:
            rate.fill_(0.01 / (n + 1))
        x.copy_(batch)
        graph.replay()
        twin.zero_grad()
        train(other, batch)
        twin.step()
        if n == 2:  # a step outside does not disturb the graph
            for m, o in ((model, optimizer), (other, twin)):
                kept = [p.grad for p in m.parameters()]
                o.zero_grad()
                train(m, batch)
                o.step()
                for p, gradient in zip(m.parameters(), kept, strict=True):
                    p.grad = gradient
    tolerance = {} if dtype == torch.float32 else {"rtol": 2**-5, "atol": 2**-5}
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def test_a_first_step_inside_a_graph_is_refused() -> None:
    model = network()
    optimizer = optim.AdamW(model, capturable=True)
    train(model, torch.randn(4, 3, 6, 6))
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(zeromean.ZeromeanError, match="side stream"), torch.cuda.graph(graph):
        optimizer.step()


def test_a_graph_takes_capturable() -> None:
    model = network()
    optimizer = optim.AdamW(model)
    train(model, torch.randn(4, 3, 6, 6))
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(zeromean.ZeromeanError, match="capturable=True"), torch.cuda.graph(graph):
        optimizer.step()


def compiled() -> int:
    from zeromean.kernels import triton_kernels

    return sum(
        len(device[0])
        for kernel in (triton_kernels.step, triton_kernels.sum_parts, triton_kernels.count_step)
        for device in kernel.device_caches.values()
    )


def test_nothing_is_compiled_again() -> None:
    """Not for other rates, gradients elsewhere, other shapes, or other numbers of tensors."""
    model = network()
    optimizer = optim.AdamW(model, lr=0.1)
    train(model, torch.randn(4, 3, 6, 6))
    optimizer.step()
    before = compiled()
    assert before
    for n in range(1, 20):
        optimizer.param_groups[0]["lr"] = 0.1 / n
        optimizer.param_groups[0]["weight_decay"] = float(n == 16)
        optimizer.zero_grad()
        train(model, torch.randn(4, 3, 6, 6))
        optimizer.step()
        layers = [nn.Linear(n + 2, 16 * n) for _ in range(n)]
        other: Any = optim.AdamW(nn.Sequential(*layers))
        for layer in layers:
            layer(torch.randn(2, n + 2)).sum().backward()
        other.step()
    assert compiled() == before


def test_a_step_waits_for_nothing() -> None:
    model = network()
    rate = torch.tensor(0.01)
    optimizers = [optim.AdamW(model, rate, at="update"), optim.SGD(model, momentum=0.9)]
    train(model, torch.randn(4, 3, 6, 6))
    for optimizer in optimizers:
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for optimizer in optimizers:
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_large_tensors_are_counted_in_64_bits() -> None:
    """Columns and rows that begin beyond entry 2**31."""
    weight = nn.Parameter(torch.zeros(2**21 + 2, 1024, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    weight.grad[-1, ::2] = 3
    with pytest.warns(zeromean.ZeromeanWarning, match="only shapes"):
        optimizer = optim.SGD([weight], lr=1.0)
    optimizer.step()
    assert not weight[:-1].any()
    assert torch.equal(weight[-1, :2].float(), torch.tensor([-1.0, 1.0]))


def test_intensity_response_takes_a_start_on_the_cpu() -> None:
    model = nn.Linear(3, 2)
    start = copy.deepcopy(model).cpu()
    found = zeromean.diagnose.intensity_response(model, (torch.randn(4, 3), None), start=start)
    assert found.deviation.max() < 1e-6
