"""Compare zeromean.lightning.Centralize with plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import zeromean
from zeromean.lightning import Centralize

Say = Callable[[str, str, str, str], None]

pytestmark = [
    # These concern the machine and the small runs.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

X, Y = torch.randn(2, 24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = list(zip((X + 1).split(4), Y[:, :3].split(4), strict=True))


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X + 1, Y[:, :3]), batch_size=4)


class Module(pl.LightningModule):
    """One optimizer, automatic."""

    def __init__(self, make: Callable[..., Optimizer] = AdamW, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.make, self.options = make, options

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.net(x) - y).square().mean()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor | None:
        return self.loss(*batch)

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), **{"lr": 0.05, "weight_decay": 0.1} | self.options)


class TwoManual(Module):
    """Two optimizers with manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = self.loss(*batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            SGD(self.net[0].parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
            AdamW(self.net[2].parameters(), lr=0.05, weight_decay=0.1),
        ]


def fit(module: Module, callback: Centralize | None, path: Path, **options: Any) -> pl.Trainer:
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": path,
    }
    resume = options.pop("ckpt_path", None)
    callbacks = [*options.pop("callbacks", ()), *([callback] if callback else [])]
    trainer = pl.Trainer(**defaults | options, callbacks=callbacks)
    trainer.fit(module, batches(), ckpt_path=resume)
    return trainer


def vector_means(module: Module) -> list[Tensor]:
    return [layer.weight.detach().mean(1) for layer in (module.net[0], module.net[2])]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def by_hand(module: Module, at: Any, accumulate: int = 1, clip: float | None = None) -> None:
    """Run the same two epochs in a plain loop, centering without hooks."""
    optimizer = module.configure_optimizers()
    decay = 0.0 if isinstance(optimizer, AdamW) else optimizer.defaults["weight_decay"]
    for group in optimizer.param_groups:
        group["weight_decay"] -= decay
    for _ in range(2):
        for index, batch in enumerate(BATCHES):
            (module.loss(*batch) / accumulate).backward()
            if (index + 1) % accumulate:
                continue
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            before = vector_means(module)
            for p in module.parameters():
                p.grad += decay * p.detach()
                if at == "gradient" and p.ndim > 1:
                    p.grad -= p.grad.mean(1, keepdim=True)
            optimizer.step()
            if at == "update":
                for layer, mean in zip((module.net[0], module.net[2]), before, strict=True):
                    with torch.no_grad():
                        layer.weight += (mean - layer.weight.mean(1))[:, None]
            optimizer.zero_grad()


@pytest.mark.parametrize("at", ["gradient", "update"])
@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
    ],
    ids=str,
)
def test_run_equals_a_plain_loop(
    make: Any, at: Any, options: dict[str, Any], tmp_path: Path, supports: Say
) -> None:
    module, reference = Module(make), Module(make)
    fit(module, Centralize(at=at), tmp_path, **options)
    by_hand(
        reference,
        at,
        options.get("accumulate_grad_batches", 1),
        options.get("gradient_clip_val"),
    )
    assert_same(module, reference)
    what = ", ".join(["Lightning", *(name.replace("_", " ") for name in options)])
    supports("Driver", what, at, "equal to a plain loop that centers by hand")


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_manual_optimization_with_two_optimizers(at: Any, tmp_path: Path, supports: Say) -> None:
    module = TwoManual()
    callback = Centralize(at=at)
    before = vector_means(module)
    start = copy.deepcopy(module)
    fit(module, callback, tmp_path)
    assert len(callback.handles) == 2
    first, second = vector_means(module)
    torch.testing.assert_close(first, before[0])  # SGD keeps its means at both places
    if at == "update":
        torch.testing.assert_close(second, before[1])
    assert not torch.equal(module.net[0].weight, start.net[0].weight)
    supports("Driver", "Lightning, manual optimization, two optimizers", at, "means kept")


