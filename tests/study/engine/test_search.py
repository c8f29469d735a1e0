"""Fair tuning: the same budget for all, by the validation examples, failures counted."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from test_conduct import PowerCut, records

from zeromean.errors import ZeromeanError
from zeromean.study import report
from zeromean.study.engine import train
from zeromean.study.spec.metric import ACCURACY, LOSS
from zeromean.study.tasks.problem import Problem
from zeromean.study.spec.records import FINAL, Candidate, Epoch, Key, Run
from zeromean.study import Study
from zeromean.study.tuning import Outcome, Tuning, at_the_edge, choice, proposal
from zeromean.study.engine.watcher import Silent
from zeromean.study.engine.tensorboard import TensorBoard


@pytest.fixture
def tuned(study: Study) -> Study:
    return replace(study, tuning=Tuning(rates=(1e-4, 0.1, 1e30), epochs=2, seeds=2))


def test_every_method_gets_the_same_trials_and_its_best_is_used(
    tuned: Study, tmp_path: Path
) -> None:
    results = run(tuned, tmp_path)
    for method in tuned.methods:
        trials = [
            run for run in results.runs if run.key.method == method and run.key.trial != FINAL
        ]
        assert sorted((run.key.trial, run.key.seed, run.candidate.lr) for run in trials) == [
            (trial, seed, lr)
            for trial, lr in enumerate((1e-4, 0.1, 1e30))
            for seed in (2, 3)  # which the comparison does not use
        ]
        assert all(run.diverged == (run.key.trial == 2) for run in trials)
        assert all(len(run.epochs) == 2 or run.diverged for run in trials)
    assert {run.candidate.lr for run in results.comparisons[0].runs} == {0.1}
    assert len(results.comparisons[0].runs) == 4
    page = report.write(results)[0].read_text()
    assert "3 trials, a grid of learning rates 0.0001, 0.1, 1e+30, 2 seed(s) each" in page
    assert "learning rate 0.1; 1 of 3 trials diverged" in page
    assert "zeromean study" in page


def test_the_test_examples_are_looked_at_once_at_the_end_of_each_final_run(
    tuned: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    original = train.evaluate

    def evaluate(problem: Problem, network: object, examples: object, *rest: object) -> object:
        if examples is problem.test:
            looks.append(1)
        return original(problem, network, examples, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "evaluate", evaluate)
    results = run(tuned, tmp_path)
    assert len(looks) == 4
    for run in results.runs:
        assert (run.test_score is None) == (run.key.trial != FINAL)


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_tuning_goes_on_where_it_was_cut(study: Study, tmp_path: Path, search: str) -> None:
    tuning = Tuning(
        rates=(0.01, 0.3), search=search, trials=3 if search == "optuna" else None, epochs=2
    )
    tuned = replace(study, tuning=tuning, seeds=1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tuned, tmp_path / "cut", watcher=PowerCut(7))
    cut = run(tuned, tmp_path / "cut")
    whole = run(tuned, tmp_path / "whole")
    assert records(cut) == records(whole)
    assert {run.key: run.candidate for run in cut.runs} == {
        run.key: run.candidate for run in whole.runs
    }


def test_optuna_learns_from_earlier_trials_and_from_failures() -> None:
    tuning = Tuning(rates=(1e-4, 1.0), search="optuna", trials=30)
    done: list[Outcome | None] = []
    for trial in range(30):
        candidate = proposal(tuning, trial, done, ACCURACY)
        assert candidate is not None
        assert candidate == proposal(tuning, trial, done, ACCURACY)
        distance = abs(math.log10(candidate.lr) + 2)
        done.append(Outcome(candidate, None if candidate.lr > 0.1 else 1 - distance))
    late = [one.candidate.lr for one in done[15:] if one is not None]
    assert sum(0.002 < lr < 0.05 for lr in late) > 7  # a third of the range has half of them
    best = choice(done, ACCURACY)
    assert best is not None
    assert 0.005 < best.lr < 0.02


def test_a_trial_waits_for_those_that_it_learns_from() -> None:
    tuning = Tuning(rates=(0.1, 1.0), search="optuna", trials=3)
    first = Outcome(Candidate(0.2), 0.5)
    assert proposal(tuning, 1, [None, None, None], ACCURACY) is None
    assert proposal(tuning, 1, [first, None, None], ACCURACY) is not None
    assert choice([first, None, None], ACCURACY) is None
    assert proposal(Tuning(rates=(0.1, 1.0)), 1, [None, None], ACCURACY) == Candidate(1.0)


def test_the_best_trial_is_the_one_with_the_best_score() -> None:
    low, high = Outcome(Candidate(0.1), 0.2), Outcome(Candidate(0.2), 0.9)
    failed = Outcome(Candidate(0.05), None)
    assert choice([failed, low, high], ACCURACY) == Candidate(0.2)
    assert choice([failed, low, high], LOSS) == Candidate(0.1)
    assert choice([failed, Outcome(Candidate(0.3), None)], LOSS) == Candidate(0.05)


def test_a_best_rate_at_the_end_of_the_range_is_told() -> None:
    tuning = Tuning(rates=(0.1, 0.2, 0.3))
    assert [at_the_edge(tuning, Candidate(lr)) for lr in tuning.rates] == [True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": ()}, "no rates"),
        ({"rates": (0.0, 1.0)}, "rates with 0.0; wanted positive"),
        ({"rates": (1.0, 1)}, "repeated"),
        ({"rates": (1.0,), "search": "random"}, "search 'random'; wanted grid, optuna"),
        ({"rates": (1.0,), "trials": 3}, "search grid with trials = 3"),
        ({"rates": (1.0, 2.0), "search": "optuna"}, "trials = None"),
        ({"rates": (1.0,), "search": "optuna", "trials": 3}, "the lowest and the highest"),
        ({"rates": (1.0,), "validation": 0.7}, "validation = 0.7"),
        ({"rates": (1.0,), "epochs": 0}, "epochs = 0"),
        ({"rates": (1.0,), "weight_decays": (-1.0,)}, "weight_decays with -1.0"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ZeromeanError, match=message):
        Tuning(**options)  # type: ignore[arg-type]


def test_a_rate_is_given_or_tuned() -> None:
    with pytest.raises(ZeromeanError, match=r"lr = 0\.1 and tuning"):
        Study(lr=0.1, tuning=Tuning(rates=(0.1,)))


def test_each_seed_of_a_trial_has_a_log_of_its_own(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, Silent())
    for seed in (5, 6):
        key = Key("digits/mlp", "sgd", "gc", seed, trial=0)
        epoch = Epoch(1, 0.5, 0.5, 0.5, 1.0)
        board.on_epoch(key, epoch)
        board.on_run(Run(key, Candidate(0.1), (epoch,)))
    assert len(list(tmp_path.iterdir())) == 2
