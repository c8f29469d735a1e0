"""The examples that need several processes, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = {
    "ddp.py": ("DistributedDataParallel", "gradient"),
    "fsdp2.py": ("FSDP2", "update"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_learns_and_keeps_its_means(
    script: str, supports: Callable[[str, str, str, str], None]
) -> None:
    what, at = SCRIPTS[script]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", EXAMPLES / script],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    accuracy = re.findall(r"test accuracy (\S+)", done.stdout)
    moved = re.findall(r"moved by (\S+)", done.stdout)
    # Not the return code: gloo can abort while it is taken down, when all is done and said.
    assert moved, done.stderr
    assert float(accuracy[-1]) > 0.9
    assert float(moved[-1]) < 1e-6
    supports("Distributed", f"{what}, the example by torchrun", at, "learns handwritten digits")
