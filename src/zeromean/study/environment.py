"""Where the numbers were made: versions and machine, for the record."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version

import torch


def describe(device: torch.device) -> dict[str, str]:
    """Names and values, in the order in which a report shows them."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "zeromean": version("zeromean"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device} ({name})",
        "processors": f"{os.cpu_count()}, torch uses {torch.get_num_threads()}",
        "started": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
