"""Programs in a study: pairs of runs, failures, seeds, tuning, and the same numbers as inside."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from fast_programs import run_here
from zeromean.errors import ZeromeanError
from zeromean.study import ImageTask, Method, ProgramTask, Study, Tuning, run, write_report
from zeromean.study.engine import results
from zeromean.study.report.summary import summarize
from zeromean.study.spec.records import RunStatus

pytestmark = pytest.mark.usefixtures("without_compiler")

PROGRAM = """
import sys
import torch
seed, lr = int(sys.argv[1]), float(sys.argv[2])
if seed >= 0:
    torch.manual_seed(seed)
model = torch.nn.Linear(6, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=lr)
for step in range(3):
    x = torch.randn(16, 6) + 1
    loss = (model(x) - x[:, :2]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.9f}")
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def program(tmp_path: Path):
    def write(lines: str = PROGRAM) -> str:
        path = tmp_path / "train.py"
        path.write_text(lines)
        return str(path)

    return write


def task(path: str, *words: str, **options: object) -> ProgramTask:
    command = (sys.executable, path, *words)
    return ProgramTask(command=command, metric="loss=loss NUMBER", **options)  # type: ignore[arg-type]


def test_pairs_start_equal_and_the_study_grows(program, tmp_path: Path) -> None:
    spec = task(program(), "{seed}", "0.1")
    found = run(Study(tasks=(spec,), seeds=1), tmp_path / "out")
    runs = {one.key.method: one for one in found.runs}
    assert len(runs["plain"].epochs) == 3
    assert runs["plain"].epochs[0].score == runs["gc"].epochs[0].score  # before the first step
    assert runs["plain"].test_score != runs["gc"].test_score
    assert runs["plain"].test_score == runs["plain"].epochs[-1].score
    more = run(Study(tasks=(spec,), seeds=2), tmp_path / "out")
    assert [one for one in more.runs if one.key.seed == 0] == list(found.runs)
    scores = {one.test_score for one in more.runs}
    assert len(scores) == 4
    assert not more.comparisons[0].notes
    program(PROGRAM + "\n# changed")
    with pytest.raises(ZeromeanError, match="does not have the data"):
        run(Study(tasks=(spec,), seeds=3), tmp_path / "out")


FAILING = (
    PROGRAM
    + """
import os
if os.environ["ZEROMEAN_RUN"].find('"gc"') > 0 or WHEN:
    print("out of cheese")
    sys.exit(5)
"""
)


def test_failed_run_counts_for_its_method(program, tmp_path: Path) -> None:
    spec = task(program(FAILING.replace("WHEN", "False")), "{seed}", "0.1")
    found = run(Study(tasks=(spec,), seeds=1), tmp_path / "out")
    plain, gc = sorted(found.runs, key=lambda one: one.key.method != "plain")
    assert plain.status is RunStatus.FINISHED
    assert gc.status is RunStatus.FAILED
    assert gc.failure is not None
    assert "exit code 5" in gc.failure
    assert "out of cheese" in gc.failure


def test_study_stops_if_the_first_seed_fails_with_every_method(program, tmp_path: Path) -> None:
    spec = task(program(FAILING.replace("WHEN", "True")), "{seed}", "0.1")
    with pytest.raises(ZeromeanError, match=r"fails with every method: .*out of cheese"):
        run(Study(tasks=(spec,), seeds=3), tmp_path / "out")


def test_failed_runs_are_repeated_by_the_same_command(program, tmp_path: Path) -> None:
    room = tmp_path / "room"
    lines = f"import os\nif not os.path.exists({str(room)!r}):\n    raise SystemExit(5)\n{PROGRAM}"
    study = Study(tasks=(task(program(lines), "{seed}", "0.1"),), seeds=1)
    for _ in range(2):
        with pytest.raises(ZeromeanError, match="fails with every method"):
            run(study, tmp_path / "out")
    room.touch()
    found = run(study, tmp_path / "out")
    assert [one.status for one in found.runs] == [RunStatus.FINISHED] * 2


REFUSED = PROGRAM.replace("torch.optim.SGD(model.parameters(), lr=lr)", "Mine()").replace(
    "optimizer =",
    """class Mine(torch.optim.Optimizer):
    def __init__(self):
        super().__init__(model.parameters(), {"weight_decay": 0.1})

    def step(self):
        pass


optimizer =""",
    1,
)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("print('loss 1')", "no optimizer was reached: no Python process imported torch"),
        (REFUSED, r"--weight-decay coupled or --weight-decay decoupled.*--skip-refused"),
    ],
)
def test_program_that_cannot_be_centralized_stops_the_study(
    program, tmp_path: Path, lines: str, message: str
) -> None:
    spec = task(program(lines), "{seed}", "0.1")
    with pytest.raises(ZeromeanError, match=message):
        run(Study(tasks=(spec,), seeds=3), tmp_path / "out")
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1  # the first run shows it


