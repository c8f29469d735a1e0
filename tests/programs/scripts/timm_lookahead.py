"""timm's factory of optimizers, with its Lookahead around SGD."""

import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = create_optimizer_v2(model, opt="lookahead_sgd", lr=0.1, weight_decay=1e-4)
for _ in range(7):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
optimizer.sync_lookahead()
print("weights", [p.double().sum().item() for p in model.parameters()])
