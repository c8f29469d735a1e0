"""``zeromean explain`` as a user meets it: a table, JSON, or one clear line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import zeromean
from zeromean.cli import app

FACTORY = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Embedding(5, 4))

def loud():
    print("loading")
    return small()

def needs(width):
    return nn.Linear(width, 1)

def broken():
    raise ValueError("no\\nsuch thing")

def none():
    return 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["explain", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Embedding(5, 4))


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ((), {}),
        (("--embeddings",), {"embeddings": True}),
        (("--layers", "linear"), {"layers": "linear"}),
    ],
)
def test_a_factory_s_plan_is_what_explain_says(
    options: tuple[str, ...], same: dict[str, Any]
) -> None:
    code, stdout, stderr = invoke("--model", "my_models:small", *options)
    assert (code, stderr) == (0, "")
    assert stdout == f"{zeromean.explain(small(), **same)}\n"


def test_json_holds_the_same() -> None:
    code, stdout, _ = invoke("--model", "my_models:small", "--json")
    told = json.loads(stdout)
    assert code == 0
    assert told["model"] == "my_models:small"
    assert told["parameters"][0] == {
        "name": "0.weight",
        "shape": [8, 3, 3, 3],
        "role": "conv",
        "axes": [1, 2, 3],
        "groups": 1,
        "centered": True,
        "reason": "Conv2d, fan-in 27",
    }
    assert [row["centered"] for row in told["parameters"]] == [True, False]


def test_what_a_factory_prints_is_kept_out_of_the_json() -> None:
    code, stdout, stderr = invoke("--model", "my_models:loud", "--json")
    assert (code, stderr) == (0, "loading\n")
    assert json.loads(stdout)["model"] == "my_models:loud"


@pytest.mark.parametrize(
    ("ending", "inside"), [("pt", False), ("pt", True), ("safetensors", False)]
)
def test_a_checkpoint_is_explained_by_its_shapes(ending: str, inside: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2))
    weights = model.state_dict()
    if ending == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, "saved.safetensors")
    else:
        torch.save({"state_dict": weights, "epoch": 3} if inside else weights, "saved.pt")
    code, stdout, stderr = invoke("--model", f"saved.{ending}")
    assert code == 0
    assert stderr.count("\n") == 1
    assert "holds shapes alone" in stderr
    rows = {line.split()[0]: line.split() for line in stdout.splitlines()[1:-1]}
    assert rows["0.weight"][1:5] == ["8x3x3x3", "conv", "1,2,3", "yes"]
    assert rows["2.weight"][1:5] == ["2x4", "linear", "1", "yes"]
    assert rows["1.running_mean"][4] == "no"
    assert "1.num_batches_tracked" not in rows


def test_json_of_a_checkpoint_stands_alone_on_standard_output() -> None:
    torch.save(small().state_dict(), "saved.pth")
    _, stdout, _ = invoke("--model", "saved.pth", "--json")
    assert len(json.loads(stdout)["parameters"]) == 2


def test_timm_models_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    timm: Any = ModuleType("timm")

    def create_model(name: str, pretrained: bool) -> nn.Module:
        assert not pretrained
        if name != "resnet50":
            raise RuntimeError(f"Unknown model ({name})")
        return small()

    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert invoke("--model", "timm:resnet50")[1] == f"{zeromean.explain(small())}\n"
    code, stdout, stderr = invoke("--model", "timm:vgg")
    assert (code, stdout) == (2, "")
    assert "Unknown model (vgg)" in stderr


def test_a_timm_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, stdout, stderr = invoke("--model", "timm:resnet50")
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "timm cannot be imported" in stderr
    assert "--model module:factory" in stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "Missing option '--model'"),
        (("--model", "resnet50"), "wanted module:factory"),
        (("--model", "nowhere:small"), "No module named 'nowhere'"),
        (("--model", "my_models:large"), "has no attribute 'large'"),
        (("--model", "my_models:needs"), "missing 1 required positional argument"),
        (("--model", "my_models:broken"), "ValueError: no such thing"),
        (("--model", "my_models:none"), "which returns int"),
        (("--model", "nowhere.pt"), "nowhere.pt, which is no file"),
        (("--model", "nowhere.safetensors"), "nowhere.safetensors, which cannot be read"),
        (("--model", "my_models.py"), "cannot be read safely"),
        (("--model", "my_models:small", "--layers", "some"), 'layers="some"'),
        (("--model", "my_models.py", "--embeddings"), "do not tell an embedding"),
        (("--model", "my_models:small", "--yaml"), "No such option: --yaml"),
    ],
)
def test_bad_input_ends_with_one_line(arguments: tuple[str, ...], line: str) -> None:
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr
