"""A study on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace
from study_files import write_npz
from study_helpers import PowerCut, records, with_task

from fast_programs import leave_out_compiler
from zeromean.errors import ZeromeanError
from zeromean.study import FunctionTask, Study, Tuning, run
from zeromean.study.engine import ray_executor
from zeromean.study.engine.executors import Plan
from zeromean.study.engine.ray_executor import RayCluster
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.records import Epoch, Key, Run

# Ray takes the loopback for its own address where clusters are for trying out alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# By default, Ray's workers have a low priority: a busy machine would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")
# By default, a killed node counts as dead after 15 seconds.
os.environ.setdefault("RAY_health_check_initial_delay_ms", "500")
os.environ.setdefault("RAY_health_check_period_ms", "500")

# Ray starts its processes by fork, of which JAX warns where another test has loaded it here.
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One node of one processor; its ``address``, and ``add_node``."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        leave_out_compiler(patch)  # each test has workers of its own
        one = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        yield one
        one.shutdown()


@pytest.fixture
def long(study: Study) -> Study:
    """Return a study that is long enough to be disturbed, with the threads that a node has."""
    return with_task(study, model="cnn", epochs=20, threads=1, seeds=3)


class Recorder(Watcher):
    """Remembers everything, and does something once two units are under way."""

    def __init__(self, disturb: Callable[[], object] | None = None) -> None:
        self.epochs: list[tuple[Key, int]] = []
        self.runs: list[Key] = []
        self._disturb = disturb

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.epochs.append((key, epoch.number))
        if self._disturb is not None and len({key.seed for key, _ in self.epochs}) == 2:
            self._disturb()
            self._disturb = None

    def on_run(self, run: Run) -> None:
        self.runs.append(run.key)


def test_a_killed_node_loses_no_epoch(
    cluster: Any,
    long: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    supports: Callable[[str, str, str, str], None],
) -> None:
    node = cluster.add_node(**NODE)
    sent = []
    submit = RayCluster.submit
    monkeypatch.setattr(
        RayCluster, "submit", lambda self, group: sent.append(group) or submit(self, group)
    )
    seen = Recorder(lambda: cluster.remove_node(node, allow_graceful=False))
    results = run(long, tmp_path / "cluster", ray=cluster.address, watcher=seen)
    monkeypatch.undo()

    assert len(sent) == long.seeds + 1  # one was sent again
    assert sorted(seen.runs) == sorted(records(results))
    expected = [(key, number) for key in seen.runs for number in range(1, 21)]
    assert sorted(seen.epochs) == sorted(expected)  # none lost, none twice
    assert records(results) == records(run(long, tmp_path / "here"))
    supports("Driver", "a study on a Ray cluster", "-", "two nodes, one killed: equal bit by bit")


def test_executors_continue_each_other(cluster: Any, long: Study, tmp_path: Path) -> None:
    out = tmp_path / "passed on"
    for ways in ({"ray": cluster.address}, {}):
        with pytest.raises(RuntimeError, match="power cut"):
            run(long, out, watcher=PowerCut(25), **ways)
    seen = Recorder()
    results = run(long, out, ray=cluster.address, watcher=seen)
    assert len(seen.epochs) < 6 * 20 - 25
    assert records(results) == records(run(long, tmp_path / "here"))
    assert not (out / "work").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"images.npz.*, on the machine \S+"),
        pytest.param(
            lambda path: write_npz(path, seed=1),
            r"does not have the data .*, on the machine \S+",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_machine_without_the_data_is_named(
    cluster: Any,
    long: Study,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    message: str,
) -> None:
    submit = RayCluster.submit
    monkeypatch.setattr(
        RayCluster, "submit", lambda self, group: (change(archive), submit(self, group))
    )
    with pytest.raises(ZeromeanError, match=message):
        run(long, tmp_path / "out", ray=cluster.address)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("dies_on_a_cluster", "was lost 3 times without an epoch in between"),
        ("raises_on_a_cluster", "raised RuntimeError: gone in user_tasks.py, .*, on the machine"),
    ],
)
def test_a_group_that_cannot_be_trained_ends_the_study(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    message: str,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])  # which the machines have too
    task = FunctionTask(function=f"user_tasks:{function}", epochs=1, batch_size=8)
    broken = Study(tasks=(task,), seeds=1, lr=0.1, threads=1)
    with pytest.raises(ZeromeanError, match=message):
        run(broken, tmp_path, ray=cluster.address)


def test_a_process_loads_the_data_of_a_tuned_study_once(long: Study) -> None:
    """Tuned studies once ended with TypeError on a cluster."""
    tuned = replace(long, tuning=Tuning(rates=(0.1, 0.2)))
    message = ray_executor.Message(tuned, b"{}", 1, ".")
    received = [pickle.loads(pickle.dumps(message)) for _ in range(2)]
    assert ray_executor._loader(received[0]) is ray_executor._loader(received[1])


def test_machines_that_are_too_small_are_refused(cluster: Any, long: Study, tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match=r"no machine of the Ray cluster at .* has 2 CPU"):
        run(replace(long, threads=2), tmp_path / "out", ray=cluster.address)


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:PORT", "nowhere", "ray://here:1", "here:port", ":1", "a..b:1"]
)
def test_an_address_without_a_cluster_is_refused(
    study: Study, tmp_path: Path, address: str
) -> None:
    pytest.importorskip("ray")
    address = address.replace("PORT", str(unused_port()))
    with pytest.raises(ZeromeanError, match=f"no Ray cluster can be reached at {address}"):
        run(study, tmp_path, ray=address)


def test_without_ray_the_extra_is_named(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ZeromeanError, match=r"--ray here:1 needs the package ray, .*\[ray\]"):
        run(study, tmp_path, ray="here:1")


def test_jobs_are_of_one_machine(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match="jobs and ray are both given"):
        run(study, tmp_path, ray="here:1", jobs=2)


def test_a_failed_start_disconnects(
    long: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Mock()
    ray.nodes.return_value = [{"Alive": True, "Resources": {"CPU": 1.0}}]
    ray.put.side_effect = RuntimeError("the object store is full")
    monkeypatch.setattr(ray_executor, "_connect", lambda address: ray)
    with (
        pytest.raises(RuntimeError, match="the object store is full"),
        RayCluster(Plan(long, {}, 1, tmp_path), "here:1"),
    ):
        pass
    ray.shutdown.assert_called_once_with()
