"""``zeromean compare ... -- COMMAND``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fast_programs import INTERRUPTIBLE
from programs import environment
from zeromean.cli.main import app
from zeromean.study import ProgramTask, Study
from zeromean.study.engine import results
from zeromean.study.engine.store import Store

pytestmark = pytest.mark.usefixtures("without_compiler")

PROGRAM = """
import sys
import torch
torch.manual_seed(int(sys.argv[1]))
model = torch.nn.Linear(6, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(16, 6) + 1
    loss = (model(x) - x[:, :2]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.6f}", flush=True)
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "train_digits.py"
METRIC = ("--metric", "loss=loss NUMBER")


@pytest.fixture
def program(tmp_path: Path):
    def write(lines: str = PROGRAM) -> str:
        path = tmp_path / "train.py"
        path.write_text(lines)
        return str(path)

    return write


def compare(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *words])
    return done.exit_code, done.output + (done.stderr or "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "true"], "a program needs --metric"),
        (METRIC, "--metric is not an option of a built-in task"),
        (["--dry-run"], "--dry-run is not an option of a built-in task"),
        (["--lower"], "--lower is not an option of a built-in task"),
        (["--higher"], "--higher is not an option of a built-in task"),
        ([*METRIC, "--lr", "0.1", "--", "true"], "--lr is not an option of a program"),
        ([*METRIC, "--model", "cnn", "--", "true"], "--model is not an option of a program"),
        ([*METRIC, "true", "{seed}"], "without a -- before it"),
        ([*METRIC, "--methods", "plain,ws", "--", "true"], "cannot be applied to a program"),
        ([*METRIC, "--methods", "plain,gc@x", "--", "true"], "there is no variant 'x'"),
        (
            [*METRIC, "--methods", "plain,ws@x", "--variant", "x=a", "--", "true"],
            "the method ws@x cannot be applied to a program",
        ),
        ([*METRIC, "--variant", "x", "--", "true"], "not of the form NAME=WORDS"),
        ([*METRIC, "--variant", "x='a", "--", "true"], "has an open quotation"),
        ([*METRIC, "--variant", "gc=--gc", "--", "true"], "--variant gc has the name of a method"),
        (
            [*METRIC, "--variant", "x=a", "--variant", "x=b", "--", "true"],
            "--variant x is given twice",
        ),
        (
            [*METRIC, "--methods", "plain,gc", "--variant", "x=a", "--", "true"],
            "--variant x is in none of the methods plain,gc. Add x or METHOD@x to --methods",
        ),
        (
            [*METRIC, "--grid", "lr=1", "--grid", "lr=2", "--", "true", "{lr}"],
            "--grid lr is given twice",
        ),
        ([*METRIC, "--devices", "0,,1", "--", "true"], "devices has an empty entry"),
        ([*METRIC, "--grid", "lr=a", "--", "true", "{lr}"], "not of the form NAME=NUMBER,NUMBER"),
        ([*METRIC, "--grid", "lr=1", "--", "true"], "no command contains {lr}"),
        ([*METRIC, "--grid", "seed=1,2", "--", "true", "{seed}"], "zeromean's own"),
        ([*METRIC, "--jobs", "2", "--", "true"], "would write to the same folder"),
        ([*METRIC, "--timeout", "0", "--", "true"], "timeout is 0"),
        ([*METRIC, "--", "no-such-command"], "there is no command no-such-command"),
        (["--metric", "loss=loss", "--", "true"], "has no groups"),
        (["--metric", "speed=NUMBER", "--", "true"], "Pass --higher or --lower"),
        ([*METRIC, "--", "true"], "no optimizer was reached"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = compare(*words)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_program_form_has_its_own_panel() -> None:
    from zeromean.cli import compare_program

    output = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "120"}).output
    panel = output[output.index(compare_program.PANEL) :]
    for option in compare_program.OPTIONS:
        assert f"--{option.replace('_', '-')}" in panel


