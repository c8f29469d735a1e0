"""Run the cases that need torchvision and timm in a process of their own.

`make test` installs both packages into `.venv/vision`, outside the path of all other tests, because
the compiled operators of torchvision do not match the CPU build of torch.
`tests/support/torchvision_ops` replaces the operators.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = [HERE.parent / "support" / "torchvision_ops", Path(sys.prefix) / "vision", ROOT / "src"]


def run_cases(*options: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


@pytest.mark.timeout(900)  # about a hundred cases in one process
def test_cases_pass() -> None:
    run_cases("-m", "not slow", *map(str, sorted(HERE.glob("cases_*.py"))))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cases", ["cases_programs.py", "cases_recipes.py"])
def test_training_programs_end_to_end(cases: str) -> None:
    run_cases("-m", "slow", str(HERE / cases))
