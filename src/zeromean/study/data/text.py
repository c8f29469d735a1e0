"""Text as a sequence of characters: the manual that comes with Python, or a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from zeromean.errors import ZeromeanError

LENGTH = 64
TEST_FRACTION = 0.1
# Rarer characters share one index, "unknown".
MAX_CHARACTERS = 255
MIN_PIECES = 20


def read_text(data: str) -> str:
    """Return the text that ``data`` names.

    ``text`` is the manual of Python's ``help()``: 0.46 million characters of technical English,
    which differ slightly between versions of Python.

    Raises:
        ZeromeanError: The file cannot be read or is not UTF-8.
    """
    if data == "text":
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    path = Path(data.removeprefix("text:"))
    try:
        if not path.is_file():
            raise OSError("not a file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ZeromeanError(
            f"{path} is not UTF-8 (byte {error.start})", "Convert the file to UTF-8"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        raise ZeromeanError(f"data={data!r} cannot be read ({error})", "Check the path") from error


def windows(text: str) -> tuple[Tensor, int]:
    """Cut a text into pieces of character indices.

    Each piece starts with the last character of the previous one, so that every character except
    the first is predicted once. Characters at the end that fill no piece are left out.

    Returns:
        Indices of shape (pieces, ``LENGTH`` + 1), and the number of different indices.

    Raises:
        ZeromeanError: The text is too short to train and test on.
    """
    if len(text) <= MIN_PIECES * LENGTH:
        raise ZeromeanError(
            f"The text has {len(text):,} characters; at least {MIN_PIECES * LENGTH + 1:,} are"
            " needed",
            "Use a longer text",
        )
    counts = Counter(text)
    ranked = sorted(counts, key=lambda one: (-counts[one], one))
    index = {one: number for number, one in enumerate(ranked[:MAX_CHARACTERS])}
    indices = torch.tensor([index.get(one, MAX_CHARACTERS) for one in text])
    pieces = indices.unfold(0, LENGTH + 1, LENGTH).clone()
    return pieces, min(len(ranked), MAX_CHARACTERS + 1)
