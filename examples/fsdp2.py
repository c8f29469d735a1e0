"""FSDP2, fully_shard: torchrun --standalone --nproc-per-node 2 examples/fsdp2.py.

Needs scikit-learn, for the data.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import zeromean

dist.init_process_group("gloo")  # "nccl" on GPUs
rank, world = dist.get_rank(), dist.get_world_size()

images, labels = load_digits(return_X_y=True)
x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
y = torch.tensor(labels)
train, test = range(1500), range(1500, len(y))

torch.manual_seed(0)  # the same weights and batches on every rank
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
)  # fmt: skip
fully_shard(model, mesh=init_device_mesh("cpu", (world,)))  # "cuda" on GPUs
# fully_shard replaces the parameters: create the optimizer after it, then centralize.
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
handle = zeromean.centralize(optimizer, model, at="update")
if rank == 0:
    print(handle.plan)


last = model[-1].weight  # a DTensor: this rank's rows
before = last.detach().full_tensor().mean(1)
for epoch in range(5):
    for batch in torch.randperm(len(train)).split(100):
        mine = batch[rank::world]
        optimizer.zero_grad()
        F.cross_entropy(model(x[mine]), y[mine]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    if rank == 0:
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.3f}")

moved = (last.detach().full_tensor().mean(1) - before).abs().max().item()
if rank == 0:
    print(f"the means of the last layer's weight vectors moved by {moved:.1e}")
dist.destroy_process_group()
