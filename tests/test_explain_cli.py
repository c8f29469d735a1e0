"""``zeromean explain`` as a user meets it: a table, JSON, or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import zeromean
from zeromean.cli import models
from zeromean.cli.main import app

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

def leaves():
    raise SystemExit
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
def test_plan_of_a_factory_is_that_of_explain(
    options: tuple[str, ...], same: dict[str, Any]
) -> None:
    code, stdout, stderr = invoke("my_models:small", *options)
    assert (code, stderr) == (0, "")
    assert stdout == f"{zeromean.explain(small(), **same)}\n"


def test_json_has_the_same_content() -> None:
    code, stdout, _ = invoke("my_models:small", "--json")
    content = json.loads(stdout)
    assert code == 0
    assert content["model"] == "my_models:small"
    assert content["parameters"][0] == {
        "name": "0.weight",
        "shape": [8, 3, 3, 3],
        "role": "conv",
        "axes": [1, 2, 3],
        "groups": 1,
        "centered": True,
        "reason": "Conv2d, fan-in 27",
    }
    assert [row["centered"] for row in content["parameters"]] == [True, False]


def test_output_of_a_factory_stays_out_of_the_json() -> None:
    code, stdout, stderr = invoke("my_models:loud", "--json")
    assert (code, stderr) == (0, "loading\n")
    assert json.loads(stdout)["model"] == "my_models:loud"


@pytest.mark.parametrize(
    ("ending", "inside"), [("pt", False), ("pt", True), ("safetensors", False)]
)
def test_checkpoint_is_explained_by_its_shapes(ending: str, inside: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2))
    weights = model.state_dict()
    if ending == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, "saved.safetensors")
    else:
        torch.save({"state_dict": weights, "epoch": 3} if inside else weights, "saved.pt")
    code, stdout, stderr = invoke(f"saved.{ending}")
    assert code == 0
    assert stderr.count("\n") == 1
    assert "contains shapes alone" in stderr
    rows = {line.split()[0]: line.split() for line in stdout.splitlines()[1:-1]}
    assert rows["0.weight"][1:5] == ["8x3x3x3", "conv", "1,2,3", "yes"]
    assert rows["2.weight"][1:5] == ["2x4", "linear", "1", "yes"]
    assert rows["1.running_mean"][4] == "no"
    assert "1.num_batches_tracked" not in rows


def test_json_of_a_checkpoint_stands_alone_on_standard_output() -> None:
    torch.save(small().state_dict(), "saved.pth")
    _, stdout, _ = invoke("saved.pth", "--json")
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
    assert invoke("timm:resnet50")[1] == f"{zeromean.explain(small())}\n"
    code, stdout, stderr = invoke("timm:vgg")
    assert (code, stdout) == (2, "")
    assert "Unknown model (vgg)" in stderr


@pytest.mark.usefixtures("mismatched_timm")
def test_torchvision_that_does_not_match_torch_is_named_in_one_line() -> None:
    code, stdout, stderr = invoke("timm:resnet50")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert (
        "(operator torchvision::nms does not exist). Run: pip install timm, with a torchvision that"
        in stderr
    )


def test_missing_timm_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, stdout, stderr = invoke("timm:resnet50")
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "needs timm, which cannot be imported" in stderr
    assert "pass module:factory" in stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "the following arguments are required: model"),
        (("resnet5",), "'resnet5' is not one of module:factory, file.py:factory, timm:NAME"),
        (("nowhere:small",), "there is no module nowhere"),
        (("nowhere.py:small",), "there is no file nowhere.py. Check the path."),
        (("my_models:large",), "my_models has no function large"),
        (("my_models:needs",), "called without arguments, but it is needs("),
        (("my_models:broken",), "failed with ValueError: no such thing"),
        (("my_models:leaves",), "failed with SystemExit"),
        (("my_models:none",), "returned int, not a torch.nn.Module"),
        (("nowhere.pt",), "nowhere.pt is not a file"),
        (("nowhere.safetensors",), "nowhere.safetensors cannot be read"),
        (("my_models.py",), "Pass my_models.py:NAME, with a function in it that returns the model"),
        (("my_models:small", "--layers", "some"), "some"),
        (("saved.pt", "--embeddings"), "do not show which parameters are embeddings"),
        (("my_models:small", "--yaml"), "unrecognized arguments: --yaml"),
    ],
)
def test_bad_input_ends_with_one_line(arguments: tuple[str, ...], line: str) -> None:
    code, stdout, stderr = invoke(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr


def test_built_in_networks_are_explained_by_name() -> None:
    code, stdout, stderr = invoke("resnet20")
    assert (code, stderr) == (0, "")
    assert "centered: 20 of 59 parameters" in stdout
    assert invoke("lstm")[0] == 0


def test_factory_in_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "helper.py").write_text("from my_models import small")
    (folder / "nets.py").write_text("from helper import small as make")
    code, stdout, stderr = invoke("elsewhere/nets.py:make")
    assert (code, stderr) == (0, "")
    assert stdout == f"{zeromean.explain(small())}\n"
    code, _, stderr = invoke("elsewhere/nets.py:other")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "nets.py has no function other" in stderr
    code, _, stderr = invoke("elsewhere/none.py:make")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "none.py" in stderr


def test_explain_needs_torch_alone(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('typer', 'rich', 'msgspec', 'PIL'): sys.modules[name] = None\n"
        "sys.argv[1:] = ['explain', 'my_models.py:small']\n"
        "from zeromean.__main__ import main; main()"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "centered: 1 of 2 parameters" in done.stdout


def test_escape_sequences_are_not_printed() -> None:
    torch.save({"a\x1b[2J": torch.zeros(3, 2)}, "evil\x1b[2J.pt")
    _, stdout, stderr = invoke("evil\x1b[2J.pt")
    assert "\x1b" not in stdout + stderr
    assert r"a\x1b[2J" in stdout
    assert r"evil\x1b[2J.pt contains" in stderr


def test_networks_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "names", list)
    code, _, stderr = invoke("resnet20")
    assert code == 2
    assert "a checkpoint file, a built-in network (with zeromean[study]). Use" in stderr
    assert "for a built-in network, run: pip install 'zeromean[study]'.\n" in stderr
    _, stdout, _ = invoke("--help")
    assert "or a built-in network (with zeromean[study])" in " ".join(stdout.split())
