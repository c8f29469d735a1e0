"""Texts as data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError
from zeromean.study.data.text import LENGTH, MAX_CHARACTERS, read_text, windows


def test_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffabc".encode())
    assert read_text(f"text:{tmp_path / 'a.txt'}") == "abc"


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"f\xfcr")
    with pytest.raises(ZeromeanError, match=r"is not UTF-8 \(byte 1\)\. Convert the file"):
        read_text(f"text:{tmp_path / 'a.txt'}")


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", "/dev/zero", "a\0b"):
        with pytest.raises(ZeromeanError, match="cannot be read"):
            read_text(f"text:{path}")


def test_windows_overlap_by_one_character() -> None:
    text = "abcdefghij" * 200
    pieces, count = windows(text)
    assert (count, pieces.shape[1]) == (10, LENGTH + 1)
    assert pieces[1:, 0].tolist() == pieces[:-1, -1].tolist()
    with pytest.raises(ZeromeanError, match="has 1,000 characters; at least 1,281 are needed"):
        windows("x" * 1000)


@pytest.mark.parametrize("different", [MAX_CHARACTERS, MAX_CHARACTERS + 1, MAX_CHARACTERS + 45])
def test_rare_characters_share_one_index(different: int) -> None:
    # The first one occurs most often, and the last one once.
    text = "".join(chr(97 + one) for length in range(different, 0, -1) for one in range(length))
    pieces, count = windows(text)
    assert count == min(different, MAX_CHARACTERS + 1)
    assert pieces.unique().tolist() == [*range(count)]
    assert pieces[0, 0] == 0
