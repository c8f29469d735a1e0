"""Hugging Face Trainer: centralize by a callback, for a small vision transformer.

Needs transformers and accelerate, and scikit-learn for the data.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from zeromean.transformers import Centralize


class Digits(Dataset):
    def __init__(self, part: slice) -> None:
        images, labels = load_digits(return_X_y=True)
        self.x = torch.tensor(images[part], dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.y = torch.tensor(labels[part])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.x[index], "labels": self.y[index]}


torch.manual_seed(0)
model = ViTForImageClassification(
    ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_labels=10, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    )
)  # fmt: skip
before = model.classifier.weight.detach().mean(1)
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            num_train_epochs=10,
            per_device_train_batch_size=50,
            learning_rate=3e-3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Digits(slice(0, 1500)),
        callbacks=[Centralize(at="update")],
    )
    trainer.train()

test = Digits(slice(1500, None))
with torch.no_grad():
    accuracy = (model(test.x).logits.argmax(1) == test.y).float().mean().item()
print(f"test accuracy {accuracy:.3f}")
moved = (model.classifier.weight.detach().mean(1) - before).abs().max().item()
print(f"the means of the classifier's weight vectors moved by {moved:.1e}")
