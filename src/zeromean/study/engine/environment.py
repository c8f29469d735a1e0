"""Describe versions and machine, for the record."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def describe(device_name: str) -> dict[str, str]:
    """Return names and values, in the order in which a report shows them."""
    device = torch.device(device_name)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "zeromean": version("zeromean"),
        "git revision": _revision(Path(__file__).parents[2]) or "not a checkout",
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device} ({name})",
        "processors": f"{os.cpu_count()}, torch uses {torch.get_num_threads()}",
    }


def _revision(folder: Path) -> str | None:
    """Return the revision of the checkout that zeromean runs from, with a plus if files changed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not just installed inside a checkout
        return git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
