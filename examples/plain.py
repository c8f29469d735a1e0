"""A plain training loop: Gradient Centralization on handwritten digits.

Needs scikit-learn, for the data.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import zeromean

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
y = torch.tensor(labels)
train, test = range(1500), range(1500, len(y))

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
    nn.Linear(32 * 4 * 4, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
handle = zeromean.centralize(optimizer, model)  # the only change
print(handle.plan)

before = model[-1].weight.detach().mean(1)
for epoch in range(5):
    model.train()
    for batch in torch.randperm(len(train)).split(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # clipping comes first; step centers
        optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    print(f"epoch {epoch + 1}: test accuracy {accuracy:.3f}")

moved = (model[-1].weight.detach().mean(1) - before).abs().max().item()
print(f"the means of the last layer's weight vectors moved by {moved:.1e}")
