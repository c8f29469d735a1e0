"""Run the Keras cases once per backend; Keras selects the backend when it is imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
TWO_DEVICES = " --xla_force_host_platform_device_count=2"
CASES = [str(path) for path in sorted(HERE.glob("cases_*.py"))]


@pytest.mark.timeout(900)  # about a hundred cases in one process
@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_cases_pass(
    backend: str, marked: str, tmp_path: Path, supports: Callable[[str, str, str, str], None]
) -> None:
    if find_spec(backend) is None and not sys.platform.startswith("linux"):
        pytest.skip(f"no {backend} for this platform")
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-m", marked, "--tb=short", f"--junitxml={report}"]
    options += ["-o", "junit_family=xunit1"]  # xunit2 does not record `supports`
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *CASES],
        env=os.environ
        | {
            "KERAS_BACKEND": backend,
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "XLA_FLAGS": os.environ["XLA_FLAGS"] + TWO_DEVICES,
        },
        cwd=HERE.parents[1],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    found = 0
    for case in ElementTree.parse(report).iter("testcase"):
        for record in case.iterfind("properties/property[@name='supports']"):
            area, what, at, how = ast.literal_eval(record.attrib["value"])
            supports(area, f"Keras on {backend}: {what}", at, how)
            found += 1
    assert found
