"""Study files: what they say is what is done, and an error points at its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zeromean.cli import app
from zeromean.errors import ZeromeanError
from zeromean.study import declare
from zeromean.study.study import Study
from zeromean.study.task import Task
from zeromean.study.tuning import Tuning

FILE = """\
# Two tasks.
methods = ["plain", "gc", "gc-update"]
optimizers = ["sgd", "adamw"]
seeds = 3
lr = 1

[[tasks]]
data = "digits"

[[tasks]]
data = "digits"
model = "mlp"
epochs = 4
"""
TUNED = """\

[tuning]
rates = [0.1, 1]
search = "optuna"
trials = 4
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_a_study_is(tmp_path: Path) -> None:
    assert declare.read(write(tmp_path, FILE)) == Study(
        tasks=(Task(), Task(model="mlp", epochs=4)),
        methods=("plain", "gc", "gc-update"),
        optimizers=("sgd", "adamw"),
        seeds=3,
        lr=1.0,
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    study = declare.read(write(tmp_path, FILE))
    assert declare.read(write(tmp_path, declare.as_toml(study))) == study
    assert declare.from_table(declare.as_table(study)) == study


def test_a_file_says_how_methods_are_tuned(tmp_path: Path) -> None:
    text = FILE.replace("lr = 1", "") + TUNED
    study = declare.read(write(tmp_path, text))
    assert study.tuning == Tuning(rates=(0.1, 1.0), search="optuna", trials=4)
    assert declare.read(write(tmp_path, declare.as_toml(study))) == study
    assert declare.from_table(declare.as_table(study)) == study
    for old, new, message in (
        ("trials = 4", "trials = 0", "line 18: trials = 0"),
        ("trials", "trial", "line 18: trial, which no tuning has"),
        ("rates = [0.1, 1]", "", "rates"),
        ("rates = [0.1, 1]", "rates = 3", "line 16: rates = 3; wanted a list, each a number"),
    ):
        with pytest.raises(ZeromeanError, match=message):
            declare.read(write(tmp_path, text.replace(old, new)))


def test_the_files_in_the_docs_can_be_read(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", docs, re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        declare.read(write(tmp_path, block))


def test_an_empty_file_is_the_usual_study(tmp_path: Path) -> None:
    assert declare.read(write(tmp_path, "")) == Study()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 3", "seeds = ", "(at line 4, column 9)"),
        ("seeds = 3", "seed = 3", "line 4: seed, which no study has"),
        ("seeds = 3", 'seeds = "three"', "line 4: seeds = 'three'; wanted a whole number"),
        ("seeds = 3", "seeds = true", "line 4: seeds = True; wanted a whole number"),
        ("seeds = 3", "seeds = 0", "line 4: seeds = 0; wanted 1 or more"),
        ("lr = 1", "lr = -1.0", "line 5: lr = -1.0; wanted a positive float32"),
        ('"sgd", "adamw"', '"sgd", "sgd"', "line 3: optimizers sgd with sgd repeated"),
        ('"sgd", "adamw"', '"sgd", 3', "line 3: optimizers = ['sgd', 3]; wanted a list, each a"),
        ('"gc-update"', '"gcc"', "line 2: method 'gcc'"),
        ("epochs = 4", "epochs = 0", "line 13: epochs = 0"),
        ("epochs = 4", "epoch = 4", "line 13: epoch, which no task has"),
        ('model = "mlp"', 'model = "vgg"', "line 12: model 'vgg'; wanted mlp"),
        ('model = "mlp"\n', "", "study.toml: tasks"),
        ("[[tasks]]", "[tasks]", "TOML"),
    ],
)
def test_an_error_points_at_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ZeromeanError) as error:
        declare.read(write(tmp_path, FILE.replace(old, new)))
    assert str(tmp_path / "study.toml") in str(error.value)
    assert message in str(error.value)


def test_tasks_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZeromeanError, match=r"line 2: tasks = 3; wanted tables"):
        declare.read(write(tmp_path, "seeds = 2\ntasks = 3\n"))


def test_the_command_runs_a_file_and_reports_again(archive: Path, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"seeds = 2\n[[tasks]]\ndata = 'npz:{archive}'\nmodel = 'mlp'\nepochs = 2\nbatch_size = 8",
    )
    first = CliRunner().invoke(app, ["study", str(path)])
    assert (first.exit_code, first.stderr) == (0, "")
    out = tmp_path / "study"
    (out / "report.html").unlink()
    again = CliRunner().invoke(app, ["report", str(out), "--csv", "--markdown", "--gain", "0.01"])
    assert again.exit_code == 0
    assert "Seeds to see 1.00 points" in again.stdout
    assert (out / "report.html").is_file()
    text = (out / "report.md").read_text()
    assert "| Diverged runs | 0 of 2 | 0 of 2 |" in text
    assert f"zeromean compare --data npz:{archive} --model mlp" in text
    runs = (out / "runs.csv").read_text().splitlines()
    assert len(runs) == 1 + 4
    assert runs[0].startswith("task,optimizer,method,seed,trial,learning_rate")
    assert len((out / "epochs.csv").read_text().splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["study", "nowhere.toml"], "nowhere.toml, which cannot be read"),
        (["report", "nowhere"], "study.sqlite, which does not exist"),
    ],
)
def test_bad_input_ends_with_one_line(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_a_file_keeps_any_character(tmp_path: Path) -> None:
    study = Study(tasks=(Task(data='npz:\N{SNOWMAN}\N{GRINNING FACE}\x7f\n\\"', model="mlp"),))
    file = tmp_path / "study.toml"
    file.write_text(declare.as_toml(study), encoding="utf-8")
    assert declare.read(file) == study


def test_an_error_in_an_inline_table_points_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text("seeds = 2\ntasks = [{epoch = 3}]\n")
    with pytest.raises(ZeromeanError, match="line 2: epoch"):
        declare.read(file)
