"""From runs to the table and the sentence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from synthetic import Curves, make_results

from zeromean.study.engine.results import Results
from zeromean.study.report import headline, sections
from zeromean.study.report.table import NOTHING, Row
from zeromean.study.spec.metric import LOSS
from zeromean.study.summary import Summary, target_score
from zeromean.study.summary import summarize as summarize_all

# Three epochs on three seeds: plain's mean is best, 0.8, after epoch 2; a third of the way is 1.
PLAIN = ((0.4, 0.7, 0.7), (0.5, 0.8, 0.8), (0.6, 0.9, 0.8))


def make(out: Path, gc: Curves, plain: Curves = PLAIN) -> Results:
    return make_results(out, {"plain": plain, "gc": gc})


def summarize(results: Results) -> list[Summary]:
    (summaries,) = summarize_all(results)
    return summaries


def conclusions(results: Results) -> list[str]:
    (section,) = sections(results)
    return section.conclusions


def table(results: Results, gain: float | None = None) -> list[Row]:
    (section,) = sections(results, gain)
    return section.table


def target_accuracy(results: Results) -> float | None:
    (comparison,) = results.comparisons
    return target_score(comparison)


def cells(comparison: Results, label: str) -> list[str]:
    return next(row for name, row in table(comparison) if name.startswith(label))


def test_the_target_is_the_baselines_best_mean_and_a_miss_counts_as_never(tmp_path: Path) -> None:
    comparison = make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.81, 0.1), (0.79, 0.79, 0.79)))
    assert target_accuracy(comparison) == pytest.approx(0.8)
    plain, gc = summarize(comparison)
    assert plain.target.epochs == (math.inf, 2, 2)
    assert gc.target.epochs == (1, 2, math.inf)
    assert cells(comparison, "Epochs to 80.00 %") == ["2 (2/3)", "2 (2/3)"]
    never = make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)))
    assert cells(never, "Epochs to")[1] == "never (1/3)"


def test_differences_are_taken_within_each_seed(tmp_path: Path) -> None:
    # The same accuracies in another order of seeds: equal means, unequal pairs.
    _, gc = summarize(make(tmp_path, gc=PLAIN[::-1]))
    assert gc.final.difference is not None
    assert gc.final.difference.mean == pytest.approx(0)
    assert gc.final.difference.differences == pytest.approx((0.1, 0.0, -0.1))
    assert gc.early.difference is not None
    assert gc.early.difference.differences == pytest.approx((0.2, 0.0, -0.2))


def test_overhead_is_the_median_of_ratios_taken_epoch_by_epoch(tmp_path: Path) -> None:
    comparison = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": PLAIN},
        # Ratios 1.1, 1.5 and 1.2: a seed on a machine that was slower does not count more.
        seconds={"plain": (1.0, 10.0, 2.0), "gc": (1.1, 15.0, 2.4)},
    )
    plain, gc = summarize(comparison)
    assert plain.overhead is None
    assert gc.overhead == pytest.approx(0.2)
    assert cells(comparison, "Overhead") == [NOTHING, "+20%"]


def test_an_epoch_in_which_the_machine_was_busy_leaves_the_overhead_alone(tmp_path: Path) -> None:
    calm = make_results(
        tmp_path, {"plain": PLAIN, "gc": PLAIN}, seconds={"plain": (2.0,) * 3, "gc": (2.5,) * 3}
    )
    runs = [
        dataclasses.replace(
            run,
            epochs=tuple(
                dataclasses.replace(epoch, seconds=epoch.seconds * slowdown)
                for epoch, slowdown in zip(run.epochs, (1, 9, 30), strict=True)
            ),
        )
        for run in calm.runs
    ]
    _, gc = summarize(dataclasses.replace(calm, runs=tuple(runs)))
    assert gc.overhead == pytest.approx(0.25)


def test_a_diverged_run_is_counted_named_and_left_out_of_the_pairs(tmp_path: Path) -> None:
    comparison = make_results(
        tmp_path,
        {"plain": PLAIN, "gc": ((0.9, 0.9, 0.9), (0.9, 0.1), (0.9, 0.9, 0.9))},
        diverged=[("gc", 1)],
    )
    _, gc = summarize(comparison)
    assert (gc.diverged, gc.runs) == (1, 3)
    assert gc.final.difference is not None
    assert gc.final.difference.differences == pytest.approx((0.2, 0.1))
    assert gc.target.epochs[1] == math.inf
    assert cells(comparison, "Diverged runs") == ["0 of 3", "1 of 3"]
    assert conclusions(comparison)[0].startswith("1 of 3 gc runs diverged, and only pairs without")


def test_a_run_that_diverged_at_once_has_no_early_epoch(tmp_path: Path) -> None:
    six = [[0.1 * number for number in range(1, 7)] for _ in range(3)]
    runs = {"plain": six, "gc": [six[0][:1], *six[1:]]}
    results = make_results(tmp_path, runs, diverged=[("gc", 0)])
    assert results.study.tasks[0].early_epoch == 2
    assert any("diverged" in sentence for sentence in conclusions(results))


def test_when_every_baseline_run_diverged_nothing_is_concluded(tmp_path: Path) -> None:
    comparison = make_results(
        tmp_path,
        {"plain": ((0.1,), (0.1,)), "gc": ((0.5, 0.9), (0.5, 0.9))},
        diverged=[("plain", 0), ("plain", 1)],
    )
    assert target_accuracy(comparison) is None
    assert cells(comparison, "Final accuracy")[0] == NOTHING
    assert conclusions(comparison) == [
        "2 of 2 plain runs diverged, and only pairs without a diverged run are compared: "
        "Nothing can be concluded about gc: no pair of runs is left."
    ]


def shifted(*differences: float) -> dict[str, Curves]:
    """Two epochs, the same at first; at the end gc differs from plain by `differences`."""
    return {
        "plain": [(0.5, 0.8)] * len(differences),
        "gc": [(0.5, 0.8 + difference) for difference in differences],
    }


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ((0.01, 0.02, 0.03, 0.02, 0.01, 0.02), "gc ended more accurate than plain: +1.83 points, "),
        (
            (-0.01, -0.02, -0.03, -0.02, -0.01, -0.02),
            "gc ended less accurate than plain: \N{MINUS SIGN}1.83 ",
        ),
        ((0.01, 0.02, 0.03, 0.02, 0.01), "gc ended more accurate than plain on each of 5 seeds "),
        ((0.01, -0.02, 0.03, -0.02, 0.01), "No difference shown between gc and plain at the end"),
        (
            (0.0, 0.0, 0.0),
            "No difference shown: gc ended exactly as accurate as plain on each of 3",
        ),
        ((0.01,), "One pair of runs cannot tell gc from plain: it ended at +1.00 points"),
    ],
)
def test_the_sentence_claims_no_more_than_the_numbers(
    tmp_path: Path, differences: tuple[float, ...], sentence: str
) -> None:
    (conclusion,) = conclusions(make_results(tmp_path, shifted(*differences)))
    assert conclusion.startswith(sentence)


def test_five_seeds_that_agree_are_said_to_be_too_few(tmp_path: Path) -> None:
    (conclusion,) = conclusions(make_results(tmp_path, shifted(0.01, 0.02, 0.03, 0.02, 0.01)))
    assert "too few to show a difference: p cannot fall below 0.0625" in conclusion


def test_an_early_lead_that_is_gone_at_the_end_is_told(tmp_path: Path) -> None:
    leads = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    comparison = make_results(
        tmp_path,
        {"plain": [(0.5, 0.6, 0.8)] * 6, "gc": [(0.5 + lead, 0.6, 0.8) for lead in leads]},
    )
    (conclusion,) = conclusions(comparison)
    assert conclusion.startswith("No difference shown: gc ended exactly as accurate")
    assert "; a third of the way, after epoch 1, it was ahead (+1.83 points" in conclusion


def test_a_single_seed_shows_no_statistics(tmp_path: Path) -> None:
    rows = dict(table(make_results(tmp_path, shifted(0.01))))
    assert rows["Final accuracy, %"] == ["80.00", "81.00"]
    assert rows["  95% interval"] == [NOTHING, NOTHING]
    assert rows["  p"] == [NOTHING, NOTHING]


def test_steps_and_seconds_to_the_target_follow_the_epochs(tmp_path: Path) -> None:
    rows = dict(table(make(tmp_path, gc=((0.8, 0.1, 0.1), (0.1, 0.81, 0.1), (0.1, 0.1, 0.1)))))
    assert rows["  steps"] == ["20 (2/3)", "20 (2/3)"]  # of ten an epoch
    assert rows["  seconds"] == ["2 (2/3)", "2 (2/3)"]


def test_the_generalization_gap_is_training_minus_test(tmp_path: Path) -> None:
    assert cells(make(tmp_path, gc=PLAIN), "Training minus test") == ["5.00 ± 0.00"] * 2


def test_the_seeds_for_a_gain_are_told_where_the_noise_is_known(tmp_path: Path) -> None:
    results = make_results(tmp_path, shifted(0.01, 0.02, 0.03, 0.02, 0.01))
    rows = dict(table(results, gain=0.005))
    # A standard deviation of 0.837 points, an effect of 0.598 of it.
    assert rows["Seeds to see 0.50 points"] == [NOTHING, "24"]


def test_p_values_are_corrected_over_all_comparisons(tmp_path: Path) -> None:
    gains = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    alone = make_results(tmp_path, shifted(*gains))
    twice = make_results(tmp_path, shifted(*gains), shifted(*gains))
    assert headline(alone) is None
    assert conclusions(alone)[0].startswith("gc ended more accurate than plain: ")
    one, other = sections(twice)
    assert dict(one.table)["  p, corrected"] == [NOTHING, "0.0625"]
    assert "p = 0.0312, corrected 0.0625" in one.conclusions[0]
    # Six seeds show a difference alone, but not as one of two comparisons.
    assert one.conclusions == other.conclusions
    assert "p cannot fall below 0.0625 after correction for 2 comparisons" in one.conclusions[0]
    assert headline(twice) == (
        "Of 2 comparisons with plain, 0 ended better, 0 worse, and 2 show no difference, "
        "corrected for their number. So few seeds can show none: p cannot fall below 0.0625."
    )
    seven = shifted(*gains, 0.0)
    assert headline(make_results(tmp_path, seven, seven)) == (
        "Of 2 comparisons with plain, 0 ended better, 0 worse, and 2 show no difference, "
        "corrected for their number."
    )


def test_a_lower_loss_is_better(tmp_path: Path) -> None:
    gains = (0.01, 0.02, 0.03, 0.02, 0.01, 0.02)
    results = make_results(tmp_path, shifted(*gains), metric=LOSS)
    (sentence,) = conclusions(results)
    assert sentence.startswith("gc ended with a higher loss than plain: +0.0183 in loss, ")
    assert target_accuracy(results) == pytest.approx(0.5)
    lower = make_results(tmp_path, shifted(*(-gain for gain in gains)), metric=LOSS)
    assert conclusions(lower)[0].startswith("gc ended with a lower loss than plain")
    assert dict(table(lower))["Final loss"][0] == "0.8000 ± 0.0000"
