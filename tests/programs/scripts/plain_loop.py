"""A plain training loop."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--at", default="nothing of zeromean")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--optimizer", default="SGD")
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--weight-decay", type=float, default=0.0)
parser.add_argument("--seed", type=int)
args = parser.parse_args()
if args.seed is not None:
    torch.manual_seed(args.seed)

model = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
)
optimizer = getattr(torch.optim, args.optimizer)(
    model.parameters(), lr=args.lr, weight_decay=args.weight_decay
)
for step in range(args.steps):
    x, y = torch.randn(16, 3, 8, 8) + 1, torch.randint(0, 10, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.6f}")
print("at", args.at, "weights", sum(p.double().sum().item() for p in model.parameters()))