def test_seed_from_outside_and_shifted_seeds(program, tmp_path: Path) -> None:
    outside = run(Study(tasks=(task(program(), "-1", "0.1"),), seeds=1), tmp_path / "a")
    first = run_here(program(), "0", "0.1").splitlines()[0]
    assert {f"loss {one.epochs[0].score:.9f}" for one in outside.runs} == {first}
    fixed = run(Study(tasks=(task(program(), "7", "0.1"),), seeds=2), tmp_path / "b")
    assert len({one.epochs[0].score for one in fixed.runs}) == 1
    (note,) = fixed.comparisons[0].notes
    assert "the program sets its own seed" in note
    assert len(summarize(fixed)[0][1].final.difference.differences) == 1
    spec = task(program(), "7", "0.1", shift_seeds=True)
    shifted = run(Study(tasks=(spec,), seeds=2), tmp_path / "c")
    assert len({one.epochs[0].score for one in shifted.runs}) == 2
    assert not shifted.comparisons[0].notes


@pytest.mark.slow
def test_tuning_gives_every_method_its_own_value(program, tmp_path: Path) -> None:
    spec = task(program(), "{seed}", "{lr}")
    tuning = Tuning(values={"lr": (1e-6, 0.1)}, seeds=1)
    found = run(Study(tasks=(spec,), seeds=1, tuning=tuning), tmp_path / "out")
    finals = [one for one in found.runs if one.key.trial < 0]
    assert [dict(one.candidate.values) for one in finals] == [{"lr": 0.1}, {"lr": 0.1}]
    assert len(found.runs) == 6
    assert {one.key.seed for one in found.runs if one.key.trial >= 0} == {tuning.first_seed}


WITH_LOG = f"""{PROGRAM}
    with open(sys.argv[3] + "/log.jsonl", "a") as file:
        file.write('{{"step": %d}}\\n' % step if step else "")
"""


def test_other_metrics_are_recorded_at_the_last_points(program, tmp_path: Path) -> None:
    others = ("step=jsonl:log.jsonl:step",)
    spec = task(program(WITH_LOG), "{seed}", "0.1", "{out}", other_metrics=others)
    found = run(Study(tasks=(spec,), seeds=1), tmp_path / "out")
    for one in found.runs:
        assert [epoch.metrics.get("step") for epoch in one.epochs] == [None, 1, 2]


@pytest.mark.slow
def test_missing_other_metric_is_a_failure(program, tmp_path: Path) -> None:
    others = ("top5=jsonl:log.jsonl:top5",)
    spec = task(program(WITH_LOG), "{seed}", "0.1", "{out}", other_metrics=others)
    with pytest.raises(ZeromeanError, match="it reported no top5"):
        run(Study(tasks=(spec,), seeds=1), tmp_path / "out")


@pytest.mark.parametrize(
    ("others", "line"),
    [
        (("top5=top5 NUMBER",), "top5 is read from the output, which only the metric can be"),
        (("loss=jsonl:{out}.jsonl:loss",), "loss appears 2 times in other_metrics"),
        (("score=jsonl:a.jsonl:s",), "score is a name under which runs record something else"),
        (("seconds=jsonl:a.jsonl:s",), "seconds is a name under which runs record something else"),
        (("taken_over=jsonl:a.jsonl:s",), "taken_over is a name under which runs record"),
        (("top5=jsonl:a.jsonl:top5",), "but the command has no {out}"),
    ],
)
def test_other_metrics_that_cannot_be_read_are_refused(others: tuple[str, ...], line: str) -> None:
    with pytest.raises(ZeromeanError, match=re.escape(line)):
        task("train.py", other_metrics=others)


@pytest.mark.slow
def test_tuning_by_a_metric_of_the_other_direction(program, tmp_path: Path) -> None:
    lines = f"{PROGRAM}    print(f'accuracy {{-loss.item()}}')\n"
    spec = task(program(lines), "{seed}", "{lr}", tune_metric="accuracy=accuracy NUMBER")
    tuning = Tuning(values={"lr": (1e-6, 0.1)}, seeds=1)
    found = run(Study(tasks=(spec,), seeds=1, tuning=tuning), tmp_path / "out")
    finals = [one for one in found.runs if one.key.trial < 0]
    assert [dict(one.candidate.values) for one in finals] == [{"lr": 0.1}, {"lr": 0.1}]
    write_report(found)


@pytest.mark.slow
def test_variant_alone_and_with_a_method(program, tmp_path: Path) -> None:
    lines = PROGRAM.replace("range(3)", "range(1 + len(sys.argv))")
    methods = (
        Method("plain"),
        Method("long", arguments=("--long",)),
        Method("gc@long", gradient="gc", arguments=("--long",)),
    )
    spec = task(program(lines), "{seed}", "0.1")
    found = run(Study(tasks=(spec,), methods=methods, seeds=1), tmp_path / "out")
    assert [len(one.epochs) for one in found.runs] == [4, 5, 5]


