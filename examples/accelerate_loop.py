"""Hugging Face Accelerate: centralize the optimizer that `prepare` returns.

Needs accelerate, and scikit-learn for the data. Run it with python or `accelerate launch`.
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zeromean

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
loader = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=50, shuffle=True)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

accelerator = Accelerator(gradient_accumulation_steps=2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
zeromean.centralize(optimizer, model, at="update")
print(zeromean.status(optimizer))

last = accelerator.unwrap_model(model)[-1]
before = last.weight.detach().mean(1)
for epoch in range(5):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(inputs), targets))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        predicted = model(x[1500:].to(accelerator.device)).argmax(1).cpu()
    accelerator.print(
        f"epoch {epoch + 1}: test accuracy {(predicted == y[1500:]).float().mean().item():.3f}"
    )

moved = (last.weight.detach().mean(1) - before).abs().max().item()
accelerator.print(f"the means of the last layer's weight vectors moved by {moved:.1e}")
