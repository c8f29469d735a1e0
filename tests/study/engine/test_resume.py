"""A folder's study gets more seeds, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from study_helpers import PowerCut, with_task

from zeromean.errors import ZeromeanError
from zeromean.study import Study, Tuning, read, run, write_report
from zeromean.study.engine import results
from zeromean.study.engine.results import Results
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.records import FINAL, Run
from zeromean.study.spec.toml import to_toml


def scores(found: Results) -> dict[object, object]:
    return {one.key: (one.test_score, *(epoch.loss for epoch in one.epochs)) for one in found.runs}


def with_seeds(study: Study, seeds: int) -> Study:
    return replace(study, seeds=seeds)


class CutAtRun(Watcher):
    def on_run(self, run: Run) -> None:
        raise RuntimeError("power cut")


class Runs(Watcher):
    def __init__(self) -> None:
        self.seeds: set[int] = set()

    def on_run(self, run: Run) -> None:
        self.seeds.add(run.key.seed)


def test_a_finished_study_gets_more_seeds(study: Study, tmp_path: Path) -> None:
    at_once = scores(run(with_seeds(study, 3), tmp_path / "at-once"))
    out = tmp_path / "grown"
    first = scores(run(with_seeds(study, 1), out))
    runs = Runs()
    grown = run(with_seeds(study, 2), out, watcher=runs)
    assert runs.seeds == {1}
    assert first.items() < scores(grown).items()
    found = run(with_seeds(study, 3), out, command="the last one")
    assert scores(found) == at_once
    assert (found.begun, found.study.seeds, found.command) == ((1, 2), 3, "the last one")
    assert results.read(out) == found
    assert found.growth == "; finished with 1 and then with 2 before more came"
    assert read(out / "study.toml") == with_seeds(study, 3)


def test_in_the_users_file_only_the_seeds_change(study: Study, tmp_path: Path) -> None:
    one = with_seeds(study, 1)
    file = tmp_path / "out" / "study.toml"
    file.parent.mkdir()
    text = to_toml(one).replace("seeds = 1", "  seeds=1  # as many as there is time for")
    file.write_text(text)
    run(one, file.parent)
    run(with_seeds(one, 2), file.parent)
    assert file.read_text() == text.replace("seeds=1", "seeds=2")
    own = file.read_text().replace("seeds=2", "seeds = 3").replace("as many", "now as many")
    file.write_text(own)
    run(read(file), file.parent)
    assert file.read_text() == own
    file.write_text(other := own.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(ZeromeanError, match=r"out/study.toml declares another study"):
        run(with_seeds(one, 4), file.parent)
    assert file.read_text() == other
    file.unlink()
    run(with_seeds(one, 4), file.parent)
    assert [*file.parent.glob("study.toml*")] == [file]


def test_a_file_without_seeds_gets_them(study: Study, tmp_path: Path) -> None:
    default = with_task(study, seeds=Study().seeds, epochs=1)
    file = tmp_path / "study.toml"
    file.write_text(text := "# mine\n" + to_toml(default).replace(f"seeds = {default.seeds}\n", ""))
    run(default, tmp_path)
    run(with_seeds(default, 7), tmp_path)
    assert file.read_text() == "seeds = 7\n" + text


def test_the_seeds_of_trials_stay(study: Study, tmp_path: Path) -> None:
    """In a file with seeds of trials alone, these were once changed, and the study was refused."""
    tuned = with_task(
        study,
        seeds=Study().seeds,
        epochs=1,
        tuning=Tuning(rates=(0.1,), seeds=1, validation=0.25),
    )
    file = tmp_path / "study.toml"
    file.write_text(text := to_toml(tuned).replace(f"\nseeds = {tuned.seeds}\n", "\n", 1))
    assert text.count("seeds =") == 1
    run(tuned, tmp_path)
    run(with_seeds(tuned, 7), tmp_path)
    assert file.read_text() == "seeds = 7\n" + text


def test_too_many_seeds_can_be_taken_back_if_no_run_is_lost(study: Study, tmp_path: Path) -> None:
    first = scores(run(with_seeds(study, 1), tmp_path))
    slip = with_seeds(study, 60)
    with pytest.raises(RuntimeError, match="power cut"):
        run(slip, tmp_path, watcher=PowerCut(0))
    back = run(with_seeds(study, 1), tmp_path, command="the first one")
    assert (scores(back), back.begun, back.command) == (first, (), "the first one")
    assert not (tmp_path / "work").exists()
    with pytest.raises(RuntimeError, match="power cut"):
        run(slip, tmp_path, watcher=CutAtRun())
    with pytest.raises(ZeromeanError, match=r"seeds is 1, but .* with 60 and has runs of 2. Raise"):
        run(with_seeds(study, 1), tmp_path)
    fewer = run(with_seeds(study, 2), tmp_path)
    assert (len(fewer.runs), fewer.begun) == (4, (1,))
    assert first.items() < scores(fewer).items()


def test_training_survives_a_removed_work_folder(study: Study, tmp_path: Path) -> None:
    class Remove(Watcher):
        def on_epoch(self, key: object, epoch: object) -> None:
            shutil.rmtree(tmp_path / "work", ignore_errors=True)

    assert len(run(study, tmp_path, watcher=Remove()).runs) == 4


def test_fewer_seeds_are_refused(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path)
    with pytest.raises(ZeromeanError, match=r"seeds is 1, but out .* with 2 and has runs of 2"):
        run(with_seeds(study, 1), tmp_path)


def test_unfinished_study_gets_no_seeds(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, tmp_path, watcher=CutAtRun(), command="the first one")
    with pytest.raises(ZeromeanError, match=r"of which 3 run.* Finish it first: the first one"):
        run(with_seeds(study, 3), tmp_path)
    run(study, tmp_path)
    assert len(run(with_seeds(study, 3), tmp_path).runs) == 6


def test_more_seeds_of_a_tuned_study_leave_out_those_of_its_trials(
    study: Study, tmp_path: Path
) -> None:
    tuning = Tuning(rates=(0.1, 0.2), epochs=1, seeds=1, first_seed=1, extensions=0)
    tuned = replace(study, seeds=1, tuning=tuning)
    first = scores(run(tuned, tmp_path))
    grown = run(with_seeds(tuned, 2), tmp_path)
    assert {run.key.seed for run in grown.runs if run.key.trial == FINAL} == {0, 2}
    assert first.items() < scores(grown).items()
    assert len(grown.runs) == len(first) + 2  # no trial is repeated
    assert "2: 0, 2; a seed sets" in write_report(grown).read_text()
    with pytest.raises(ZeromeanError, match=r"seeds is 1, but out .* with 2 and has runs of 2"):
        run(tuned, tmp_path)


def test_other_study_is_refused_by_setting(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path)
    with pytest.raises(ZeromeanError, match=r"with other settings \(lr\)"):
        run(replace(study, lr=0.07), tmp_path)
    with pytest.raises(ZeromeanError, match=r"with other settings \(batch_size\)"):
        run(with_task(study, batch_size=4), tmp_path)
    with pytest.raises(ZeromeanError, match=r"with other settings \(weight_decay\)"):
        run(
            replace(study, optimizers=({"name": "sgd", "weight_decay": 0.1},)),  # type: ignore[arg-type]
            tmp_path,
        )


@pytest.mark.parametrize("owner", ["zeromean", "user"])
def test_another_note_replaces_the_first(study: Study, tmp_path: Path, owner: str) -> None:
    file = tmp_path / "study.toml"
    if owner == "user":
        file.write_text(f"# mine\n{to_toml(study)}")
    first = run(study, tmp_path, command="the first one")
    text = file.read_text()
    noted = replace(study, note="A note.")
    found = run(noted, tmp_path)
    assert (found.study, found.command) == (noted, "the first one")
    assert (found.runs, found.begun) == (first.runs, ())
    assert file.read_text() == (text if owner == "user" else to_toml(noted))


@pytest.mark.parametrize("content", ["seeds = '", "\xff"])
def test_broken_study_file_is_named_and_the_study_stays(
    study: Study, tmp_path: Path, content: str
) -> None:
    one = with_seeds(study, 1)
    first = run(one, tmp_path)
    file = tmp_path / "study.toml"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ZeromeanError, match=r"study\.toml'? (is not valid TOML|cannot be read)"):
        run(with_seeds(study, 2), tmp_path)
    assert results.read(tmp_path) == first
    file.unlink()
    assert run(with_seeds(study, 2), tmp_path).study.seeds == 2


def test_line_ends_and_forms_of_numbers_stay_valid(study: Study, tmp_path: Path) -> None:
    one = with_seeds(study, 1)
    file = tmp_path / "study.toml"
    text = "# mine\r\n" + to_toml(one).replace("seeds = 1", "seeds = 0x1").replace("\n", "\r\n")
    file.write_bytes(text.encode())
    run(one, tmp_path)
    run(with_seeds(one, 2), tmp_path)
    assert file.read_bytes() == text.replace("0x1", "2").encode()


def test_other_data_is_refused(study: Study, archive: Path, tmp_path: Path) -> None:
    from study_files import write_npz

    run(study, tmp_path / "out")
    write_npz(archive, seed=1)
    with pytest.raises(ZeromeanError, match="does not have the data that the study began with"):
        run(study, tmp_path / "out")


def test_removed_database_leaves_no_checkpoints_to_another_study(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="power cut"):
        run(study, out, watcher=PowerCut(1))
    own = out / "work" / "model.pt"
    own.touch()
    (out / results.DATABASE).unlink()
    (out / "study.toml").unlink()
    other = replace(study, lr=0.3)
    assert scores(run(other, out)) == scores(run(other, tmp_path / "fresh"))
    assert [*own.parent.iterdir()] == [own]
