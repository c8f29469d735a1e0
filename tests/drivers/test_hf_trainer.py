"""``zeromean.transformers``: the callback against the same Trainer without hooks of zeromean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers.trainer_callback import PrinterCallback

import zeromean
from zeromean.transformers import Centralize

Say = Callable[[str, str, str, str], None]

pytestmark = [
    # transformers' own data loader pins memory without an accelerator.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator"),
]


class Tokens(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.randint(11, (6,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def network() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def run(
    model: nn.Module,
    path: Path,
    callback: Centralize | None,
    resume: str | None = None,
    optimizers: Any = (None, None),
    **options: Any,
) -> transformers.Trainer:
    defaults = {
        "output_dir": str(path),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**defaults | options),
        train_dataset=Tokens(),
        callbacks=[callback] if callback else [],
        optimizers=optimizers,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def means(model: nn.Module) -> list[Tensor]:
    return [row.parameter.detach().mean(row.axes) for row in zeromean.explain(model).centered]


def assert_same(a: nn.Module, b: nn.Module, atol: float = 1e-5) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_trainer_steps_with_centered_gradients(
    accumulate: int, tmp_path: Path, supports: Say
) -> None:
    options = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 0.0}
    model, reference = network(), network()
    run(model, tmp_path, Centralize(), **options)
    for row in zeromean.explain(reference).centered:
        # P is linear: centering every micro-batch's gradient is centering their sum.
        row.parameter.register_hook(lambda g, axes=row.axes: g - g.mean(axes, keepdim=True))
    run(reference, tmp_path, None, **options)
    # The gradient of a key's bias is only rounding, which Adam magnifies.
    assert_same(model, reference, atol=1e-4)
    supports("Driver", "Hugging Face Trainer, accumulation", "gradient", "equal to tensor hooks")


def test_trainer_keeps_the_means(tmp_path: Path, supports: Say) -> None:
    model = network()
    before = means(model)
    run(model, tmp_path, Centralize(at="update"), gradient_accumulation_steps=2)
    torch.testing.assert_close(means(model), before)
    plain = network()
    run(plain, tmp_path, None)
    moved = max(float((a - b).abs().max()) for a, b in zip(means(plain), before, strict=True))
    assert moved > 1e-3
    supports("Driver", "Hugging Face Trainer, clipping, accumulation", "update", "means kept")


def test_own_optimizer_is_centralized_before(tmp_path: Path, supports: Say) -> None:
    model, reference = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    zeromean.centralize(optimizer, model)
    before = means(model)
    run(model, tmp_path, None, optimizers=(optimizer, None))
    torch.testing.assert_close(means(model), before)
    assert not torch.equal(
        model.transformer.h[0].mlp.c_fc.weight, reference.transformer.h[0].mlp.c_fc.weight
    )
    supports("Driver", "Hugging Face Trainer, own optimizer", "gradient", "means kept")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_resumed_run_equals_an_uninterrupted_one(at: Any, tmp_path: Path, supports: Say) -> None:
    whole = network()
    run(whole, tmp_path, Centralize(at=at), num_train_epochs=2, save_strategy="epoch")
    checkpoint = str(tmp_path / "checkpoint-6")
    state = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert all(f"at={at}" in group["zeromean"] for group in state["param_groups"])
    resumed = network()
    run(resumed, tmp_path, Centralize(at=at), checkpoint)
    assert_same(resumed, whole)
    supports("Driver", "Hugging Face Trainer, resumed", at, "equal to a run without a stop")


def test_forgotten_callback_shows_after_resuming(tmp_path: Path) -> None:
    run(network(), tmp_path, Centralize(), save_strategy="epoch")
    trainer = run(network(), tmp_path, None, str(tmp_path / "checkpoint-6"))
    assert "NOT centralized" in str(zeromean.status(trainer.optimizer.optimizer))


def test_second_training_attaches_again(tmp_path: Path) -> None:
    model = network()
    before = means(model)
    trainer = run(model, tmp_path, Centralize(at="update"))
    trainer.train()
    torch.testing.assert_close(means(model), before)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"at": "updates"}, "at="), ({"at": "update", "project_state": True}, "project_state")],
)
def test_invalid_options_raise_at_construction(options: Any, words: str) -> None:
    with pytest.raises(zeromean.ZeromeanError, match=words):
        Centralize(**options)


def test_callback_detaches_after_training(tmp_path: Path) -> None:
    callback = Centralize()
    trainer = run(network(), tmp_path, callback)
    assert callback.handle is None
    assert zeromean.status(trainer.optimizer).attached is None


def test_training_after_an_interrupted_one_attaches_again() -> None:
    """The Trainer does not call on_train_end if training raises, and keeps its optimizer."""
    model, callback = network(), Centralize()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)
    assert callback.handle is not None
    assert zeromean.status(optimizer).attached == callback.handle.how


def test_trainer_without_optimizer_raises() -> None:
    with pytest.raises(zeromean.ZeromeanError, match="no optimizer"):
        Centralize().on_train_begin(None, None, None, model=network())
