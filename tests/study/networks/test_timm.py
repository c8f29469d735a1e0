"""Models timm:NAME, by a stand-in: timm needs torchvision, which the tests go without."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from zeromean.cli.main import app
from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Study
from zeromean.study.networks.build import build

CALLS: list[dict[str, object]] = []


class Small(nn.Module):
    """A network for 8x8 pixels alone, as a vision transformer is."""

    def __init__(self, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_chans * 64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 8, f"Input height {x.shape[-1]} doesn't match\nmodel (8)."
        return self.fc(x.flatten(1))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for timm with the same signatures and errors."""
    module = ModuleType("timm")
    module.__version__ = "1.0"

    def is_model(name: str) -> bool:
        return name.partition(".")[0] in ("small", "features")

    def create_model(
        model_name: str, pretrained: bool = False, *, num_classes: int, in_chans: int
    ) -> nn.Module:
        if pretrained and not model_name.endswith(".here"):
            raise RuntimeError("Invalid pretrained tag.")
        CALLS.append({"name": model_name, "pretrained": pretrained})
        if model_name == "features":
            return nn.Flatten()
        return Small(in_chans, num_classes)

    module.is_model, module.create_model = is_model, create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    CALLS.clear()


@pytest.mark.usefixtures("mismatched_timm")
def test_torchvision_that_does_not_match_torch_is_named() -> None:
    with pytest.raises(ZeromeanError, match=r"nms does not exist.*Install a torchvision that"):
        build("timm:small", channels=1, side=8, classes=5, seed=3)


@pytest.mark.usefixtures("timm")
def test_timm_network_has_channels_and_classes() -> None:
    network = build("timm:small", channels=1, side=8, classes=5, seed=3)
    assert network.training
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    again = build("timm:small", channels=1, side=8, classes=5, seed=3)
    assert torch.equal(network.fc.weight, again.fc.weight)
    build("timm:small.here", channels=3, side=8, classes=5, seed=3)
    assert [call["pretrained"] for call in CALLS] == [False, False, True]


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("timm:large", 8, r"\"timm:large\" is not a name of .* in timm 1\.0"),
        (
            "timm:small.lost",
            8,
            r"cannot be made by timm \(RuntimeError: Invalid pretrained tag\.\)",
        ),
        ("timm:small", 9, r"does not take images of 3x9x9 \(AssertionError: Input height 9 "),
        ("timm:features", 8, "does not return one number per class"),
    ],
)
def test_timm_errors_are_explained(name: str, side: int, message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        build(name, channels=3, side=side, classes=5, seed=0)


Compare = Callable[..., tuple[int, str]]


@pytest.fixture
def compare(archive: Path, tmp_path: Path) -> Compare:
    def run(model: str) -> tuple[int, str]:
        arguments = ["--data", f"npz:{archive}", "--model", model, "--epochs", "1", "--seeds", "1"]
        result = CliRunner().invoke(
            app, ["compare", *arguments, "--batch-size", "8", "--out", str(tmp_path / "out")]
        )
        return result.exit_code, result.stderr

    return run


@pytest.mark.usefixtures("timm")
def test_a_study_trains_networks_of_timm(compare: Compare) -> None:
    assert compare("timm:small")[0] == 0


@pytest.mark.usefixtures("timm")
def test_unknown_timm_name_ends_in_one_line(compare: Compare) -> None:
    code, message = compare("timm:large")
    assert (code, message.count("\n")) == (2, 1)


def test_missing_timm_names_the_extra(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, message = compare("timm:resnet50")
    assert (code, message.count("\n")) == (2, 1)
    assert '"timm:resnet50" needs the package timm' in message
    assert "pip install 'zeromean[timm]'" in message


def test_timm_needs_a_name() -> None:
    assert Study(tasks=(ImageTask(model="timm:resnet50"),)).tasks[0].label == "digits/timm:resnet50"
    with pytest.raises(ZeromeanError, match=r"model 'timm:' is not one of mlp.*timm:NAME"):
        ImageTask(model="timm:")
