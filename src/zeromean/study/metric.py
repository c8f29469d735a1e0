"""What a task's examples are scored by, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"


def written(value: float, form: str) -> str:
    """The number in that format, with the typographic minus.

    What differs by the rounding of its computation alone is written alike: shares of so many
    examples often lie half-way between two numbers of few digits.
    """
    return f"{float(f'{value:.12g}'):{form}}".replace("-", MINUS)


@dataclass(frozen=True)
class Metric:
    """A score of a network on examples.

    Args:
        name: "accuracy" or "loss".
        higher_is_better: Which way is up.
        scale: From the score to the number that is shown.
        digits: Shown after the point.
        unit: Of the number that is shown, after a blank; may be empty.
        difference_unit: Of a difference.
        better, worse: Of one method beside another, before "than".
        level: That two ended the same, before the other's name.
        small_as_powers: Whether what has no more than one digit left is written as 1.23e-05.
    """

    name: str
    higher_is_better: bool
    scale: float
    digits: int
    unit: str
    difference_unit: str
    better: str
    worse: str
    level: str
    small_as_powers: bool = False

    def number(self, score: float, beside: float | None = None) -> str:
        """Without its unit, in the form of the number that it stands beside."""
        return self._written(score, score if beside is None else beside, "")

    def value(self, score: float) -> str:
        return f"{self.number(score)} {self.unit}".strip()

    def difference(self, difference: float) -> str:
        """With its sign, without its unit."""
        return self._written(difference, difference, "+")

    def _written(self, score: float, beside: float, sign: str) -> str:
        small = self.small_as_powers and 0 < abs(beside) < 10 ** (1 - self.digits)
        form = f"{sign}.2e" if small else f"{sign}.{self.digits}f"
        return written(self.scale * score, form)

    def reaches(self, score: float, target: float) -> bool:
        return score >= target if self.higher_is_better else score <= target

    def gain(self, difference: float) -> float:
        """A difference of scores, positive where it is for the better."""
        return difference if self.higher_is_better else -difference


ACCURACY = Metric(
    name="accuracy",
    higher_is_better=True,
    scale=100,
    digits=2,
    unit="%",
    difference_unit="points",
    better="more accurate",
    worse="less accurate",
    level="exactly as accurate as",
)
LOSS = Metric(
    name="loss",
    higher_is_better=False,
    scale=1,
    digits=4,
    unit="",
    difference_unit="in loss",
    better="with a lower loss",
    worse="with a higher loss",
    level="with exactly the loss of",
    small_as_powers=True,
)
METRICS = {metric.name: metric for metric in (ACCURACY, LOSS)}
