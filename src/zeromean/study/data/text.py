"""Text as a sequence of characters: the one that comes with Python, or a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError

LENGTH = 64
TEST_FRACTION = 0.1
# Rarer characters are one character, "unknown".
MOST_CHARACTERS = 255


def is_text(data: str) -> bool:
    """Whether ``data`` names a text: ``text``, or ``text:FILE``."""
    return data == "text" or data.startswith("text:")


def read_text(data: str) -> str:
    """The text that ``data`` names.

    ``text`` is the manual that Python carries for its ``help()``: 0.46 million characters of
    technical English. It differs a little from one version of Python to the next.

    Raises:
        ZeromeanError: The file cannot be read.
    """
    if data == "text":
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    path = Path(data.removeprefix("text:"))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ZeromeanError(
            f"data {data!r}, which cannot be read ({error})", "a text in UTF-8", "check the path"
        ) from error


def windows(text: str) -> tuple[Tensor, int]:
    """The text as indices of shape (pieces, ``LENGTH`` + 1), and how many characters there are.

    Each piece begins with the last character of the one before, so that every character but the
    first is told once.

    Raises:
        ZeromeanError: The text is too short to train and test on.
    """
    ranked = sorted(set(text), key=lambda one: (-text.count(one), one))
    index = {one: number for number, one in enumerate(ranked[:MOST_CHARACTERS])}
    indices = torch.tensor([index.get(one, MOST_CHARACTERS) for one in text])
    pieces = indices.unfold(0, LENGTH + 1, LENGTH) if len(text) > LENGTH else indices[:0]
    if len(pieces) < 20:
        raise ZeromeanError(
            f"a text of {len(text):,} characters",
            f"{20 * LENGTH + 1:,} or more",
            "use a longer one",
        )
    return pieces.clone(), min(len(ranked), MOST_CHARACTERS + 1)
