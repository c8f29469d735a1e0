"""Random stale, resized and mismatched tensors through every entry point of the native kernels.

``python kernel_fuzz.py LIBRARY CASES SEED`` runs them with a library built elsewhere, for instance
under AddressSanitizer, and prints how many steps were made and how many were refused.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zeromean
from zeromean import FanIn, kernels, optim
from zeromean.kernels import shared_library

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Errors of torch are allowed too, for instance for a missing buffer.
REFUSED = (zeromean.ZeromeanError, RuntimeError, IndexError, KeyError, ValueError)


class Fuzz:
    """One random case per call of :meth:`run`; the same seed gives the same cases."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        torch.manual_seed(seed)

    def run(self) -> None:
        """Run one case."""
        torch.set_num_threads(self.random.choice((1, 2)))
        self.random.choice((self.optimizer, self.optimizer, self.centering, self.layer))()

    def attempt(self, name: str, call: Any) -> None:
        """Call, and count whether it was refused."""
        try:
            call()
        except REFUSED:
            self.counts[f"{name}: refused"] += 1
        else:
            self.counts[f"{name}: done"] += 1

    def shape(self) -> list[int]:
        """Return the shape of a weight, at times large enough for two threads."""
        dims = self.random.choice((1, 2, 2, 2, 3, 4))
        most = {1: 400, 2: 40, 3: 9, 4: 6}[dims]
        shape = [self.random.randint(1, most) for _ in range(dims)]
        if self.random.random() < 0.1:
            shape[0] *= 60
        return shape

    def tensor(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of a shape in some layout."""
        x = torch.randn(shape).to(dtype)
        layout = self.random.random()
        if layout < 0.15 and x.ndim == 4:
            return x.to(memory_format=torch.channels_last)
        if layout < 0.25 and x.ndim >= 2:
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        if layout < 0.35:
            return torch.stack([x, x], -1)[..., 0]  # with gaps
        if layout < 0.45:
            return torch.cat([torch.zeros(3, dtype=dtype), x.flatten()])[3:].view(shape)
        return x

    def resize(self, x: Tensor) -> None:
        """Resize a storage once or twice, at times to what it was."""
        size = x.untyped_storage().nbytes()
        for _ in range(self.random.choice((1, 2))):
            to = self.random.choice((0, size // 2, max(size - 1, 0), size, 2 * size))
            x.untyped_storage().resize_(to)

    def replace(self, x: Tensor) -> None:
        """Replace a tensor's data, once or twice, by other data."""
        for _ in range(self.random.choice((1, 1, 2))):
            shape = list(x.shape) if self.random.random() < 0.4 else self.shape()
            dtype = x.dtype if self.random.random() < 0.7 else self.random.choice(TYPES)
            x.data = self.tensor(shape, dtype)

    def spoil(self, x: Tensor) -> None:
        """Change a tensor in a way that leaves stale addresses or sizes behind."""
        kind = self.random.random()
        if kind < 0.35:
            self.replace(x)
        elif kind < 0.7:
            self.resize(x)
        elif kind < 0.8:
            x.data = x.data[: self.random.randint(0, max(x.shape[0], 1))] if x.ndim else x.data
        elif kind < 0.9 and x.ndim == 2:
            x.data = x.data.t()
        elif x.is_floating_point():
            x.data = x.data.to(self.random.choice(TYPES))

    # --- optimizers -------------------------------------------------------------------------------

    def optimizer(self) -> None:
        dtype = self.random.choice(TYPES[:3])
        shapes = [self.shape() for _ in range(self.random.randint(1, 4))]
        parameters = [nn.Parameter(self.tensor(shape, dtype)) for shape in shapes]
        at = self.random.choice(("gradient", "update"))
        name = self.random.choice(("SGD", "SGDW", "Adam", "AdamW"))
        options: dict[str, Any] = {"lr": 0.01, "weight_decay": self.random.choice((0.0, 0.1))}
        if "SGD" in name:
            options |= self.random.choice(
                ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True})
            )
        else:
            options["amsgrad"] = self.random.random() < 0.3
        way = self.random.choice(("drop-in", "taken over", "two passes"))
        if way == "drop-in":
            made = getattr(optim, name)(parameters, **options, at=at)
        else:
            made = getattr(torch.optim, name.replace("DW", "D"))(parameters, **options)
            zeromean.centralize(made, at=at, fused=None if way == "taken over" else False)
        spoiled = False
        for step in range(3):
            for p in parameters:
                if self.random.random() < 0.9:
                    p.grad = None
                    p.grad = self.gradient(p)
            if step and self.random.random() < 0.7:
                self.spoil_optimizer(made, parameters, way, at)
                spoiled = True
            self.attempt(f"{way}, {at}", made.step)
            if spoiled and way != "drop-in":
                break  # what the kernels no longer serve is left to torch, which checks less

    def gradient(self, p: Tensor) -> Tensor:
        if self.random.random() < 0.05 and p.ndim:
            return torch.randn(1).to(p.dtype).expand(p.shape)
        return self.tensor(list(p.shape), p.dtype)

    def spoil_optimizer(self, made: Any, parameters: list[Any], way: str, at: str) -> None:
        p = self.random.choice(parameters)
        state = made.state.get(p, {})
        kind = self.random.random()
        if way == "two passes":  # torch itself reads what is left to it
            if at == "gradient" and p.grad is not None and p.ndim > 1 and p.shape[1:].numel() > 1:
                self.resize(p.grad)
        elif kind < 0.3:
            self.spoil(p)
        elif kind < 0.5 and p.grad is not None:
            self.spoil(p.grad)
        elif kind < 0.8 and state:
            key = self.random.choice(sorted(state))
            if not isinstance(state[key], Tensor):
                return
            if self.random.random() < 0.3:
                state[key] = self.tensor(self.shape(), self.random.choice(TYPES))
            elif self.random.random() < 0.2:
                del state[key]
            else:
                self.spoil(state[key])
        elif kind < 0.9:
            other = [nn.Parameter(torch.randn(self.shape())) for _ in parameters]
            source = type(made)(other, lr=0.01)
            for q in other:
                q.grad = torch.randn_like(q)
            source.step()
            self.attempt("load", lambda: made.load_state_dict(source.state_dict()))
        else:
            made.add_param_group({"params": [nn.Parameter(torch.randn(self.shape()))]})

    # --- kernels.center_ --------------------------------------------------------------------------

    def centering(self) -> None:
        dtype = self.random.choice(TYPES)
        gradients, fan_ins, decays, into = [], [], [], []
        for _ in range(self.random.randint(1, 3)):
            shape = self.shape()
            axes = self.random.sample(range(len(shape)), self.random.randint(1, len(shape)))
            gradients.append(self.tensor(shape, dtype))
            groups = self.random.choice((1, 1, 2)) if 0 in axes else 1
            fan_ins.append(FanIn(tuple(sorted(axes)), groups))
            other = shape if self.random.random() < 0.7 else self.shape()
            decays.append((self.tensor(other, dtype), 0.1) if self.random.random() < 0.5 else None)
            other = shape if self.random.random() < 0.7 else self.shape()
            into.append(self.tensor(other, dtype))
        targets = into if self.random.random() < 0.5 else None
        if self.random.random() < 0.2:
            x = self.random.choice([*gradients, *into])
            self.resize(x)
        if self.random.random() < 0.1:
            fan_ins = fan_ins[:-1]
        self.attempt("center_", lambda: kernels.center_(gradients, fan_ins, decays, targets))

    # --- normalized layers ------------------------------------------------------------------------

    def layer(self) -> None:
        sizes = self.random.randint(2, 30), self.random.randint(1, 30)
        layer: Any = nn.Linear(*sizes) if self.random.random() < 0.5 else nn.Conv2d(*sizes, 2)
        layer = layer.to(self.random.choice(TYPES[:3]))
        zeromean.reparametrize(layer, self.random.choice(("cwn", "wn", "ws")))
        shape = (3, sizes[0]) if isinstance(layer, nn.Linear) else (2, sizes[0], 4, 4)
        x = torch.randn(shape).to(next(layer.parameters()).dtype)

        def pass_through(between: Any = None) -> None:
            y = layer(x).float().square().sum()
            if between is not None:
                self.replace(between)
            y.backward()

        self.attempt("layer", pass_through)
        held = [p for p in layer.parameters() if p.shape != (sizes[1],)] or [*layer.parameters()]
        spoiled = self.random.choice(held)
        if self.random.random() < 0.5:
            self.attempt("layer, between", lambda: pass_through(spoiled))
        else:
            self.replace(spoiled)
            self.attempt("layer, before", pass_through)


def fuzz(cases: int, seed: int) -> Counter[str]:
    """Run cases, and return how many calls were made and how many were refused."""
    found = Fuzz(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(cases):
            found.run()
    return found.counts


if __name__ == "__main__":
    library = Path(sys.argv[1])
    shared_library._path = lambda: library
    assert shared_library.library() is not None
    counts = fuzz(int(sys.argv[2]), int(sys.argv[3]))
    print(sum(counts.values()), dict(sorted(counts.items())))
