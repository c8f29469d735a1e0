"""Hugging Face's Trainer on a small network, with its default optimizer (AdamW)."""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x, labels):
        logits = self.network(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


torch.manual_seed(0)
data = [{"x": torch.randn(20) + 1, "labels": torch.randint(0, 4, ())} for _ in range(32)]
model = Classifier()
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        folder,
        max_steps=4,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, train_dataset=data)
    trainer.train()
print("weights", [p.double().sum().item() for p in model.parameters()])
