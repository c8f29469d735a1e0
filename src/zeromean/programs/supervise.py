"""Run a command so that neither it nor what it started outlives this process's parent.

The parent holds the other end of standard input. When it closes, because the parent wants the
command to end or was killed, the whole process group of the command is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

# Time between SIGTERM and SIGKILL.
GRACE_SECONDS = 5.0


def supervise(command: Sequence[str]) -> int:
    """Run a command in a process group of its own until it ends, or standard input does.

    Args:
        command: The words of the command.

    Returns:
        Its exit code, negative for a signal.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_parent() -> None:
        while os.read(0, 1):
            pass
        signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        signal_group(process.pid, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = process.wait()
    signal_group(process.pid, signal.SIGKILL)  # what the command left running
    return code


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group that may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    code = supervise(sys.argv[1:])
    # The parent reads the code of a signal from the exit code, as shells report it.
    os._exit(code if code >= 0 else 128 - code)
