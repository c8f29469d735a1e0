"""Start programs as users do, and read what zeromean recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeromean.programs.record import OptimizerRecord, Record, loads

SCRIPTS = Path(__file__).parent / "scripts"
ZEROMEAN = [sys.executable, "-m", "zeromean"]


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    out: str
    err: str
    record: Record

    @property
    def only(self) -> OptimizerRecord:
        """The only kind of optimizer."""
        (entry,) = self.record.optimizers
        return entry


def script(name: str) -> str:
    return str(SCRIPTS / f"{name}.py")


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process, with the scripts of this Python on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **changes}


def start(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    options = {"env": environment(), "timeout": 240, **options}
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


def zeromean_run(*words: str, **options: Any) -> Done:
    """``zeromean run`` with a record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.json")
        done = start([*ZEROMEAN, "run", "--record", str(path), *words], **options)
        record = loads(json.loads(path.read_text())) if path.exists() else Record()
    return Done(done.returncode, done.stdout, done.stderr, record)


def by_hand(name: str, changes: Mapping[str, str], folder: Path) -> str:
    """A copy of a script with lines inserted after some of its lines, as a user would do it."""
    source = Path(script(name)).read_text()
    for line, added in changes.items():
        assert source.count(line) == 1
        last = line.splitlines()[-1]
        indent = last[: len(last) - len(last.lstrip())]
        source = source.replace(line, f"{line}\n{indent}import zeromean\n{indent}{added}")
    changed = folder / f"{name}_by_hand.py"
    changed.write_text(source)
    return str(changed)