@pytest.mark.slow
def test_jobs_and_devices(program, tmp_path: Path) -> None:
    lines = (
        PROGRAM
        + "import os; open(sys.argv[3] + '/device', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    spec = task(program(lines), "{seed}", "0.1", "{out}", devices=("0", "1"))
    run(Study(tasks=(spec,), seeds=2), tmp_path / "out", jobs=2)
    devices = [path.read_text() for path in (tmp_path / "out" / "runs").glob("*/out/device")]
    assert len(devices) == 4
    assert set(devices) <= {"0", "1"}


@pytest.mark.slow
def test_runs_with_folders_of_their_own(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "counter").write_text("")
    lines = PROGRAM + (
        "text = open('counter').read() + 'x'\n"
        "open('counter', 'w').write(text)\n"
        "open('last.csv', 'w').write(f'loss\\n{len(text)}\\n')\n"
    )
    (folder / "train.py").write_text(lines)
    monkeypatch.chdir(folder)
    spec = ProgramTask(
        command=("train.py", "{seed}", "0.1"), metric="loss=csv:last.csv:loss", own_folder=True
    )
    found = run(Study(tasks=(spec,), seeds=1), folder / "out")
    assert [one.test_score for one in found.runs] == [1, 1]
    assert (folder / "counter").read_text() == ""


def test_copied_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links lead to where they led, an old metric file is not the run's, and ``{out}`` is read."""
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").write_text("5")
    (folder / "data").symlink_to("../data")
    (folder / "old.csv").write_text("loss\n1\n")
    (folder / "train.py").write_text(
        PROGRAM
        + "open(sys.argv[3] + '/new.csv', 'w').write('loss\\n' + open('data/images').read())"
    )
    (folder / "runs").mkdir()
    (tmp_path / "link").symlink_to(folder / "runs")  # the folder of the study is not copied
    monkeypatch.chdir(folder)
    command = ("train.py", "{seed}", "0.1", "{out}")
    task = ProgramTask(command=command, metric="loss=csv:new.csv:loss", own_folder=True)
    found = run(Study(tasks=(task,), seeds=1), tmp_path / "link" / "new")
    assert [one.test_score for one in found.runs] == [5, 5]
    task = replace(task, metric="loss=csv:old.csv:loss")
    with pytest.raises(ZeromeanError, match=r"the program wrote no file old\.csv"):
        run(Study(tasks=(task,), seeds=1), tmp_path / "old")


BUILT_IN = """
import sys
from pathlib import Path
from zeromean.centralization.centralize import handle_of
from zeromean.study import Study
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.spec.toml import read
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.load import load_problem
from zeromean.study.tasks.training import Training, TrainingTask

study, seed = read(Path(sys.argv[1])), int(sys.argv[2])
(spec,), (optimizer,) = study.tasks, study.optimizers
key = Key(spec.label, optimizer.label, "plain", seed)
job = Job(key, Candidate(optimizer.rate(spec.model)), study.method("plain"), optimizer, spec.epochs)
training = Training(TrainingTask(study, spec, load_problem(study, spec)), job)
handle_of(training.optimizer).remove()  # a program has torch's optimizer
while not training.ended:
    print("accuracy", repr(training.advance().score))
"""


def test_program_gives_the_numbers_of_the_built_in_task(program, tmp_path: Path) -> None:
    built_in = Study(tasks=(ImageTask(model="mlp", epochs=2, train_size=200),), seeds=1, threads=1)
    inside = run(built_in, tmp_path / "inside")
    spec = ProgramTask(
        command=(sys.executable, program(BUILT_IN), str(tmp_path / "inside/study.toml"), "{seed}"),
        metric="accuracy=accuracy NUMBER",
    )
    outside = run(Study(tasks=(spec,), seeds=1, threads=1), tmp_path / "outside")
    inner = {one.key[2:]: one for one in inside.runs}
    assert {one.key[2:] for one in outside.runs} == inner.keys()
    for mine in outside.runs:
        other = inner[mine.key[2:]]
        curve = [epoch.score for epoch in other.epochs]
        assert [epoch.score for epoch in mine.epochs] == pytest.approx(curve, abs=1e-6)
        assert mine.test_score == pytest.approx(other.test_score, abs=1e-6)
    ((_, mine_gc),), ((_, other_gc),) = summarize(outside), summarize(inside)
    assert mine_gc.final.difference is not None
    assert other_gc.final.difference is not None
    mean = other_gc.final.difference.mean
    assert mine_gc.final.difference.mean == pytest.approx(mean, abs=1e-6)
    assert results.read(tmp_path / "outside").runs == outside.runs
    assert all(math.isnan(one.candidate.lr) for one in outside.runs)
