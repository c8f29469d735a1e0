"""Run a command so that neither it nor what it started outlives this process's parent.

The parent holds the other end of standard input. When it closes, because the parent wants the
command to end or was killed, the whole process group of the command is ended, on Linux also
descendants in other groups, such as the workers of torchrun.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

# Time between SIGTERM and SIGKILL.
GRACE_SECONDS = 5.0


def supervise(command: Sequence[str]) -> int:
    """Run a command in a process group of its own until it ends, or standard input does.

    Args:
        command: The words of the command.

    Returns:
        Its exit code, negative for a signal; 126 if it cannot be started, as in shells.
    """
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(
            f"{command[0]} cannot be started ({error.strerror}). Start it by its interpreter, for"
            f" example: bash {command[0]}",
            flush=True,
        )
        return 126

    def end_with_parent() -> None:
        while os.read(0, 1):
            pass
        signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # First, because this process ends as soon as the command does.
        for pid in [*descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        signal_group(process.pid, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = process.wait()
    signal_group(process.pid, signal.SIGKILL)  # what the command left running
    return code


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group that may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process and its descendants started; none outside Linux."""
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            for child in map(int, file.read().split()):
                yield child
                yield from descendants(child)


if __name__ == "__main__":
    code = supervise(sys.argv[1:])
    # The parent reads the code of a signal from the exit code, as shells report it.
    os._exit(code if code >= 0 else 128 - code)
