"""A compiled model, and a compiled optimizer step."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
model = torch.compile(network, backend="aot_eager")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step = torch.compile(optimizer.step, backend="aot_eager")
for _ in range(5):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    step()
    print(f"{loss.item():.5f}")
print("weights", [f"{p.double().sum().item():.5f}" for p in model.parameters()])
