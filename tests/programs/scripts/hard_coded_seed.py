"""A program that sets its own seed, as nanoGPT does."""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(1337)
np.random.seed(1337)
random.seed(1337)
model = nn.Linear(20, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.6f} numpy {np.random.rand():.6f} python {random.random():.6f}")
