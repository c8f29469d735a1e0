"""Lightning: centralize by a callback.

Needs lightning, and scikit-learn for the data.
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from zeromean.lightning import Centralize

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
train = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=50, shuffle=True)


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, targets = batch
        return F.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


module = Digits()
before = module.net[-1].weight.detach().mean(1)
trainer = pl.Trainer(
    max_epochs=5,
    accelerator="cpu",
    callbacks=[Centralize(at="update")],
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(module, train)

with torch.no_grad():
    accuracy = (module.net(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
print(f"test accuracy {accuracy:.3f}")
moved = (module.net[-1].weight.detach().mean(1) - before).abs().max().item()
print(f"the means of the last layer's weight vectors moved by {moved:.1e}")
