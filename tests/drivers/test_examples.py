"""Run every script of examples/ that needs one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# script -> (what it shows, the place of centering, the required test accuracy)
SCRIPTS = {
    "plain.py": ("plain loop", "gradient", 0.9),
    "accelerate_loop.py": ("accelerate", "update", 0.8),
    "lightning_trainer.py": ("Lightning", "update", 0.8),
    "hf_trainer.py": ("Hugging Face Trainer", "update", 0.75),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_learns_and_keeps_means(
    script: str, supports: Callable[[str, str, str, str], None]
) -> None:
    what, at, enough = SCRIPTS[script]
    done = subprocess.run(
        [sys.executable, EXAMPLES / script],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    accuracy = float(re.findall(r"test accuracy (\S+)", done.stdout)[-1])
    moved = float(re.findall(r"moved by (\S+)", done.stdout)[-1])
    assert accuracy > enough
    assert moved < 1e-6
    supports("Driver", f"{what}, the example", at, "learns handwritten digits, means kept")
