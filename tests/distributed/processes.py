"""Cases that several gloo processes run together, and how each case ended.

``python processes.py FOLDER MODULES`` loads everything once. It then forks as many processes as the
cases need, for each such number: each process runs the cases of that number, one after the other,
and leaves their endings in ``FOLDER/WORLD/RANK.json``.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from zeromean import ZeromeanError

MODULES = (
    "backward",
    "communication",
    "fsdp2",
    "monitor",
    "errors",
    "reparam",
    "replicated",
    "tensor_parallel",
)
SECONDS = 800


@dataclass(frozen=True)
class Case:
    """What ``world`` processes check together, and the table's row that it shows, if any."""

    name: str
    module: str
    world: int
    check: Callable[[], None]
    shows: tuple[str, str, str] | None


_cases: dict[str, Case] = {}


def case(
    world: int, name: str, check: Callable[[], None], shows: tuple[str, str, str] | None = None
) -> None:
    """Declare a case; ``shows`` is (what, at, how) for the table of what works."""
    name = f"{name} ({world} processes)"
    assert name not in _cases
    module = sys._getframe(1).f_globals["__name__"]
    _cases[name] = Case(name, module, world, check, shows)


def refuses(call: Callable[[], object], *words: str) -> None:
    """Assert that ``call`` raises a ZeromeanError with these words."""
    with pytest.raises(ZeromeanError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def all_cases(modules: Sequence[str] = MODULES) -> dict[str, Case]:
    names = [importlib.import_module(f"cases_{module}").__name__ for module in modules]
    return {name: case for name, case in _cases.items() if case.module in names}


def by_world(modules: Sequence[str]) -> dict[int, list[Case]]:
    """The cases by their number of processes."""
    found: dict[int, list[Case]] = {}
    for one in all_cases(modules).values():
        found.setdefault(one.world, []).append(one)
    return found


def run(folder: Path, modules: Sequence[str]) -> dict[str, str]:
    """How each case ended: "" or what went wrong, and where."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, here.name, str(folder), *modules],
        cwd=here.parent,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    endings = dict.fromkeys(all_cases(modules), "")
    for world, cases in by_world(modules).items():
        for rank in range(world):
            file = folder / f"{world}" / f"{rank}.json"
            found = json.loads(file.read_text()) if file.exists() else {}
            for one in cases:
                error = found.get(one.name, f"no word; {done.stderr}")
                endings[one.name] += f"rank {rank}:\n{error}\n" if error else ""
    return endings


def _main(folder: Path, modules: Sequence[str]) -> None:
    if "lo" in dict(map(reversed, socket.if_nameindex())):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch._dynamo  # which the first optimizer would load in each process

    torch.set_num_threads(1)
    for world, cases in by_world(modules).items():
        place = folder / f"{world}"
        place.mkdir()
        ranks = [os.fork() or _run_rank(rank, world, place, cases) for rank in range(world)]
        for process in ranks:
            os.waitpid(process, 0)


def _run_rank(rank: int, world: int, folder: Path, cases: Sequence[Case]) -> NoReturn:
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    endings = {}
    for case in cases:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                case.check()
            endings[case.name] = ""
        except (Exception, pytest.fail.Exception):  # pytest.raises fails with the second
            endings[case.name] = traceback.format_exc()
    file = folder / f"{rank}.json"
    file.with_suffix(".tmp").write_text(json.dumps(endings))
    file.with_suffix(".tmp").rename(file)
    # The others may still need this process; gloo's own teardown can abort when all is done.
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    # Cases register themselves in the module that they import, not in this one run as a script.
    import processes

    processes._main(Path(sys.argv[1]), sys.argv[2:])
