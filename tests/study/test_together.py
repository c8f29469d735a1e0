"""Studies whose runs are each trained by two processes, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_conduct import records

from zeromean.errors import ZeromeanError, ZeromeanWarning
from zeromean.study import declare, results
from zeromean.study.engine.devices import Together, _blocks
from zeromean.study.engine.together import Leader
from zeromean.study.networks.resnet import resnet20
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.tasks.load import load

HERE = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


def together(*command: object) -> subprocess.CompletedProcess[str]:
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in dict(socket.if_nameindex()).values() else {}
    python_path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*TORCHRUN, "--nproc-per-node", "2", *map(str, command)],
        env=os.environ | loopback | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def several(archive: Path) -> Study:
    """Convolutions and a task that sees for itself how many examples it is given."""
    images = Task(data=f"npz:{archive}", model="cnn", epochs=2, batch_size=10)
    own = Task(function="user_tasks:parts_of_batches", epochs=2, batch_size=8)
    return Study(
        tasks=(images, own),
        methods=("plain", "gc", "gc-update+clip-norm=1", "cwn", "wn"),
        optimizers=("adamw",),
        seeds=1,
        lr=0.01,
        threads=1,
    )


def assert_close(some: results.Results, others: results.Results) -> None:
    """Sums in another order, and nothing else: a run's losses are of order 1."""
    mine, theirs = records(some), records(others)
    assert mine.keys() == theirs.keys()
    for key, numbers in mine.items():
        for here, there in zip(numbers, theirs[key], strict=True):
            assert here == pytest.approx(there, abs=2e-6), key


@pytest.fixture
def alone(several: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> results.Results:
    """The same by this process."""
    monkeypatch.chdir(HERE)
    return several.run(tmp_path / "alone")


def test_two_processes_with_copies_end_as_one(
    several: Study,
    alone: results.Results,
    tmp_path: Path,
    supports: Callable[[str, str, str, str], None],
) -> None:
    file, out = tmp_path / "several.toml", tmp_path / "two"
    file.write_text(declare.as_toml(several))
    done = together("-m", "zeromean", "study", file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1  # one process shows
    assert_close(results.read(out), alone)
    assert results.read(out).sessions[0]["devices of a run"].startswith("2 (DDP")
    supports("Driver", "a study under torchrun, DDP", "-", "two processes beside one")


def test_two_processes_with_shards_end_as_one_though_killed(
    several: Study,
    alone: results.Results,
    tmp_path: Path,
    supports: Callable[[str, str, str, str], None],
) -> None:
    file, out = tmp_path / "several.toml", tmp_path / "killed"
    file.write_text(declare.as_toml(several))
    died = together(HERE / "conduct_together.py", file, out, "shard", 7)
    assert died.returncode != 0
    assert list((out / "work").glob("*.pt"))
    for folder in (out, tmp_path / "whole"):
        done = together(HERE / "conduct_together.py", file, folder, "shard")
        assert done.returncode == 0, done.stderr
    assert records(results.read(out)) == records(results.read(tmp_path / "whole"))
    assert_close(results.read(out), alone)
    supports(
        "Driver", "a study under torchrun, FSDP2", "-", "two processes beside one; killed, goes on"
    )


class Pretended(Together):
    """Two processes that are this one."""

    count = 2
    leads = True

    def __init__(self) -> None:
        self.rank = 0
        self._mesh = None

    def spread(self, network: torch.nn.Module) -> torch.nn.Module:
        return network

    def total(self, number: torch.Tensor) -> torch.Tensor:
        return number * 2

    def align(self, network: torch.nn.Module) -> None: ...

    def send(self, what: object) -> None: ...


def lead(study: Study, **task: Any) -> Leader:
    study = replace(study, tasks=(replace(study.tasks[0], **task),))
    problem = load(study, study.tasks[0])
    return Leader(study, {study.tasks[0].label: problem}, "", Pretended())


def test_what_several_processes_cannot_do_is_refused(study: Study) -> None:
    lead(study)
    with pytest.raises(ZeromeanError, match=r"batch_size = 7 of .* in 2 processes"):
        lead(study, batch_size=7)
    with pytest.raises(ZeromeanError, match="method nnn in 2 processes; wanted one"):
        lead(replace(study, methods=("plain", "nnn")))
    with pytest.warns(ZeromeanWarning, match="batch normalization sees each process's part"):
        lead(study, model="resnet20")


def test_a_refusal_is_one_line_of_all_processes(tmp_path: Path) -> None:
    done = together(
        "-m", "zeromean", "compare", "--model", "mlp", "--batch-size", 31, "--out", tmp_path / "out"
    )
    assert done.returncode != 0
    said = done.stderr.partition("torch/distributed/elastic")[0]  # the launcher's own
    assert said.count("zeromean: got batch_size = 31") == 1
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_what_fails_in_the_first_step_is_told_in_a_line(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(devices: Pretended, number: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(Pretended, "total", fail)
    with pytest.raises(ZeromeanError, match=r"2 processes cannot train \(.*no such operator"):
        lead(study)


def test_ways_exclude_each_other(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeromeanError, match="shard in one process"):
        study.run(tmp_path, shard=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ZeromeanError, match="jobs = 2 with torchrun; wanted one of them"):
        study.run(tmp_path, jobs=2)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ZeromeanError, match=r"without the module accelerate; .*\[distributed\]"):
        study.run(tmp_path)


def test_a_numbered_device_is_one_processs(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ZeromeanError, match="cuda:1 in several processes; wanted cuda"):
        replace(study, device="cuda:1").run(tmp_path)


def test_blocks_are_of_several_layers_and_share_nothing() -> None:
    network = resnet20(1, 8, 3)
    blocks = _blocks(network)
    assert len(blocks) == 9
    assert {type(block).__name__ for block in blocks} == {type(blocks[0]).__name__}
    assert _blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))) == []
    twice = torch.nn.Sequential(blocks[0], blocks[1])
    assert len(_blocks(twice)) == 2
    blocks[1].conv1.weight = blocks[0].conv1.weight
    assert _blocks(twice) == []
