"""The list of studies, and the table and forest plot of their results."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zeromean.cli.output import BAD_INPUT, INTERRUPTED
from zeromean.recipes.cost import Speed
from zeromean.study.engine import checkpoint, results
from zeromean.study.engine.watcher import Watcher
from zeromean.study.report.table import MISSING
from zeromean.study.spec.metric import MINUS
from zeromean.study.spec.records import Epoch, Key
from zeromean.study.spec.toml import read_table

STUDIES = Path(__file__).parents[2] / "studies"
TINY = """
seeds = 2
[[tasks]]
data = "digits"
model = "mlp"
epochs = 2
train_size = 100
"""


class Interrupt(Watcher):
    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        raise KeyboardInterrupt


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"studies_{name}", STUDIES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def studies() -> ModuleType:
    return script("run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "2-tiny.toml").write_text(TINY)
    return tmp_path


def start(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    """Run a script as a command, and return its exit code."""
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *map(str, options)])
    monkeypatch.chdir(Path.cwd())  # restored after the test
    try:
        module.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def scores(out: Path) -> dict[Key, float | None]:
    return {run.key: run.test_score for run in results.read(out).runs}


def test_study_files_are_valid(studies: ModuleType) -> None:
    for name, study, _ in studies.entries(STUDIES):
        assert study.tuning is not None, name
        assert (study.tuning.seeds, study.threads) == (2, 1), name
        assert len(study.tuning.rates) <= 5, name
        for task in study.tasks:
            assert study.tuning.epochs in (None, task.epochs // 3), name


def test_interrupted_list_continues(
    studies: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "1-absent.toml").write_text(
        f'note = "Data: abc"{TINY.replace("digits", "npz:absent.npz")}'
    )
    options = ("--folder", folder, "--data", tmp_path, "--pause", tmp_path / "PAUSE")
    seen: list[Epoch] = []

    def cut(self: Any, key: Key, epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(studies.LiveProgress, "on_epoch", cut)
        assert start(studies, patch, *options) == INTERRUPTED
    assert start(studies, monkeypatch, *options) == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"1-absent is left out: npz:absent\.npz is not a file\. Check .* Data: abc", printed
    )
    assert re.search(r"2-tiny is finished: .*\n1-absent: 4 runs left, not timed\n", printed)
    (folder / "1-absent.toml").unlink()
    assert start(studies, monkeypatch, *options) == 0
    assert capsys.readouterr().out == "Left: 0.0 hours of training.\n"

    out = folder / "results" / "2-tiny"
    whole = folder / "whole"
    studies.run(studies.read(folder / "2-tiny.toml"), whole)
    assert scores(out) == scores(whole)
    assert (out / "report.html").exists()


def test_study_with_damaged_results_is_left_out(
    studies: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "1-damaged.toml").write_text(TINY)
    damaged = folder / "results" / "1-damaged" / "study.sqlite"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no database")
    assert start(studies, monkeypatch, "--folder", folder, "--data", tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("1-damaged is left out: ")
    assert "2-tiny is finished: " in printed
    assert damaged.read_text() == "no database"


def test_study_of_programs_is_left_out(
    studies: ModuleType,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = '[[tasks]]\ncommand = ["train.py"]\nmetric = "loss=NUMBER"\n'
    (folder / "3-program.toml").write_text(program)
    assert start(studies, monkeypatch, "--folder", folder, "--left") == 0
    assert "3-program is left out: run it with zeromean study" in capsys.readouterr().out


def test_training_waits_while_the_pause_file_exists(
    studies: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = tmp_path / "PAUSE"
    pause.touch()
    stored = []

    def sleep(seconds: float) -> None:
        out = folder / "results" / "2-tiny"
        stored.append(len(results.missing_runs(studies.entries(folder)[0].study, out)))
        pause.unlink()

    def pause_after_first_epoch(self: Any, key: Key, epoch: Epoch) -> None:
        if len(stored) == 1:
            pause.touch()

    monkeypatch.setattr(studies.time, "sleep", sleep)
    monkeypatch.setattr(studies.LiveProgress, "on_epoch", pause_after_first_epoch)
    assert studies.run_all(studies.entries(folder), pause, {})
    assert stored == [4, 4]  # before the study, and after its first epoch


def test_hours_left_follow_from_the_seconds_of_an_epoch(
    studies: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "1-absent.toml").write_text(TINY.replace("digits", "npz:absent.npz"))
    (folder / "3-larger.toml").write_text(TINY.replace("100", "200"))
    every = studies.entries(folder)
    monkeypatch.setattr(studies, "measure", lambda *_: Speed(step=225.0, example=1.0))
    assert [*studies.left(every, {})] == [
        "1-absent: 4 runs left, not timed",
        "2-tiny: 4 runs left, 0.5 hours",  # 8 epochs of 1 step
        "3-larger: 4 runs left, 1.5 hours",  # 8 epochs of 3 steps
        "Left: at least 2.0 hours of training.",
    ]
    loads = [studies.load_of(one.study, one.study.tasks[0]) for one in every]
    monkeypatch.setattr(studies, "stored_seconds", lambda _: dict.fromkeys(loads[1:], 1800.0))
    assert [*studies.left(every[1:], {loads[1]: 1.0})] == [
        "2-tiny: 4 runs left, 4.0 hours",
        "3-larger: 4 runs left, 4.0 hours",
        "Left: 8.0 hours of training.",
    ]
    *_, line = studies.left(every[1:], {}, jobs=2)
    assert line == "Left: 4.0 hours of training."


def test_several_jobs_train_the_same_and_wait_too(
    studies: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "2-tiny.toml").write_text(TINY.replace("epochs = 2", "epochs = 4"))
    ((_, study, out),) = studies.entries(folder)
    pause, wait = tmp_path / "PAUSE", studies.time.sleep
    trained: list[int] = []

    def pause_after_first_epoch(self: Any, key: Key, epoch: Epoch) -> None:
        if not trained:
            pause.touch()

    def sleep(seconds: float) -> None:
        wait(3)  # long enough to train all
        trained.append(sum(checkpoint.load(file).turns for file in out.rglob("*.pt")))
        pause.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(studies.time, "sleep", sleep)
        patch.setattr(studies.LiveProgress, "on_epoch", pause_after_first_epoch)
        assert start(studies, patch, "--folder", folder, "--pause", pause, "--jobs", 2) == 0
    # One epoch was reported, the next one waits to be, and each process may have made another.
    assert 1 <= trained[0] <= 4
    whole = folder / "whole"
    studies.run(study, whole)
    assert scores(out) == scores(whole)
    assert start(studies, monkeypatch, "--folder", folder, "--jobs", 0) == BAD_INPUT


def test_recorded_numbers_are_those_of_their_pages() -> None:
    pages = STUDIES.parent / "docs" / "results"
    for one in read_table(STUDIES / "results" / "comparisons.toml")["recorded"]:
        text = (pages / one["page"]).read_text()
        for method in one["methods"]:
            p = [method["p"]] if "p" in method and not method["p"].startswith(">") else []
            for number in (method["difference"], *method.get("interval", ()), *p):
                assert number in text, (one["task"], method)


def test_index_shows_finished_recorded_and_unfinished_studies(
    studies: ModuleType,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = script("index")
    (study,) = studies.entries(folder)
    found = studies.run(study.study, study.out)
    (folder / "results" / "comparisons.toml").write_text("")
    page = folder / "index.md"
    options = ("--studies", folder, "--pages", folder)
    page.write_text("# Results\n")
    assert start(index, monkeypatch, *options) == 2
    assert "no table [[studies]] with name = '2-tiny'" in capsys.readouterr().err

    (folder / "results" / "comparisons.toml").write_text(
        f"""
        [[studies]]
        name = "4-begun"
        pictures = ["begun"]

        [[studies]]
        name = "2-tiny"
        page = "digits.md"
        tasks = ["Digits"]
        pictures = ["digits"]

        [[recorded]]
        task = "Faces"
        optimizer = "AdamW"
        metric = "error"
        page = "faces.md"
        seeds = 8
        methods = [
            {{ name = "gc", difference = "{MINUS}9.5", interval = ["{MINUS}10", "1"], p = "0.03" }},
            {{ name = "ws", difference = "+1.00", p = "> 0.05" }},
        ]
        """
    )
    assert start(index, monkeypatch, *options) == 2
    assert "index.md has no line" in capsys.readouterr().err

    page.write_text(f"# Results\n{index.MARK}old")
    (folder / "results" / "4-begun").mkdir()
    begun = studies.read(folder / "2-tiny.toml")
    with pytest.raises(KeyboardInterrupt):
        studies.run(begun, folder / "results" / "4-begun", watcher=Interrupt())
    assert start(index, monkeypatch, *options) == 0
    text = page.read_text()
    difference = found.comparisons[0].metric.difference(
        index.sections(found)[0].summaries[1].final.difference.mean
    )
    assert "old" not in text
    _, digits, faces = text.split("\n### ")
    assert digits.startswith(
        "[Digits](digits.md), sgd\n\n| Method | Seeds | Difference in accuracy, points |"
    )
    assert f"| gc | 2 | {difference} | {MISSING} | " in digits
    assert "| too few seeds |" in digits
    assert faces.startswith("[Faces](faces.md), AdamW\n")
    assert f"| gc | 8 | +9.50 | {MINUS}1.00 to +10.00 | 0.03 | **helped** |" in faces
    assert f"| ws | 8 | {MINUS}1.00 | {MISSING} | > 0.05 | no difference shown |" in faces
    assert "| 4-begun | 0 | 4 |" in text
    picture = (folder / "forest.svg").read_text()
    assert all(words in picture for words in ("Digits, sgd", "Faces, AdamW"))
    assert {file.name for file in folder.glob("*.png")} == {"digits.png", "digits-training.png"}