def test_without_the_callback_the_means_drift(tmp_path: Path) -> None:
    module = Module(SGD, weight_decay=0.0)
    before = vector_means(module)
    fit(module, None, tmp_path)
    drift = max(
        float((a - b).abs().max()) for a, b in zip(vector_means(module), before, strict=True)
    )
    assert drift > 1e-2


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_resumed_run_equals_an_uninterrupted_one(at: Any, tmp_path: Path, supports: Say) -> None:
    whole = Module(AdamW)
    fit(whole, Centralize(at=at), tmp_path, max_epochs=4)
    saved = ModelCheckpoint(tmp_path / "saved", save_last=True)
    keep: dict[str, Any] = {"callbacks": [saved], "enable_checkpointing": True}
    fit(Module(AdamW), Centralize(at=at), tmp_path, max_epochs=2, **keep)
    keep["ckpt_path"] = saved.last_model_path
    resumed = Module(AdamW)
    trainer = fit(resumed, Centralize(at=at), tmp_path, max_epochs=4, **keep)
    assert_same(resumed, whole)
    assert zeromean.status(trainer.optimizers[0]).as_remembered
    supports("Driver", "Lightning, resumed from a checkpoint", at, "equal to a run without a stop")


def saved_run(path: Path, **options: Any) -> Path:
    trainer = fit(Module(AdamW), Centralize(**options), path)
    trainer.save_checkpoint(path / "run.ckpt")
    return path / "run.ckpt"


def test_resuming_without_the_callback_warns(tmp_path: Path, supports: Say) -> None:
    checkpoint = saved_run(tmp_path)
    with pytest.warns(UserWarning, match=r"add the following callbacks.*zeromean\.Centralize"):
        trainer = fit(Module(AdamW), None, tmp_path, max_epochs=3, ckpt_path=checkpoint)
    assert "NOT centralized" in str(zeromean.status(trainer.optimizers[0]))
    supports("Driver", "Lightning, resumed without the callback", "-", "Lightning warns")


def test_resuming_with_other_options_warns(tmp_path: Path) -> None:
    checkpoint = saved_run(tmp_path, at="gradient")
    with (
        pytest.warns(UserWarning, match=r"add the following callbacks.*at=gradient"),
        pytest.warns(zeromean.ZeromeanWarning, match=r"at=gradient.*at=update"),
    ):
        fit(Module(AdamW), Centralize(at="update"), tmp_path, max_epochs=3, ckpt_path=checkpoint)


def test_second_fit_centralizes_its_own_optimizers(tmp_path: Path) -> None:
    module, callback = Module(SGD), Centralize()
    trainer = fit(module, callback, tmp_path)
    (first,) = callback.handles
    before = vector_means(module)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, batches())
    assert callback.handles != [first]
    torch.testing.assert_close(vector_means(module), before)


def test_lightning_optimizer_is_unwrapped() -> None:
    module = Module()
    inner = module.configure_optimizers()
    wrapper: Any = LightningOptimizer(inner)
    handle = zeromean.centralize(wrapper, module)
    assert zeromean.status(inner).attached == handle.how == zeromean.status(wrapper).attached


def test_unknown_option_raises_at_construction() -> None:
    with pytest.raises(zeromean.ZeromeanError, match='at="updates" is not one of'):
        Centralize(at="updates")  # type: ignore[arg-type]


def test_gradients_centered_during_the_backward_pass(tmp_path: Path, supports: Say) -> None:
    module, reference = Module(AdamW), Module(AdamW)
    fit(module, Centralize(at="backward"), tmp_path, accumulate_grad_batches=2)
    by_hand(reference, "gradient", accumulate=2)
    assert_same(module, reference)
    supports("Driver", "Lightning, accumulate grad batches", "backward", "equal to a plain loop")


def test_error_of_centralize_stops_the_run(tmp_path: Path) -> None:
    module = Module(torch.optim.LBFGS)
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())  # type: ignore
    with pytest.raises(zeromean.ZeromeanError, match="curvature"):
        fit(module, Centralize(at="update"), tmp_path)


def test_fit_detaches_from_the_optimizers_of_a_fit_that_failed(tmp_path: Path) -> None:
    module, callback = TwoManual(), Centralize(at="update")
    accepted = SGD(module.net[0].parameters(), lr=0.05)
    refused = torch.optim.LBFGS(module.net[2].parameters())
    module.configure_optimizers = lambda: [accepted, refused]  # type: ignore[method-assign]
    with pytest.raises(zeromean.ZeromeanError, match="curvature"):
        fit(module, callback, tmp_path)
    other = SGD(module.net[2].parameters(), lr=0.05)
    module.configure_optimizers = lambda: [accepted, other]  # type: ignore[method-assign]
    fit(module, callback, tmp_path)
    assert len(callback.handles) == 2
