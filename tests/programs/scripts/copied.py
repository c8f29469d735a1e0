"""A model and its optimizer are copied in the middle of the training."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Linear(20, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def train(model, optimizer):
    for _ in range(3):
        x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


train(model, optimizer)
twin, twin_optimizer = copy.deepcopy((model, optimizer))
train(twin, twin_optimizer)
print("weights", model.weight.double().mean(1).tolist(), twin.weight.double().mean(1).tolist())
