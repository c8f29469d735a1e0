"""From runs to verdict, table and sentences."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import Curves, make_program_results, make_results

from zeromean.study import ProgramTask, report
from zeromean.study.engine.results import Results
from zeromean.study.report import headline, sections
from zeromean.study.report.conclusion import Conclusion, conclude
from zeromean.study.report.statistics import Paired, Spread
from zeromean.study.report.summary import Stage, Summary, TargetCost, target_score
from zeromean.study.report.summary import summarize as summarize_all
from zeromean.study.report.table import MISSING, fold
from zeromean.study.spec.metric import ACCURACY, LOSS, MINUS
from zeromean.study.spec.records import START_GRADIENT, START_WEIGHTS, Candidate, Epoch

# Three epochs on three seeds: plain's mean is best, 0.8, after epoch 2; a third of the way is 1.
PLAIN = ((0.4, 0.7, 0.7), (0.5, 0.8, 0.8), (0.6, 0.9, 0.8))


def make(out: Path, gc: Curves, plain: Curves = PLAIN) -> Results:
    return make_results(out, {"plain": plain, "gc": gc})


def summarize(results: Results) -> list[Summary]:
    (summaries,) = summarize_all(results)
    return summaries


def conclusion(results: Results) -> Conclusion:
    (section,) = sections(results)
    (found,) = section.conclusions
    return found


def table(results: Results, min_effect: float | None = None) -> dict[str, list[str]]:
    (section,) = sections(results, min_effect)
    return {label: cells for label, *cells in section.table.rows}


def target(results: Results) -> float | None:
    (comparison,) = results.comparisons
    return target_score(comparison)


def cells(results: Results, label: str) -> list[str]:
    return next(row for name, row in table(results).items() if name.startswith(label))


def test_target_is_best_mean_of_baseline(tmp_path: Path) -> None:
    results = make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.81, 0.1), (0.79, 0.79, 0.79)))
    assert target(results) == pytest.approx(0.8)
    plain, gc = summarize(results)
    assert plain.target.epochs == (math.inf, 2, 2)
    assert gc.target.epochs == (1, 2, math.inf)
    assert cells(results, "Epochs to 80.00 %") == ["2 (2/3)", "2 (2/3)"]
    never = make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)))
    assert cells(never, "Epochs to")[1] == "never (1/3)"


def test_runs_with_equal_scores_reach_their_mean(tmp_path: Path) -> None:
    equal = [(0.7,)] * 3
    results = make_results(tmp_path, {"plain": equal, "gc": equal}, metric=LOSS)
    assert cells(results, "Epochs to 0.7000") == ["1 (3/3)", "1 (3/3)"]


@pytest.mark.parametrize("unusable", [math.nan, math.inf])
def test_points_without_a_finite_score_are_left_out(tmp_path: Path, unusable: float) -> None:
    """Programs report nan, for example, before their first evaluation."""
    curves = {"plain": [(unusable, 0.8, 0.7)] * 3, "gc": [(unusable, 0.8, 0.6)] * 3}
    results = make_results(tmp_path, curves, metric=LOSS)
    assert target(results) == pytest.approx(0.7)
    assert cells(results, "Epochs to 0.7000") == ["3 (3/3)", "3 (3/3)"]
    assert cells(results, "Loss at epoch 1") == [MISSING, MISSING]
    assert "third of the way" not in conclusion(results).text
    text = report.write(results).read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize(("epochs", "early"), [(1, 1), (3, 1), (4, 2), (6, 2), (8, 3)])
def test_a_third_of_the_way_is_the_first_epoch_after_it(
    tmp_path: Path, epochs: int, early: int
) -> None:
    (comparison,) = make(tmp_path, gc=[[0.5] * epochs], plain=[[0.5] * epochs]).comparisons
    assert comparison.early_epoch == early


def test_differences_are_taken_within_each_seed(tmp_path: Path) -> None:
    # The same accuracies in another order of seeds: equal means, unequal pairs.
    _, gc = summarize(make(tmp_path, gc=PLAIN[::-1]))
    assert gc.final.difference is not None
    assert gc.final.difference.mean == pytest.approx(0)
    assert gc.final.difference.differences == pytest.approx((0.1, 0.0, -0.1))
    assert gc.early.difference is not None
    assert gc.early.difference.differences == pytest.approx((0.2, 0.0, -0.2))


def test_overhead_is_the_median_of_ratios_per_epoch(tmp_path: Path) -> None:
    results = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": PLAIN},
        # Ratios 1.1, 1.5 and 1.2: a seed on a slower machine does not count more.
        seconds={"plain": (1.0, 10.0, 2.0), "gc": (1.1, 15.0, 2.4)},
    )
    plain, gc = summarize(results)
    assert plain.overhead is None
    assert gc.overhead == pytest.approx(0.2)
    assert cells(results, "Overhead") == [MISSING, "+20%"]


def test_epochs_too_short_to_time_have_no_overhead(tmp_path: Path) -> None:
    results = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": PLAIN},
        seconds={"plain": (0.001,) * 3, "gc": (0.057,) * 3},
    )
    assert cells(results, "Overhead") == [MISSING, MISSING]


def test_overhead_leaves_out_epochs_without_a_measured_time(tmp_path: Path) -> None:
    results = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": PLAIN},
        # The program of one run printed all its lines at once.
        seconds={"plain": (2.0, 0.0, 2.0), "gc": (2.5, 2.5, 2.5)},
    )
    assert cells(results, "Overhead") == [MISSING, "+25%"]


def test_overhead_ignores_an_epoch_on_a_busy_machine(tmp_path: Path) -> None:
    calm = make_results(
        tmp_path, {"plain": PLAIN, "gc": PLAIN}, seconds={"plain": (2.0,) * 3, "gc": (2.5,) * 3}
    )
    runs = [
        replace(
            run,
            epochs=tuple(
                Epoch(epoch.number, epoch.metrics, epoch.seconds * slowdown)
                for epoch, slowdown in zip(run.epochs, (1, 9, 30), strict=True)
            ),
        )
        for run in calm.runs
    ]
    _, gc = summarize(replace(calm, runs=tuple(runs)))
    assert gc.overhead == pytest.approx(0.25)


def test_diverged_runs_are_counted_and_left_out_of_pairs(tmp_path: Path) -> None:
    results = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": ((0.9, 0.9, 0.9), (0.9, 0.1), (0.9, 0.9, 0.9))},
        diverged=[("gc", 1)],
    )
    _, gc = summarize(results)
    assert (gc.diverged, gc.runs) == (1, 3)
    assert gc.final.difference is not None
    assert gc.final.difference.differences == pytest.approx((0.2, 0.1))
    assert gc.target.epochs[1] == math.inf
    assert cells(results, "Diverged runs") == ["0 of 3", "1 of 3"]
    assert conclusion(results).text.startswith("1 of 3 gc runs did not finish; only pairs of")


def test_run_that_diverged_at_once_has_no_early_epoch(tmp_path: Path) -> None:
    six = [[0.1 * number for number in range(1, 7)] for _ in range(3)]
    runs = {"plain": six, "gc": [six[0][:1], *six[1:]]}
    results = make_results(tmp_path, runs, diverged=[("gc", 0)])
    assert "after epoch 2" in conclusion(results).text


def test_nothing_is_concluded_if_every_baseline_run_diverged(tmp_path: Path) -> None:
    results = make_results(
        tmp_path,
        {"plain": ((0.1,), (0.1,)), "gc": ((0.5, 0.9), (0.5, 0.9))},
        diverged=[("plain", 0), ("plain", 1)],
    )
    assert target(results) is None
    assert cells(results, "Final accuracy")[0] == MISSING
    found = conclusion(results)
    assert found.verdict == "nothing to compare"
    assert found.text == (
        "2 of 2 plain runs did not finish; only pairs of finished runs are compared. "
        "No pair of runs is left to compare."
    )


def shifted(*differences: float) -> dict[str, Curves]:
    """Two epochs, the same at first; at the end gc differs from plain by `differences`."""
    return {
        "plain": [(0.5, 0.8)] * len(differences),
        "gc": [(0.5, 0.8 + difference) for difference in differences],
    }


@pytest.mark.parametrize(
    ("differences", "verdict", "text"),
    [
        (
            (0.01, 0.02, 0.03, 0.02, 0.01, 0.02),
            "helped",
            "It ended more accurate than plain: +1.83",
        ),
        (
            (-0.01, -0.02, -0.03, -0.02, -0.01, -0.02),
            "harmed",
            f"It ended less accurate than plain: {MINUS}1.83 ",
        ),
        (
            (0.01, 0.02, 0.03, 0.02, 0.01),
            "too few seeds",
            "Difference to plain at the end: +1.80 points, ",
        ),
        (
            (0.01, -0.02, 0.03, -0.02, 0.01, 0.0),
            "no difference shown",
            "Difference to plain at the end: +0.17 points, ",
        ),
        (
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            "no difference shown",
            "It ended exactly as accurate as plain on 6 seeds.",
        ),
        ((0.01,), "too few seeds", "Difference to plain at the end: +1.00 points. One seed cannot"),
    ],
)  # fmt: skip
def test_verdict_claims_no_more_than_the_numbers(
    tmp_path: Path, differences: tuple[float, ...], verdict: str, text: str
) -> None:
    found = conclusion(make_results(tmp_path, shifted(*differences)))
    assert found.verdict == verdict
    assert found.text.startswith(text)


def test_five_seeds_that_agree_are_too_few(tmp_path: Path) -> None:
    found = conclusion(make_results(tmp_path, shifted(0.01, 0.02, 0.03, 0.02, 0.01)))
    assert "with the same sign on every seed" in found.text
    assert "5 seeds cannot show a difference; at least 6 seeds can." in found.text


def summary_of(interval: tuple[float, float], corrected_p: float, comparisons: int = 1) -> Summary:
    differences = tuple(0.01 for _ in range(8))
    paired = Paired(differences, 0.01, interval, corrected_p / comparisons)
    return Summary(
        method="gc",
        metric=ACCURACY,
        runs=8,
        diverged=0,
        early=Stage(None, None),
        final=Stage(Spread(0.9, 0.01), paired),
        gap=None,
        target=TargetCost((1.0,), (1.0,)),
        seconds_per_epoch=1.0,
        overhead=None,
        corrected_p=corrected_p,
        comparisons=comparisons,
    )


@pytest.mark.parametrize(
    ("interval", "p_value", "comparisons", "verdict", "sentence"),
    [
        ((-0.001, 0.02), 0.04, 1, "helped", "The bootstrap interval includes 0, but the sign"),
        ((0.001, 0.02), 0.06, 1, "no difference shown", "excludes 0, but the sign-flip test"),
        ((0.001, 0.02), 0.06, 2, "no difference shown", "its p is above 0.05 after correction."),
        ((0.001, 0.02), 0.04, 1, "helped", None),
        ((-0.001, 0.02), 0.2, 1, "no difference shown", None),
    ],
)
def test_text_says_which_of_interval_and_test_decides(
    interval: tuple[float, float],
    p_value: float,
    comparisons: int,
    verdict: str,
    sentence: str | None,
) -> None:
    summary = summary_of(interval, p_value, comparisons)
    found = conclude(summary, summary)
    assert found.verdict == verdict
    assert ("sign-flip test" in found.text) == (sentence is not None)
    assert sentence is None or sentence in found.text


def test_early_lead_that_is_gone_at_the_end_is_reported(tmp_path: Path) -> None:
    leads = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    found = conclusion(
        make_results(
            tmp_path,
            {"plain": [(0.5, 0.6, 0.8)] * 6, "gc": [(0.5 + lead, 0.6, 0.8) for lead in leads]},
        )
    )
    assert found.verdict == "no difference shown"
    assert "A third of the way, after epoch 1, it was ahead (+1.83 points" in found.text
    mixed = [(0.5 + lead, 0.6, 0.8) for lead in (0.01, -0.02, 0.03, -0.02, 0.01, 0.0)]
    found = conclusion(make_results(tmp_path, {"plain": [(0.5, 0.6, 0.8)] * 6, "gc": mixed}))
    assert "it was not shown to be ahead or behind (+0.17 points" in found.text


def test_single_seed_has_no_statistics(tmp_path: Path) -> None:
    rows = table(make_results(tmp_path, shifted(0.01)))
    assert rows["Final accuracy, %"] == ["80.00", "81.00"]
    assert rows["  95% interval"] == [MISSING, MISSING]
    assert rows["  p"] == [MISSING, MISSING]


def test_steps_and_seconds_to_target_follow_the_epochs(tmp_path: Path) -> None:
    rows = table(make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.81, 0.1), (0.1, 0.1, 0.1))))
    assert rows["  steps"] == ["20 (2/3)", "20 (2/3)"]  # of ten per epoch
    assert rows["  seconds"] == ["2 (2/3)", "2 (2/3)"]


def test_generalization_gap_is_training_minus_test(tmp_path: Path) -> None:
    assert cells(make(tmp_path, gc=PLAIN), "Training minus test") == ["5.00 ± 0.00"] * 2


def test_seeds_for_an_effect_are_shown_if_the_noise_is_known(tmp_path: Path) -> None:
    results = make_results(tmp_path, shifted(0.01, 0.02, 0.03, 0.02, 0.01))
    # A standard deviation of 0.837 points, an effect of 0.598 of it.
    rows = table(results, min_effect=0.005)
    assert rows["Seeds to see 0.50 points"] == [MISSING, "24"]


def test_p_values_are_corrected_over_all_comparisons(tmp_path: Path) -> None:
    gains = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    assert conclusion(make_results(tmp_path, shifted(*gains))).verdict == "helped"
    twice = sections(make_results(tmp_path, shifted(*gains), shifted(*gains)))
    one, other = twice
    assert ("  p, corrected", MISSING, "0.0625") in one.table.rows
    assert one.conclusions == other.conclusions
    (found,) = one.conclusions
    # Six seeds show a difference alone, but not as one of two comparisons.
    assert found.verdict == "too few seeds"
    assert "p = 0.0312, corrected 0.0625" in found.text
    assert "6 seeds cannot show a difference among 2 comparisons; at least 7" in found.text
    assert headline(twice) == ["gc: too few seeds in 2 of 2 comparisons."]
    seven = shifted(*gains, 0.0)
    assert headline(sections(make_results(tmp_path, seven, seven))) == [
        "gc: no difference shown in 2 of 2 comparisons."
    ]


def test_a_single_seed_needs_the_seeds_of_all_comparisons(tmp_path: Path) -> None:
    """A study of several methods with one seed once named the seeds that a single method needs."""
    results = make_results(tmp_path, {**shifted(0.01), "ws": [(0.5, 0.7)]})
    (section,) = sections(results)
    for one in section.conclusions:
        assert "One seed cannot show a difference among 2 comparisons; at least 7" in one.text
    assert not any("corrected" in row[0] for row in section.table.rows)


def test_early_differences_among_several_are_said_to_be_uncorrected(tmp_path: Path) -> None:
    leads = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    gc = [(0.5 + lead, 0.6, 0.8) for lead in leads]
    curves: dict[str, Curves] = {"plain": [(0.5, 0.6, 0.8)] * 6, "gc": gc}
    assert "not corrected" not in conclusion(make_results(tmp_path, curves)).text
    (section,) = sections(make_results(tmp_path, {**curves, "ws": gc}))
    for one in section.conclusions:
        assert "it was ahead (+1.83 points" in one.text
        assert "p = 0.0312, not corrected)." in one.text


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_failed_at_once_does_not_change_the_seconds(tmp_path: Path, seed: int) -> None:
    """Its seconds, which are nan, once made the median nan, or that of too few runs."""
    task = ProgramTask(command=("train.py", "{seed}"), metric="accuracy=acc NUMBER")
    found = make_program_results(tmp_path, task, {"plain": PLAIN, "gc": PLAIN})
    runs = tuple(
        replace(run, epochs=(), test_score=None, failure="it ended with exit code 1")
        if run.key[2:4] == ("gc", seed)
        else run
        for run in found.runs
    )
    failed = replace(found, runs=runs)
    assert cells(failed, "Seconds per point") == ["1", "1"]
    assert cells(failed, "Overhead") == [MISSING, "+0%"]


def test_lower_loss_is_better(tmp_path: Path) -> None:
    gains = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    results = make_results(tmp_path, shifted(*gains), metric=LOSS)
    found = conclusion(results)
    assert found.verdict == "harmed"
    assert found.text.startswith("It ended with a higher loss than plain: +0.0183 in loss, ")
    assert target(results) == pytest.approx(0.5)
    lower = make_results(tmp_path, shifted(*(-gain for gain in gains)), metric=LOSS)
    assert conclusion(lower).verdict == "helped"
    assert table(lower)["Final loss"][0] == "0.8000 ± 0.0000"


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_tables_are_folded_to_the_width_of_the_terminal(tmp_path: Path, width: int) -> None:
    methods = ("plain", "gc", "gc-conv", "ws", "cwn", "wn", "zscore")
    (section,) = sections(make_results(tmp_path, dict.fromkeys(methods, PLAIN)))
    parts = fold(section.table, width)
    assert [name for part in parts for name in part.header[1:]] == list(methods)
    longest = max(len(line) for part in parts for line in str(part).splitlines())
    assert longest <= width or len(parts) == len(methods)
    assert len(fold(section.table, 10_000)) == 1


@pytest.mark.parametrize(
    ("words", "options", "advice"),
    [
        ((), {}, "Use --shift-seeds, or pass {seed} to the program."),
        (("{seed}",), {}, "Let the program use {seed}."),
        ((), {"shift_seeds": True}, "Let the program use {seed}."),
    ],
)
def test_copies_of_one_pair_of_runs_count_as_one(
    tmp_path: Path, words: tuple[str, ...], options: dict[str, bool], advice: str
) -> None:
    """Six copies of one pair once gave a verdict: p = 2^(1 - 6) = 0.03."""
    task = ProgramTask(command=("train.py", *words), metric="accuracy=acc NUMBER", **options)
    curves = {"plain": [(0.5, 0.7)] * 6, "gc": [(0.6, 0.8)] * 6}
    results = make_program_results(tmp_path, task, curves)
    found = conclusion(results)
    assert found.verdict == "too few seeds"
    assert "One seed cannot show a difference" in found.text
    (note,) = results.comparisons[0].notes
    assert note.endswith(f"they count as one: the program sets its own seed. {advice}")
    curves["gc"][-1] = (0.6, 0.7)
    varied = make_program_results(tmp_path, task, curves)
    assert len(summarize(varied)[1].final.difference.differences) == 6
    assert not varied.comparisons[0].notes


STARTS = {"plain": 0.5, "gc": 0.6}


def begun(results: Results, starts: dict[str, list[tuple[float, float]]]) -> Results:
    """Give the runs of a program these hashes of initial weights and first gradient, by seed."""
    runs = []
    for run in results.runs:
        weights, gradient = starts[run.key.method][run.key.seed]
        metrics = {START_WEIGHTS: weights, START_GRADIENT: gradient}
        epochs = tuple(replace(one, metrics={**one.metrics, **metrics}) for one in run.epochs)
        runs.append(replace(run, epochs=epochs))
    return replace(results, runs=tuple(runs))


def test_start_of_a_run_decides_whether_seeds_act(tmp_path: Path) -> None:
    task = ProgramTask(command=("train.py", "{seed}"), metric="accuracy=acc NUMBER")
    sizes = {"plain": 4.0, "gc": 8.0}
    noisy = {name: [(at, at + 1e-6 * n) for n in range(6)] for name, at in STARTS.items()}
    same = {name: [(1.0, 2.0)] * 6 for name in STARTS}
    found = begun(make_program_results(tmp_path, task, noisy), same)
    assert conclusion(found).verdict == "too few seeds"
    assert "count as one" in found.comparisons[0].notes[0]
    # A coarse metric may be equal on all seeds.
    coarse = {name: [(at, at)] * 6 for name, at in STARTS.items()}
    equal = make_program_results(tmp_path, task, coarse)
    several = {name: [(n, n + 10.0) for n in range(6)] for name in STARTS}
    assert conclusion(begun(equal, several)).verdict == "helped"
    assert not begun(equal, several).comparisons[0].notes
    pretrained = {name: [(1.0, n) for n in range(6)] for name in STARTS}
    (note,) = begun(equal, pretrained).comparisons[0].notes
    assert "All runs of plain begin with the same weights" in note
    varied = begun(equal, pretrained | {"gc": [(2.0, n) for n in range(6)]})
    runs = tuple(
        replace(one, candidate=Candidate(math.nan, None, (("size", sizes[one.key.method]),)))
        for one in varied.runs
    )
    (note,) = replace(varied, runs=runs).comparisons[0].notes  # the tuned size of a layer
    assert note.startswith("All runs of plain")
    unpaired = {"plain": several["plain"], "gc": [(n + 0.5, n) for n in range(6)]}
    (note,) = begun(equal, unpaired).comparisons[0].notes
    assert note.startswith("gc and plain begin with different weights at the same seed")
