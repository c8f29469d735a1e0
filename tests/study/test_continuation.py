"""A folder's study gets more seeds, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError
from zeromean.study import declare, report
from zeromean.study.engine.train import Training
from zeromean.study.results import Results, read
from zeromean.study.study import Study
from zeromean.study.tuning import Tuning
from zeromean.study.watchers.progress import Nobody


def scores(results: Results) -> dict[object, object]:
    return {
        run.key: (run.test_score, *(epoch.loss for epoch in run.epochs)) for run in results.runs
    }


def with_seeds(study: Study, seeds: int) -> Study:
    return dataclasses.replace(study, seeds=seeds)


class PowerCut(Nobody):
    def on_run(self, run: object) -> None:
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
    assert "finished with 1, then with 2 first, and then with more" in text


def test_the_file_of_a_folder_declares_the_seeds_that_it_has(large: Study, tmp_path: Path) -> None:
    noted = dataclasses.replace(large, note="A note.", seeds=1)
    noted.run(tmp_path)
    with_seeds(noted, 2).run(tmp_path)
    assert declare.read(tmp_path / "study.toml") == with_seeds(noted, 2)


def test_seeds_of_networks_that_train_together_are_added(study: Study, tmp_path: Path) -> None:
    """Others of them train side by side then, which only rounds otherwise."""
    at_once = scores(with_seeds(study, 6).run(tmp_path / "at-once"))
    with_seeds(study, 4).run(tmp_path / "grown")
    grown = scores(with_seeds(study, 6).run(tmp_path / "grown"))
    assert grown.keys() == at_once.keys()
    for key, values in grown.items():
        assert values == pytest.approx(at_once[key], rel=1e-4)


def test_fewer_seeds_are_refused_by_name(large: Study, tmp_path: Path) -> None:
    large.run(tmp_path)
    with pytest.raises(ZeromeanError, match=r"seeds = 1 in out .*with 2; wanted 2 or more; fix: r"):
        with_seeds(large, 1).run(tmp_path)


def test_an_unfinished_study_is_finished_before_it_gets_more(large: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        large.run(tmp_path, watcher=PowerCut(), command="the first one")
    with pytest.raises(ZeromeanError, match=r"of which 3 run.* fix: finish it: the first one"):
        with_seeds(large, 3).run(tmp_path)
    large.run(tmp_path)
    assert len(with_seeds(large, 3).run(tmp_path).runs) == 6


def test_a_tuned_study_has_used_the_next_seeds(large: Study, tmp_path: Path) -> None:
    tuned = dataclasses.replace(large, seeds=1, tuning=Tuning(rates=(0.1, 0.2), epochs=1))
    tuned.run(tmp_path)
    with pytest.raises(ZeromeanError, match="tuned with seeds 1 and up; wanted seeds that"):
        with_seeds(tuned, 2).run(tmp_path)
