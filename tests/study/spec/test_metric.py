"""Formatting of scores."""

from __future__ import annotations

import pytest

from zeromean.recipes.metrics import METRICS
from zeromean.study.spec.metric import ACCURACY, LOSS, MINUS


@pytest.mark.parametrize(
    ("loss", "number"),
    [
        (1.23456, "1.2346"),
        (0.0, "0.0000"),
        (0.00123, "0.0012"),
        (0.000987, "9.87e-04"),
        (1.234e-9, "1.23e-09"),
        (123456789.0, "123456789.0000"),
        (1.234e30, "1.23e+30"),
    ],
)
def test_small_and_huge_losses_keep_their_digits(loss: float, number: str) -> None:
    number = number.replace("-", MINUS)
    assert LOSS.number(loss) == number
    assert LOSS.difference(-loss) == f"{MINUS}{number}"
    assert LOSS.difference(loss) == f"+{number}"


def test_a_deviation_is_written_as_its_mean_is() -> None:
    assert LOSS.number(1e-16, like=0.8) == "0.0000"
    assert LOSS.number(0.002, like=0.0005) == f"2.00e{MINUS}03"


def test_accuracies_have_two_digits_however_small() -> None:
    assert ACCURACY.number(0.98765) == "98.77"
    assert ACCURACY.difference(0.00002) == "+0.00"


@pytest.mark.parametrize("difference", [-0.04325, 0.00125, 0.01675, -0.00625])
def test_half_way_shares_are_formatted_alike(difference: float) -> None:
    found = {
        text
        for off in (-1e-16, 0.0, 1e-16)
        for text in (
            ACCURACY.difference(difference + off),
            METRICS["accuracy"].difference(100 * (difference + off)),
            METRICS["accuracy"].difference(100 * difference + off),
        )
    }
    assert len(found) == 1
