"""Start programs: in less time than their imports take, and so that Ctrl-C ends them."""

from __future__ import annotations

import io
import os
import runpy
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

# The command zeromean. Tests in the background ignore Ctrl-C, and so would what they start.
INTERRUPTIBLE = (
    sys.executable,
    "-c",
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    " runpy.run_module('zeromean', run_name='__main__', alter_sys=True)",
)
WITHOUT_COMPILER = Path(__file__).parent / "support" / "without_compiler"


def run_here(path: str, *words: str) -> str:
    """Run a script in this process, which has imported its packages already; return its output."""
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [path, *words]),
        redirect_stdout(output),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        runpy.run_path(path, run_name="__main__")
    return output.getvalue()


def leave_out_compiler(patch: pytest.MonkeyPatch) -> None:
    """Start processes that do not load torch's compiler, which halves the time of a small one."""
    patch.setenv("PYTHONPATH", str(WITHOUT_COMPILER), prepend=os.pathsep)
