"""Two spawned processes train one shared network, each with its own optimizer (Hogwild)."""

import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F


def train(rank, model):
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Linear(20, 4)
    model.share_memory()
    before = model.weight.detach().double().mean(1).clone()
    context = mp.get_context("spawn")
    processes = [context.Process(target=train, args=(rank, model)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print("drift", (model.weight.detach().double().mean(1) - before).abs().max().item())
