"""Texts as data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeromean.errors import ZeromeanError
from zeromean.study.data.text import LENGTH, read_text, windows


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
