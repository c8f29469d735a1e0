"""Fair tuning: the same budget for all methods, validation examples only, failures counted."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from study_helpers import PowerCut, records

from zeromean.study import ProgramTask, Study, Tuning, run
from zeromean.study.engine.search import Outcome, budget, choice, plan
from zeromean.study.engine.tensorboard import TensorBoard
from zeromean.study.engine.watcher import Watcher
from zeromean.study.spec.metric import ACCURACY, LOSS, Metric
from zeromean.study.spec.records import FINAL, Candidate, Epoch, Key, Run
from zeromean.study.tasks import training
from zeromean.study.tasks.problem import Problem


@pytest.fixture
def tuned(study: Study) -> Study:
    return replace(study, tuning=Tuning(rates=(1e-4, 0.1, 1e30), epochs=2))


def test_methods_get_equal_trials_and_their_best_rate(tuned: Study, tmp_path: Path) -> None:
    results = run(tuned, tmp_path)
    for method in tuned.method_labels:
        trials = [
            one for one in results.runs if one.key.method == method and one.key.trial != FINAL
        ]
        assert sorted((one.key.trial, one.key.seed, one.candidate.lr) for one in trials) == [
            (trial, seed, lr)
            for trial, lr in enumerate((1e-4, 0.1, 1e30))
            for seed in (1000, 1001)  # the comparison does not use them
        ]
        assert all(one.diverged == (one.key.trial == 2) for one in trials)
        assert all(len(one.epochs) == 2 or one.diverged for one in trials)
    assert {one.candidate.lr for one in results.comparisons[0].runs} == {0.1}
    assert len(results.comparisons[0].runs) == 4
    found = budget(tuned, {tuned.tasks[0].label: 6})
    assert "3 trials, a grid of learning rates 0.0001, 0.1, 1e+30, on each side up to 2" in found
    assert "2 seeds per trial" in found


def test_test_set_is_scored_once_per_final_run(
    tuned: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    original = training.evaluate

    def evaluate(problem: Problem, network: object, examples: object, *rest: object) -> object:
        if examples is problem.test:
            looks.append(1)
        return original(problem, network, examples, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "evaluate", evaluate)
    results = run(tuned, tmp_path)
    assert len(looks) == 4
    for one in results.runs:
        assert (one.test_score is None) == (one.key.trial != FINAL)


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_an_interrupted_search_ends_the_same(study: Study, tmp_path: Path, search: str) -> None:
    trials = 3 if search == "optuna" else None
    tuning = Tuning(rates=(0.01, 0.3), search=search, trials=trials, epochs=2, seeds=1)  # type: ignore[arg-type]
    tuned = replace(study, tuning=tuning, seeds=1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tuned, tmp_path / "cut", watcher=PowerCut(7))
    cut, whole = run(tuned, tmp_path / "cut"), run(tuned, tmp_path / "whole")
    assert records(cut) == records(whole)
    assert {one.key: one.candidate for one in cut.runs} == {
        one.key: one.candidate for one in whole.runs
    }


def test_grid_grows_in_a_study(study: Study, tmp_path: Path) -> None:
    tuning = Tuning(rates=(1e-6, 1e-5), epochs=3, seeds=1)
    results = run(replace(study, tuning=tuning, seeds=1), tmp_path)
    plain = [run for run in results.runs if run.key.method == "plain" and run.key.trial != FINAL]
    rates = {run.key.trial: round(math.log10(run.candidate.lr)) for run in plain}
    assert 2 < len(rates) <= 6
    assert (rates[0], rates[1]) == (-6, -5)


def grown(best: float, rates: tuple[float, ...], extensions: int = 2) -> list[float]:
    """Return the rates of a grid that has grown, of a score with one best rate."""
    tuning = Tuning(rates=rates, extensions=extensions)
    done: dict[int, Outcome] = {}
    while True:
        candidates, complete = plan(tuning, done, ACCURACY)
        if complete:
            return [one.lr for one in candidates]
        for trial, one in enumerate(candidates):
            done[trial] = Outcome(one, -abs(math.log(one.lr / best)))


def test_a_grid_grows_on_the_side_of_its_best_rate() -> None:
    assert grown(0.2, (0.1, 0.2, 0.4)) == [0.1, 0.2, 0.4]
    assert grown(0.4, (0.1, 0.2, 0.4)) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert grown(9.0, (0.1, 0.2, 0.4)) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert grown(1e-9, (0.4, 0.2, 0.1)) == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025])
    assert grown(9.0, (0.1, 0.2, 0.4), extensions=0) == [0.1, 0.2, 0.4]
    assert grown(9.0, (0.1,)) == [0.1]
    assert grown(1e39, (1e37, 1e38)) == [1e37, 1e38]  # the next is no float32


@given(
    best=st.floats(1e-6, 1e3),
    rates=st.lists(st.floats(1e-4, 10), min_size=2, max_size=5, unique=True),
    extensions=st.integers(0, 2),
)
def test_a_grid_grows_at_most_twice_per_side(
    best: float, rates: list[float], extensions: int
) -> None:
    found = grown(best, tuple(rates), extensions)
    assert found[: len(rates)] == rates
    below = sum(one < min(rates) for one in found)
    above = sum(one > max(rates) for one in found)
    assert len(found) == len(rates) + below + above
    assert max(below, above) <= extensions


def test_a_grid_tries_each_weight_decay_at_each_rate() -> None:
    tuning = Tuning(rates=(0.1, 0.2), weight_decays=(1e-3, 1e-2))
    candidates, complete = plan(tuning, {}, LOSS)
    assert (len(candidates), complete) == (4, False)
    done = {trial: Outcome(one, -one.lr) for trial, one in enumerate(candidates)}
    more, complete = plan(tuning, done, LOSS)
    assert [(one.lr, one.weight_decay) for one in more[4:]] == [(0.4, 1e-3), (0.4, 1e-2)]
    assert not complete


@pytest.mark.parametrize(("metric", "center"), [(ACCURACY, 1.0), (LOSS, -3.0)])
def test_optuna_learns_from_trials_and_failures(metric: Metric, center: float) -> None:
    tuning = Tuning(rates=(1e-4, 1.0), search="optuna", trials=30)
    done: dict[int, Outcome] = {}
    for trial in range(30):
        candidates, complete = plan(tuning, done, metric)
        assert not complete
        assert candidates == plan(tuning, done, metric)[0]
        assert len(candidates) == trial + 1
        one = candidates[-1]
        distance = abs(math.log10(one.lr) + 2)
        done[trial] = Outcome(one, None if one.lr > 0.1 else metric.gain(center - distance))
    late = [done[trial].candidate.lr for trial in range(15, 30)]
    assert sum(0.002 < lr < 0.05 for lr in late) > 7  # more than half in a third of the range
    assert 0.005 < choice(done.values(), metric).lr < 0.02
    assert plan(tuning, done, metric)[1]


def test_a_trial_waits_for_those_that_it_learns_from() -> None:
    tuning = Tuning(rates=(0.1, 1.0), search="optuna", trials=3)
    later = {1: Outcome(Candidate(0.2), 0.5)}
    assert len(plan(tuning, {}, ACCURACY)[0]) == len(plan(tuning, later, ACCURACY)[0]) == 1


def test_optuna_draws_a_weight_decay_for_each_trial() -> None:
    rates, decays = (0.1, 1.0), (1e-5, 1e-2)
    tuning = Tuning(rates=rates, weight_decays=decays, search="optuna", trials=2)
    ((first,), _) = plan(tuning, {}, ACCURACY)
    _, second = plan(tuning, {0: Outcome(first, 0.5)}, ACCURACY)[0]
    for one in (first, second):
        assert rates[0] <= one.lr <= rates[1]
        assert one.weight_decay is not None
        assert decays[0] <= one.weight_decay <= decays[1]
    assert first.weight_decay != second.weight_decay


def test_the_best_trial_is_the_one_with_the_best_score() -> None:
    low, high = Outcome(Candidate(0.1), 0.2), Outcome(Candidate(0.2), 0.9)
    failed = Outcome(Candidate(0.05), None)
    assert choice([failed, low, high], ACCURACY) == Candidate(0.2)
    assert choice([failed, low, high], LOSS) == Candidate(0.1)
    assert choice([failed, Outcome(Candidate(0.3), None)], LOSS) == Candidate(0.05)


def test_budget_shows_numbers_as_they_are_given(study: Study) -> None:
    one = replace(study, tuning=Tuning(rates=(0.1,), validation=0.125))
    found = budget(one, {study.tasks[0].label: 3})
    assert "optimizer: 1 trial, a grid" in found
    assert "on 12.5% of" in found
    program = ProgramTask(command=("train.py", "{width}"), metric="loss=NUMBER")
    values = {"width": (1048576, 0.5)}
    grid = Study(tasks=(program,), tuning=Tuning(values=values))  # type: ignore[arg-type]
    assert "a grid of width 1048576, 0.5, 2 seeds" in budget(grid, {})


@pytest.mark.parametrize(("epochs", "short"), [(8, True), (9, False)])
def test_budget_names_short_trials(study: Study, epochs: int, short: bool) -> None:
    schedule = {"kind": "multistep", "milestones": [4, 8]}
    task = replace(study.tasks[0], epochs=9, schedule=schedule)  # type: ignore[arg-type]
    tuned = replace(study, tasks=(task,), tuning=Tuning(rates=(0.1, 0.2), epochs=epochs))
    assert ("before all of the schedule acts" in budget(tuned, {task.label: 3})) == short


@pytest.mark.parametrize("task", ["digits/mlp", f"imagefolder:{'/äöü' * 100}/mlp"])
def test_each_seed_of_a_trial_has_its_own_log(tmp_path: Path, task: str) -> None:
    board = TensorBoard(tmp_path, Watcher())
    for seed in (5, 6):
        key = Key(task, "sgd", "gc", seed, trial=0)
        epoch = Epoch(1, {"loss": 0.5, "score": 0.5}, 1.0)
        board.on_epoch(key, epoch)
        board.on_run(Run(key, Candidate(0.1), (epoch,)))
    assert len(list(tmp_path.iterdir())) == 2


def test_logs_are_written_without_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    program = (
        "from pathlib import Path\n"
        "from zeromean.study.engine.tensorboard import TensorBoard\n"
        "from zeromean.study.engine.watcher import Watcher\n"
        "from zeromean.study.spec.records import Epoch, Key\n"
        "board = TensorBoard(Path('logs'), Watcher())\n"
        "board.on_epoch(Key('a', 'sgd', 'gc', 0), Epoch(1, {'loss': 0.5}, 1.0))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