def test_options_of_the_program_form_reach_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies: list[Study] = []
    monkeypatch.setattr("zeromean.cli.compare.run_study", lambda study, *_: studies.append(study))
    code, output = compare(
        "--metric", "speed=NUMBER", "--higher", "--best", "--tune-metric", "loss=x NUMBER",
        "--timeout", "5", "--shift-seeds", "--own-folder", "--devices", "0,1", "--weight-decay",
        "coupled", "--skip-refused", "--grid", "lr=1,2", "--variant", "warm=--warmup 5", "--",
        "true", "{lr}",
    )  # fmt: skip
    assert (code, output) == (0, "")
    (study,) = studies
    assert study.tasks == (
        ProgramTask(
            command=("true", "{lr}"), metric="speed=NUMBER", higher=True, best=True,
            tune_metric="loss=x NUMBER", timeout=5, shift_seeds=True, own_folder=True,
            devices=("0", "1"), weight_decay="coupled", skip_refused=True,
        ),
    )  # fmt: skip
    assert [method.label for method in study.methods] == ["plain", "warm"]


def test_dry_run_of_the_example_shows_matches_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = compare(
        "--metric", "accuracy=test accuracy NUMBER", "--dry-run", "--timeout", "250", "--",
        sys.executable, str(EXAMPLE), "--seed", "{seed}", "--epochs", "2",
    )  # fmt: skip
    assert code == 0
    assert output.count("epoch ") == 2
    assert "2 values of accuracy (higher is better): first 0." in output
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ("print('los 1')", 2, "train.py fails: it reported no loss"),
        ("raise SystemExit('no data')", 2, "train.py fails: it ended with exit code 1; no data"),
        (
            "print('loss 1'); raise SystemExit('full')", 0,
            "train.py: it ended with exit code 1; loss 1 / full",
        ),
    ],
)  # fmt: skip
def test_dry_run_says_how_the_program_failed(
    program, monkeypatch: pytest.MonkeyPatch, lines: str, code: int, message: str
) -> None:
    monkeypatch.setattr("zeromean.study.tasks.program._check_record", lambda *_: None)
    found, output = compare(*METRIC, "--dry-run", "--", sys.executable, program(lines))
    assert found == code
    assert message in output
    assert ("Correct the command or the metric, or raise --timeout." in output) == bool(code)


def test_comparison_ends_with_a_table_and_a_report(program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--seeds", "1", "--out", str(out), "--", sys.executable, program(), "{seed}"]
    done = CliRunner().invoke(app, ["compare", *METRIC, *words])
    assert done.exit_code == 0, done.output
    assert "Final loss" in done.stdout
    assert "nan" not in done.stdout
    # Three reports of the program are no epochs.
    assert "Loss at point 1" in done.stdout
    assert "Seconds per point" in done.stdout
    assert "epoch" not in done.stdout.lower()
    (step,) = [line for line in done.stdout.splitlines() if line.startswith("  step")]
    assert "torch's" in step
    assert "taken over" in step or "two passes" in step
    assert (out / "report.html").exists()
    page = (out / "report.html").read_text()
    assert "train.py" in page
    assert "epoch" not in page.lower()
    again = CliRunner().invoke(app, ["study", str(out / "study.toml"), "--out", str(out)])
    assert (again.exit_code, again.stdout) == (0, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ended_comparison_keeps_finished_runs(program, tmp_path: Path, how: int) -> None:
    slow = PROGRAM + "import time\ntime.sleep(WAIT)\n"
    path, out = program(slow.replace("WAIT", "0 if sys.argv[1] == '0' else 600")), tmp_path / "out"
    words = ["--seeds", "2", "--out", str(out), "--", sys.executable, path, "{seed}"]
    process = subprocess.Popen(
        [*INTERRUPTIBLE, "compare", *METRIC, *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pids: list[int] = []
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not pids:
        time.sleep(0.5)
        pids = running(path)
        if (out / results.DATABASE).exists():
            with Store(out / results.DATABASE) as store:
                pids = pids if len(store.keys()) == 2 else []
        else:
            pids = []
    assert pids
    time.sleep(5)
    os.kill(process.pid, how)
    process.wait(60)
    while time.monotonic() < deadline and running(path):
        time.sleep(0.2)
    assert not running(path)
    with Store(out / results.DATABASE) as store:
        kept = store.runs()
        assert {(one.key.method, one.key.seed) for one in kept} == {("plain", 0), ("gc", 0)}


def running(path: str) -> list[int]:
    """The processes that run a program."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if path.encode() in words[:3] and b"compare" not in words:
            found.append(int(folder.name))
    return found
