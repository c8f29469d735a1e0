"""An update loop without an optimizer."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Linear(20, 4)
for _ in range(3):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.1 * p.grad)
    print(loss.item())
