"""A folder's study gets more seeds, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError
from zeromean.study import declare, report
from zeromean.study.engine.train import Training
from zeromean.study.engine.units import Folder, units
from zeromean.study.engine.results import Results, read
from zeromean.study.engine.store import Store
from zeromean.study import Study
from zeromean.study import Tuning
from zeromean.study.engine.watcher import Silent


def scores(results: Results) -> dict[object, object]:
    return {
        run.key: (run.test_score, *(epoch.loss for epoch in run.epochs)) for run in results.runs
    }


def with_seeds(study: Study, seeds: int) -> Study:
    return replace(study, seeds=seeds)


class PowerCut(Silent):
    def on_run(self, run: object) -> None:
        raise RuntimeError("power cut")


class EarlyPowerCut(Silent):
    def on_epoch(self, key: object, epoch: object) -> None:
        raise RuntimeError("power cut")


def test_a_finished_study_gets_more_seeds_and_keeps_what_it_has(
    large: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = scores(with_seeds(large, 3).run(tmp_path / "at-once"))
    out = tmp_path / "grown"
    first = scores(with_seeds(large, 1).run(out))
    begun: list[int] = []
    init = Training.__init__

    def told(training: Training, problem: object, study: Study, key: object, *rest: object) -> None:
        begun.append(key.seed)  # type: ignore[attr-defined]
        init(training, problem, study, key, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Training, "__init__", told)
        grown = with_seeds(large, 2).run(out)
    assert set(begun) == {1}
    assert first.items() < scores(grown).items()
    found = with_seeds(large, 3).run(out, command="the last one")
    assert scores(found) == at_once
    assert (found.begun, found.study.seeds, found.command) == ((1, 2), 3, "the last one")
    assert read(out) == found
    text = "".join(file.read_text() for file in report.write(found) if file.suffix == ".html")
    assert "finished with 1 and then with 2 before more came" in text


def test_the_file_of_a_folder_declares_the_seeds_that_it_has(large: Study, tmp_path: Path) -> None:
    noted = replace(large, note="A note.", seeds=1)
    run(noted, tmp_path)
    with_seeds(noted, 2).run(tmp_path)
    assert toml.read(tmp_path / "study.toml") == with_seeds(noted, 2)


def test_a_file_of_the_users_own_is_changed_in_its_seeds_alone(
    study: Study, tmp_path: Path
) -> None:
    noted = replace(study, note="A note.", seeds=1)
    file = tmp_path / "out" / "study.toml"
    file.parent.mkdir()
    text = toml.to_toml(noted).replace("seeds = 1", "  seeds=1  # as many as there is time for")
    file.write_text(text)
    run(noted, file.parent)
    with_seeds(noted, 2).run(file.parent)
    assert file.read_text() == text.replace("seeds=1", "seeds=2")
    own = file.read_text().replace("seeds=2", "seeds = 3").replace("as many", "now as many")
    file.write_text(own)
    toml.read(file).run(file.parent)
    assert file.read_text() == own
    file.write_text(other := own.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(ZeromeanError, match=r"out/study.toml, which declares another study"):
        with_seeds(noted, 4).run(file.parent)
    assert file.read_text() == other
    assert read(file.parent).study.seeds == 3
    file.unlink()
    with_seeds(noted, 4).run(file.parent)
    assert [*file.parent.glob("study.toml*")] == [file]


def test_seeds_that_a_file_does_not_tell_are_told(study: Study, tmp_path: Path) -> None:
    (task,) = study.tasks
    noted = dataclasses.replace(
        study, note="A note.", seeds=5, tasks=[replace(task, epochs=1)]
    )
    file = tmp_path / "study.toml"
    file.write_text(text := "# mine\n" + toml.to_toml(noted).replace("seeds = 5\n", ""))
    run(noted, tmp_path)
    with_seeds(noted, 6).run(tmp_path)
    assert file.read_text() == "seeds = 6\n" + text


def test_seeds_of_networks_that_train_together_are_added(study: Study, tmp_path: Path) -> None:
    """Others of them train side by side then, which only rounds otherwise."""
    at_once = scores(with_seeds(study, 6).run(tmp_path / "at-once"))
    with_seeds(study, 4).run(tmp_path / "grown")
    grown = scores(with_seeds(study, 6).run(tmp_path / "grown"))
    assert grown.keys() == at_once.keys()
    for key, values in grown.items():
        assert values == pytest.approx(at_once[key], rel=1e-4)


def test_of_processes_that_add_seeds_at_once_each_sees_what_the_other_did(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_seeds(study, 1).run(tmp_path)
    create = Store.create

    def create_late(path: Path, facts: Mapping[str, str]) -> Store:
        store = create(path, facts)
        monkeypatch.undo()
        with_seeds(study, 2).run(tmp_path)
        return store

    monkeypatch.setattr(Store, "create", create_late)
    assert with_seeds(study, 3).run(tmp_path).begun == (1, 2)


def test_seeds_that_were_a_slip_are_taken_back_where_no_run_is_lost(
    either: Study, tmp_path: Path
) -> None:
    first = scores(with_seeds(either, 1).run(tmp_path))
    slip = with_seeds(either, 60)
    with pytest.raises(RuntimeError, match="power cut"):
        run(slip, tmp_path, watcher=EarlyPowerCut())
    with Folder(tmp_path).claim(units(slip)[0]) as mine:
        assert mine
        with pytest.raises(ZeromeanError, match=r"with 60, and a process trains it; wanted 60 or"):
            with_seeds(either, 1).run(tmp_path)
    back = with_seeds(either, 1).run(tmp_path, command="the first one")
    assert (scores(back), back.begun, back.command) == (first, (), "the first one")
    assert not (tmp_path / "work").exists()
    with pytest.raises(RuntimeError, match="power cut"):
        run(slip, tmp_path, watcher=PowerCut())
    with Store(tmp_path / "study.sqlite") as store:
        least = 1 + max(key.seed for key in store.keys())  # noqa: SIM118
    assert 1 < least <= 4
    with pytest.raises(ZeromeanError, match=rf"with 60; wanted {least} or more; fix: raise it"):
        with_seeds(either, least - 1).run(tmp_path)
    fewer = with_seeds(either, least).run(tmp_path)
    assert (len(fewer.runs), fewer.begun) == (2 * least, (1,))
    assert first.items() < scores(fewer).items()


def test_who_trains_bears_that_another_has_tidied_up(large: Study, tmp_path: Path) -> None:
    class Tidy(Silent):
        def on_epoch(self, key: object, epoch: object) -> None:
            shutil.rmtree(tmp_path / "work", ignore_errors=True)

    assert len(run(large, tmp_path, watcher=Tidy()).runs) == 4


def test_fewer_seeds_are_refused_by_name(large: Study, tmp_path: Path) -> None:
    run(large, tmp_path)
    with pytest.raises(ZeromeanError, match=r"seeds = 1 in out .*with 2; wanted 2 or more; fix: r"):
        with_seeds(large, 1).run(tmp_path)


def test_an_unfinished_study_is_finished_before_it_gets_more(large: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(large, tmp_path, watcher=PowerCut(), command="the first one")
    with pytest.raises(ZeromeanError, match=r"of which 3 run.* fix: finish it: the first one"):
        with_seeds(large, 3).run(tmp_path)
    run(large, tmp_path)
    assert len(with_seeds(large, 3).run(tmp_path).runs) == 6


def test_a_tuned_study_has_used_the_next_seeds(large: Study, tmp_path: Path) -> None:
    tuned = replace(large, seeds=1, tuning=Tuning(rates=(0.1, 0.2), epochs=1))
    run(tuned, tmp_path)
    with pytest.raises(ZeromeanError, match="tuned with seeds 1 and up; wanted seeds = 1: "):
        with_seeds(tuned, 2).run(tmp_path)
