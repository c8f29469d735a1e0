"""``zeromean diagnose``: one page, or one line of error."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import zeromean
from zeromean.cli.checkpoint import load_weights, read_checkpoint
from zeromean.cli.main import app
from zeromean.diagnose import page

TITLES = (
    "What centering acts on",
    "Means of the weight vectors",
    "Gradients before and after centering",
    "Pre-activations",
    "Response to intensity",
    "Conditioning of the Fisher information",
    "Sharpness",
)
MODELS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def batch_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 10))

def color():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

class Picky(nn.Sequential):
    def forward(self, images):
        if len(images) == 24:
            raise ValueError("not all at once.")
        return super().forward(images)

def picky():
    return Picky(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def flat():
    return nn.Identity()

def broken():
    raise KeyError("no such size")

def number():
    return 3

size = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's models and a checkpoint of one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    (tmp_path / "own_models.py").write_text(MODELS)
    torch.save(mlp().state_dict(), tmp_path / "mlp.pt")
    return tmp_path


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["diagnose", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def run(*arguments: object, model: str = "own_models:mlp") -> tuple[int, str, str]:
    return invoke(*arguments, "--model", model, "--data", "digits", "--samples", 24)


class References(HTMLParser):
    """The references of a page to other files."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                if value.startswith("data:image/png;base64,"):
                    self.pictures += 1
                elif not value.startswith("#"):
                    self.found.append(value)


def test_page_holds_every_diagnostic(
    folder: Path, supports: Callable[[str, str, str, str], None]
) -> None:
    supports("Diagnostic", "zeromean diagnose", "-", "one page with every diagnostic")
    code, stdout, stderr = run("mlp.pt", "--batch-size", 16, "--out", "pages/one.html")
    assert (code, stderr) == (0, "")
    text = (folder / "pages" / "one.html").read_text(encoding="utf-8")
    assert re.findall("<h2 id=.*?>(.*)</h2>", text) == list(TITLES)
    references = References(text)
    assert (references.found, references.pictures) == ([], 6)
    assert "Not measured" not in text
    assert "unknown: the checkpoint contains no optimizer" in text
    assert "--batch-size 16 --out pages/one.html" in text
    for title in TITLES:
        assert re.search(f"^{title}: .+", stdout, re.M)
    assert stdout.endswith("pages/one.html\n")


def test_failed_measurement_gives_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise NotImplementedError("derivative for\naten::thing is <not> implemented")

    monkeypatch.setattr(page, "sharpness", fail)
    code, stdout, _ = run("mlp.pt")
    assert code == 0
    reason = "NotImplementedError: derivative for aten::thing is <not> implemented."
    assert f"Sharpness: Not measured: {reason}" in stdout
    text = (folder / "zeromean-diagnose.html").read_text(encoding="utf-8")
    assert "is &lt;not&gt; implemented" in text
    assert References(text).pictures == 5


def test_exception_of_the_model_stops_no_other_diagnostic(folder: Path) -> None:
    code, stdout, _ = run("mlp.pt", "--batch-size", 24, model="own_models:picky")
    assert code == 0
    assert "Sharpness: Not measured: ValueError: not all at once.\n" in stdout
    assert (folder / "zeromean-diagnose.html").is_file()


def test_diverged_model_gets_a_page_without_nan(folder: Path) -> None:
    model = mlp()
    model[1].weight.data.fill_(torch.nan)
    torch.save(model.state_dict(), folder / "nan.pt")
    code, stdout, stderr = run("nan.pt")
    assert (code, stderr) == (0, "")
    assert "nan" not in stdout.replace("nan.pt", "")
    assert "Sharpness: Not measured: the Hessian has entries that are not finite" in stdout
    assert (
        "Conditioning of the Fisher information: Not measured: 1.weight has entries that are not"
        in stdout
    )


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "weights", None])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod."])
def test_checkpoints_as_scripts_save_them(folder: Path, key: str | None, prefix: str) -> None:
    weights = {f"{prefix}{name}": value for name, value in mlp().state_dict().items()}
    torch.save(weights if key is None else {"epoch": 3, key: weights}, folder / "saved.pt")
    read = read_checkpoint(folder / "saved.pt")
    assert read.weights.keys() == weights.keys()
    if key == "state_dict":
        code, _, stderr = run("saved.pt")
        assert (code, stderr) == (0, "")


