"""Lookahead as published: an optimizer around another one."""

from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer


class Lookahead(Optimizer):
    def __init__(self, base_optimizer, alpha=0.5, k=3):
        self.base_optimizer = base_optimizer
        self.defaults = base_optimizer.defaults
        self.param_groups = base_optimizer.param_groups
        self.alpha, self.k, self.counter = alpha, k, 0
        super().__init__([p for g in base_optimizer.param_groups for p in g["params"]], {})
        self.param_groups = base_optimizer.param_groups
        self.state = defaultdict(dict)

    def zero_grad(self, set_to_none=True):
        self.base_optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        loss = self.base_optimizer.step(closure)
        self.counter += 1
        for group in self.param_groups:
            for fast in group["params"]:
                state = self.state[fast]
                if "slow" not in state:
                    state["slow"] = fast.detach().clone()
                if self.counter % self.k == 0:
                    state["slow"].add_(fast.detach() - state["slow"], alpha=self.alpha)
                    fast.data.copy_(state["slow"])
        return loss


torch.manual_seed(0)
model = nn.Linear(20, 4)
base = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = Lookahead(base)
for _ in range(6):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
print("weights", model.weight.double().mean(1).tolist())
