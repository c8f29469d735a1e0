"""The wheel and the source distribution, with and without a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from readme_renderer import markdown

ROOT = Path(__file__).parents[1]
PROBE = """
import torch, zeromean
from zeromean import kernels, optim
model = torch.nn.Linear(3, 2)
optimizer = optim.AdamW(model, lr=0.1, at="update")
before = model.weight.mean(1)
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
assert torch.allclose(model.weight.mean(1), before)
print(zeromean.__file__)
print(kernels.backend())
"""


def test_wheel_without_compiler_serves_every_machine(tmp_path: Path) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    built = shutil.ignore_patterns("centered.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
    run(sys.executable, "-m", "pip", *build, CC="false")
    (wheel,) = wheels.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert needed == ["Requires-Dist: torch>=2.6"]  # no other framework without its extra
    file, found = run(sys.executable, "-c", PROBE, PYTHONPATH=str(site)).split()
    assert Path(file).is_relative_to(site)
    assert found == "reference"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the source distribution from the files of the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(
        ["git", "ls-files"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    for name in tracked.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def python_with_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that holds torch and what torch needs."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", "torch")
    return python


def run(*command: object, **environment: str) -> str:
    """Run a command outside the repository and return its output."""
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ZEROMEAN_KERNELS")}
    done = subprocess.run(
        [str(part) for part in command],
        env={**ours, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_readme_renders_on_a_package_index() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = markdown.render(text)
    assert page is not None
    assert page.count("<h2") == text.count("\n## ")
    links = re.findall(r'(?:href|src)="([^#"][^"]*)"', page)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it compiles the kernels
def test_twine_accepts_distributions(distributions: dict[str, Path]) -> None:
    shown = run(sys.executable, "-m", "twine", "check", "--strict", *distributions.values())
    assert shown.count("PASSED") == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it compiles them again, and downloads torch
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names Linux's interpreter")
@pytest.mark.parametrize(
    ("kind", "compiler", "backend"),
    [("wheel", "cc", "native"), ("sdist", "cc", "native"), ("sdist", "false", "reference")],
)
def test_distribution_works_with_torch_alone(
    distributions: dict[str, Path], python_with_torch: Path, kind: str, compiler: str, backend: str
) -> None:
    if kind == "wheel":  # the library does not depend on Python's version
        assert "-py3-none-linux" in distributions[kind].name
    pip = (python_with_torch, "-m", "pip")
    # A cached wheel would hide whether the source builds.
    install = (*pip, "install", "--no-cache-dir", "--force-reinstall", "--no-deps")
    run(*install, distributions[kind], CC=compiler)
    run(*pip, "check")
    quiet = ("-W", "error", "-W", "ignore:Failed to initialize NumPy")  # torch's
    file, found = run(python_with_torch, *quiet, "-c", PROBE).split()
    assert Path(file).is_relative_to(python_with_torch.parents[1])
    assert found == backend
    assert "centralize" in run(python_with_torch, "-c", "help('zeromean')")
    shown = run(python_with_torch, "-m", "zeromean", "explain", "--help", COLUMNS="500")
    assert "a built-in network (with zeromean[study])" in shown