class Versioned(nn.Linear):
    """A layer that converts the weights of its version 1."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("wrap", [nn.Sequential, nn.DataParallel])
def test_layers_see_the_version_of_their_weights(tmp_path: Path, wrap: Any) -> None:
    saved, model = nn.Sequential(Versioned(2, 2)), nn.Sequential(Versioned(2, 2))
    path = tmp_path / "saved.pt"
    torch.save({"model": wrap(saved).state_dict()}, path)
    load_weights(model, read_checkpoint(path), path)
    assert torch.equal(model[0].weight, saved[0].weight)


def test_page_that_cannot_be_written_is_refused_before_measuring(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    code, stdout, stderr = run("mlp.pt", "--out", "pages/one.html")
    assert (code, stdout) == (2, "")
    assert stderr.startswith(
        "zeromean: --out pages/one.html cannot be written. Pass a file in a folder"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_page_shows_how_the_run_was_centralized(folder: Path, nested: bool) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, folder / "plain.pt")
    assert read_checkpoint(folder / "plain.pt").centering.startswith("no: its optimizer was not")
    zeromean.centralize(optimizer, model, at="update")
    state = optimizer.state_dict()
    kept = {"optimizer_states": [state]} if nested else {"optimizer": state}
    torch.save({"state_dict": model.state_dict(), **kept}, folder / "gc.pt")
    assert read_checkpoint(folder / "gc.pt").centering.startswith("at=update, layers=all")
    assert run("gc.pt")[0] == 0
    assert "at=update, layers=all" in (folder / "zeromean-diagnose.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "model", "line"),
    [
        (("nowhere.pt",), "own_models:mlp", "the checkpoint nowhere.pt is not a file"),
        (
            ("own_models.py",),
            "own_models:mlp",
            "is damaged, or not a file of torch.save",
        ),
        (("cut.pt",), "own_models:mlp", "cut.pt is damaged, or not a file of torch.save"),
        (("numbered.pt",), "own_models:mlp", "numbered.pt contains the keys 0, but neither"),
        (("list.pt",), "own_models:mlp", "list.pt contains list, but neither a state_dict nor one"),
        (("whole.pt",), "own_models:mlp", "whole.pt holds a pickled object of torch.nn.modules."),
        (("mlp.pt",), "own_models:batch_norm", "does not fit --model"),
        (
            ("mlp.pt",),
            "mlp.pt",
            "the model 'mlp.pt' is not one of module:factory, file.py:factory, timm:NAME, mlp, cnn",
        ),
        (("mlp.pt",), "nowhere:mlp", "there is no module nowhere"),
        (("mlp.pt",), "own_models:vgg", "own_models has no function vgg"),
        (("mlp.pt",), "own_models:broken", "KeyError: 'no such size'"),
        (("mlp.pt",), "own_models:size", "own_models:size is not a function"),
        (("mlp.pt",), "own_models:number", "returned int, not a torch.nn.Module"),
        (("color.pt",), "own_models:color", "failed on images of 1x8x8"),
        (("flat.pt",), "own_models:flat", "does not fit --model"),
        (("seven.pt",), "own_models:seven", "returned (1, 7); logits of shape (images, 10)"),
        (("mlp.pt", "--out", "own_models.py/x.html"), "own_models:mlp", "cannot be written"),
        (("mlp.pt", "--samples", 0), "own_models:mlp", "--samples is 0; at least 1 is needed"),
        (
            ("mlp.pt", "--batch-size", 0),
            "own_models:mlp",
            "--batch-size is 0; at least 1 is needed",
        ),
        (("mlp.pt", "--device", "abacus"), "own_models:mlp", "torch cannot use the device"),
        (("mlp.pt", "--out", "."), "own_models:mlp", "--out . is a folder"),
        (("mlp.pt", "--data", "mnist"), "own_models:mlp", "data='mnist' is not one of digits"),
        (("mlp.pt", "--quick"), "own_models:mlp", "No such option: --quick"),
        ((), "own_models:mlp", "Missing argument 'checkpoint'"),
    ],
)
def test_bad_input_ends_with_one_line(
    folder: Path, arguments: tuple[object, ...], model: str, line: str
) -> None:
    torch.save([1, 2], folder / "list.pt")
    torch.save({0: torch.ones(2)}, folder / "numbered.pt")
    (folder / "cut.pt").write_bytes(b"\x80\x02.")
    torch.save(mlp(), folder / "whole.pt")
    torch.save({"weight": torch.ones(2)}, folder / "flat.pt")
    sys.path.insert(0, str(folder))
    import own_models

    for name in ("color", "seven"):
        torch.save(getattr(own_models, name)().state_dict(), folder / f"{name}.pt")
    data = () if "--data" in arguments else ("--data", "digits")
    code, stdout, stderr = invoke(*arguments, "--model", model, *data)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("zeromean: ")
    assert line in stderr
    assert not (folder / "zeromean-diagnose.html").exists()


def test_interrupt_ends_with_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "preactivations", interrupt)
    code, _, stderr = run("mlp.pt")
    assert (code, stderr) == (130, "zeromean: interrupted; no page was written\n")
    assert not (folder / "zeromean-diagnose.html").exists()
