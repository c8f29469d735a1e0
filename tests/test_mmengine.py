"""Test MMEngine: the published names in a config, and the Centralized constructor."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import zeromean.mmengine
from zeromean import ZeromeanError, compat

Supports = Callable[[str, str, str, str], None]
NAMES = [name for name in compat.__all__ if "_GC" in name]


class Classifier(BaseModel):
    """A small CNN with a transposed convolution, whose vectors are not rows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3)
        )
        self.head = nn.Linear(4 * 64, 10)

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = "tensor") -> Any:
        scores = self.head(self.backbone(inputs).flatten(1))
        if mode == "loss":
            return {"loss": F.cross_entropy(scores, labels)}
        return (scores, labels) if mode == "predict" else scores


class Accuracy(BaseMetric):
    """The share of labels that are right."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        scores, labels = data_samples
        self.results.append((scores.argmax(1) == labels).float())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        return {"accuracy": torch.cat(results).mean().item()}


def digits() -> tuple[list[Any], list[Any]]:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    pairs = list(zip(x, torch.tensor(labels), strict=True))
    return pairs[:1200], pairs[1200:1500]


def run(folder: Path, optim_wrapper: dict[str, Any], epochs: int = 2, **options: Any) -> Any:
    """A Runner that has trained."""
    train, test = digits()
    loader = {"batch_size": 50, "num_workers": 0, "collate_fn": {"type": "default_collate"}}
    torch.manual_seed(0)
    runner = Runner(
        model=Classifier(),
        work_dir=str(folder),
        train_dataloader={
            **loader, "dataset": train, "sampler": {"type": "DefaultSampler", "shuffle": True},
        },
        val_dataloader={
            **loader, "dataset": test, "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        val_evaluator={"type": Accuracy},
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        val_cfg={},
        optim_wrapper=optim_wrapper,
        custom_hooks=[],
        randomness={"seed": 0},
        log_level="WARNING",
        experiment_name=uuid.uuid4().hex,  # two runs of one second would share another name
        **options,
    )  # fmt: skip
    runner.start = copy.deepcopy(runner.model)
    runner.train()
    return runner


def moved(runner: Any) -> dict[str, float]:
    """How far the means of each matrix moved, over the fan-in that its layer has."""
    start = dict(runner.start.named_parameters())
    return {
        row.name: (
            (row.parameter - start[row.name]).detach().double().mean(row.axes).abs().max().item()
        )
        for row in zeromean.explain(runner.model).centered
    }


def accuracy(runner: Any) -> float:
    return float(runner.val_loop.run()["accuracy"])


@pytest.mark.parametrize("at", ["gradient", "update"])
def test_centralized_constructor_in_a_runner(tmp_path: Path, at: str, supports: Supports) -> None:
    config = Config(
        {
            "optim_wrapper": {
                "constructor": "Centralized",
                "centralize": {"at": at},
                "optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
                "paramwise_cfg": {"norm_decay_mult": 0.0},
                "clip_grad": {"max_norm": 5.0},
                "accumulative_counts": 2,
            }
        }
    )
    runner = run(tmp_path / "run", config.optim_wrapper)
    assert zeromean.status(runner.optim_wrapper.optimizer).attached
    found = moved(runner)
    assert len(found) == 3
    assert max(found.values()) < 1e-6
    assert accuracy(runner) > 0.8
    supports("Driver", "MMEngine Runner, constructor Centralized", at, "learns digits, means kept")


def test_published_name_in_a_runner(tmp_path: Path, supports: Supports) -> None:
    wrapper = {"optimizer": {"type": "SGD_GC", "lr": 0.05, "momentum": 0.9}}
    runner = run(tmp_path / "run", wrapper)
    assert type(runner.optim_wrapper.optimizer) is compat.SGD_GC
    found = moved(runner)
    # Its rule knows shapes alone, and a transposed convolution's vectors are no rows.
    assert found.pop("backbone.3.weight") > 1e-4
    assert max(found.values()) < 1e-6
    assert accuracy(runner) > 0.8
    supports("Driver", "MMEngine Runner, SGD_GC", "gradient", "learns digits, means kept")


def test_every_published_name_is_registered() -> None:
    assert len(NAMES) == 14
    for name in NAMES:
        assert OPTIMIZERS.get(name) is getattr(compat, name)
        config = {"optimizer": {"type": name, "lr": 0.1}}
        optimizer = build_optim_wrapper(nn.Conv2d(2, 2, 3), config).optimizer
        assert len(optimizer.plan.centered) == 1
    assert OPTIMIZERS.get("SGD") is torch.optim.SGD
    assert not is_distributed()


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop", "Adagrad"])
def test_equals_centralize_on_mmengines_optimizer(optimizer: str) -> None:
    model, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    config = {"type": "OptimWrapper", "optimizer": {"type": optimizer, "lr": 0.1}}
    centralized = {"constructor": "Centralized", "centralize": {"at": "update"}, **config}
    wrapper = build_optim_wrapper(model, centralized)
    plain = build_optim_wrapper(twin, config)
    zeromean.centralize(plain.optimizer, twin, at="update")
    x = torch.randn(5, 4)
    for one, module in ((wrapper, model), (plain, twin)):
        one.update_params(module(x).square().mean())
    torch.testing.assert_close(model.weight, twin.weight, rtol=0, atol=0)
    assert "centralize" in centralized  # a config is not changed


@pytest.fixture
def in_parts() -> Iterator[None]:
    """A constructor as users write them, for two optimizers."""

    class InParts:
        def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
            self.optimizers = optim_wrapper_cfg["optimizer"]

        def __call__(self, model: nn.Module) -> OptimWrapperDict:
            parts = {
                name: OptimWrapper(OPTIMIZERS.build({"params": part.parameters(), **options}))
                for (name, options), part in zip(self.optimizers.items(), model, strict=True)
            }
            return OptimWrapperDict(**parts)

    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=InParts)
    yield
    del OPTIM_WRAPPER_CONSTRUCTORS._module_dict["InParts"]


@pytest.mark.usefixtures("in_parts")
def test_wraps_another_constructor() -> None:
    optimizers = {"a": {"type": "SGD", "lr": 0.1}, "b": {"type": "Adam", "lr": 0.1}}
    config = {
        "constructor": "Centralized",
        "centralize": {"constructor": "InParts"},
        "optimizer": optimizers,
    }
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    wrapper = build_optim_wrapper(model, config)
    found = {name: zeromean.status(part.optimizer) for name, part in wrapper.items()}
    assert {name: status.centered for name, status in found.items()} == {"a": 1, "b": 1}


@pytest.mark.parametrize("options", ["update", {"att": "update"}])
def test_unknown_option_raises(options: Any) -> None:
    config = {
        "constructor": "Centralized",
        "centralize": options,
        "optimizer": {"type": "SGD", "lr": 0.1},
    }
    with pytest.raises(
        ZeromeanError, match=r"centralize in optim_wrapper is .*, not a dict of options"
    ):
        build_optim_wrapper(nn.Linear(3, 2), config)
