"""Run every script of examples/ that needs one process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fast_programs import run_here

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
    output = run_here(str(EXAMPLES / script))
    accuracy = float(re.findall(r"test accuracy (\S+)", output)[-1])
    moved = float(re.findall(r"moved by (\S+)", output)[-1])
    assert accuracy > enough
    assert moved < 1e-6
    supports("Driver", f"{what}, the example", at, "learns handwritten digits, means kept")
