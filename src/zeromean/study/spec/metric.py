"""The score of a task and its wording in reports."""

from __future__ import annotations

import msgspec

MINUS = "\N{MINUS SIGN}"
# Numbers from here on are written with an exponent.
MAX_PLAIN = 1e9


def format_number(value: float, form: str) -> str:
    """Return the number in a format, with the typographic minus.

    Shares of a number of examples often lie half-way between two numbers of few digits. Rounding to
    12 digits first makes numbers that differ by rounding errors alone look the same.
    """
    return f"{float(f'{value:.12g}'):{form}}".replace("-", MINUS)


def with_unit(text: str, unit: str) -> str:
    """Return a label with a unit, which may be empty."""
    return f"{text}, {unit}" if unit else text


class Metric(msgspec.Struct, frozen=True):
    """A score of a network on examples, or a number that a program prints.

    Args:
        name: A name such as "accuracy" or "loss".
        higher_is_better: Whether a higher score is better.
        scale: Factor from the score to the number that is shown.
        digits: Number of digits after the point.
        unit: Unit of the number that is shown, or an empty text.
        difference_unit: Unit of a difference, for sentences.
        better, worse: Words for a better and a worse method, before "than".
        level: Words for the same score, before the other method's name.
        powers: Whether numbers too small or too large for this format are written as 1.23e-05.
    """

    name: str
    higher_is_better: bool
    scale: float = 1.0
    digits: int = 4
    unit: str = ""
    difference_unit: str = ""
    better: str = "better"
    worse: str = "worse"
    level: str = "exactly level with"
    powers: bool = True

    def number(self, score: float, like: float | None = None) -> str:
        """Return the score without its unit, in the format of the number next to it."""
        return self._format(score, score if like is None else like, "")

    def value(self, score: float) -> str:
        """Return the score with its unit."""
        return f"{self.number(score)} {self.unit}".strip()

    def difference(self, difference: float) -> str:
        """Return a difference of scores with its sign, without its unit."""
        return self._format(difference, difference, "+")

    def _format(self, score: float, like: float, sign: str) -> str:
        plain = not self.powers or like == 0 or 10 ** (1 - self.digits) <= abs(like) < MAX_PLAIN
        form = f"{sign}.{self.digits}f" if plain else f"{sign}.2e"
        return format_number(self.scale * score, form)

    def reaches(self, score: float, target: float) -> bool:
        """Return whether the score is at least as good as the target."""
        return score >= target if self.higher_is_better else score <= target

    def gain(self, difference: float) -> float:
        """Return a difference of scores, positive for an improvement."""
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
    powers=False,
)
LOSS = Metric(
    name="loss",
    higher_is_better=False,
    difference_unit="in loss",
    better="with a lower loss",
    worse="with a higher loss",
    level="with exactly the loss of",
)
