"""The published way: a loop over tensors that subtracts the mean, then torch's fused step."""

from __future__ import annotations

from zeromean.bench.contestants.contestant import Contestant, Running, on_cpu, parameters_of
from zeromean.bench.contestants.torchs_own import torchs
from zeromean.bench.work import Work


def start(work: Work) -> Running:
    """Gets ready."""
    parameters = parameters_of(work)
    optimizer = torchs("fused")(work.hyper, parameters, None)

    def step() -> None:
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.ndim > 1:
                axes = tuple(range(1, gradient.ndim))
                gradient.add_(-gradient.mean(dim=axes, keepdim=True))
        optimizer.step()

    return Running(step, lambda: on_cpu(parameters), optimizer)


PUBLISHED = Contestant("published loop, torch fused", "gradient", start)
