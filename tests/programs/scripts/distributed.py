"""DistributedDataParallel or fully_shard (FSDP2), started by torchrun."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
if sys.argv[1] == "ddp":
    model = DistributedDataParallel(model)
else:
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in [model[0], model[2], model]:
        fully_shard(layer, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(dist.get_rank())
for _ in range(4):
    x, y = torch.randn(16, 20) + 1, torch.randint(0, 4, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
if dist.get_rank() == 0:
    print("weights", [w.double().sum().item() for w in weights])
dist.destroy_process_group()
