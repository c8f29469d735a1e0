"""The wheel: native where there is a compiler, still a wheel where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("compiler", "tag", "backend"),
    [("cc", "py3-none-linux", "native"), ("false", "py3-none-any", "reference")],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names Linux's wheels")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_wheel_is_built_and_serves(tmp_path: Path, compiler: str, tag: str, backend: str) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    built = shutil.ignore_patterns("centered.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = {**os.environ, "CC": compiler}
    environment.pop("ZEROMEAN_KERNELS", None)
    build = ["wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run(
        [sys.executable, "-m", "pip", *build],
        check=True, capture_output=True, cwd=source, env=environment,
    )  # fmt: skip
    (wheel,) = wheels.iterdir()
    assert tag in wheel.name
    # Unpacked and put first, the wheel's own files are what a machine without a compiler gets.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert needed == ["Requires-Dist: torch>=2.6"]  # no other framework without its extra
    environment["PYTHONPATH"] = str(site)
    shown = subprocess.run(
        [sys.executable, "-c", PROBE],
        check=True, capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    file, found = shown.stdout.split()
    assert Path(file).is_relative_to(site)
    assert found == backend
