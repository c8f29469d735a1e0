"""Run a command so that zeromean reaches every Python process that it starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from zeromean.errors import ZeromeanError
from zeromean.programs.options import VARIABLE, Options
from zeromean.programs.record import Record, read_records

BOOT = Path(__file__).parent / "boot"
# Exit code if the command succeeded and zeromean did not act.
NOT_REACHED = 3
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def resolve(command: Sequence[str]) -> list[str]:
    """Return the words that start a command: ``train.py`` and ``-m module`` run in this Python.

    A program that is not on PATH is also looked up next to this Python, where ``torchrun`` is.

    Args:
        command: The words of the command.

    Raises:
        ZeromeanError: The command is empty or does not exist.
    """
    if not command:
        raise ZeromeanError(
            "there is no command to run", "Add one, for example: zeromean run train.py --epochs 10"
        )
    first, *rest = command
    if "\0" in "".join(command):
        raise ZeromeanError("the command contains a NUL character", "Remove it")
    if first == "-m":
        if not rest:
            raise ZeromeanError("-m needs the name of a module", "Use -m package.module")
        return [sys.executable, *command]
    if first.endswith(".py"):
        if not os.path.isfile(first):  # False, unlike Path.is_file, if the name is too long
            raise ZeromeanError(f"there is no file {first}", "Check the path of the program")
        return [sys.executable, *command]
    found = shutil.which(first) or shutil.which(first, path=str(Path(sys.executable).parent))
    if found is None:
        if os.path.isfile(first):
            raise ZeromeanError(f"{first} is not executable", f"Use: bash {first}, or chmod +x it")
        raise ZeromeanError(
            f"there is no command {first} on PATH",
            "Check its spelling, or activate its environment",
        )
    return [found, *rest]


def environment(options: Options, base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that leads Python processes to the boot file.

    Args:
        options: Options of the processes.
        base: Environment to extend.
    """
    # An empty entry of PYTHONPATH would mean the working folder.
    path = os.pathsep.join(filter(None, [str(BOOT), base.get("PYTHONPATH")]))
    return {**base, "PYTHONPATH": path, VARIABLE: options.dumps()}


def run(command: Sequence[str], options: Options) -> tuple[int, Record]:
    """Run a command with its own input, output and signals.

    Args:
        command: The words of the command.
        options: Options of its processes; their folder of records is replaced.

    Returns:
        The exit code as :mod:`subprocess` reports it (negative for a signal), and the record.

    Raises:
        ZeromeanError: The command does not exist or cannot be started.
    """
    words = resolve(command)
    # A process that outlives the command may still write while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="zeromean-run-", ignore_cleanup_errors=True) as folder:
        variables = environment(replace(options, records=folder), os.environ)
        try:
            process = subprocess.Popen(words, env=variables)
        except OSError as error:
            raise ZeromeanError(
                f"{words[0]} cannot be started ({error.strerror})",
                f"Start it by its interpreter, for example: bash {words[0]}",
            ) from error
        with _forward_signals(process):
            code = process.wait()
        return code, read_records(Path(folder))


@contextmanager
def _forward_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass signals on to the process. Ctrl-C reaches it anyway, as part of the process group."""

    def forward(number: int, frame: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(number)

    def ignore(number: int, frame: FrameType | None) -> None:
        """Ignore the signal here alone: a new process inherits SIG_IGN, but no handler."""

    handlers = {getattr(signal, name): forward for name in _FORWARDED if hasattr(signal, name)}
    handlers[signal.SIGINT] = ignore
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_as(code: int) -> None:
    """End this process as another one ended: with its exit code, or by its signal."""
    if code < 0 and hasattr(signal, "SIGKILL"):
        number = -code
        sys.stderr.flush()
        if number != signal.SIGKILL:
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core dump is the program's
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        code = 128 + number  # a signal that does not end a process
    sys.exit(code)
