"""A cache folder for images on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeromean.study.data.disk_images import CACHE_VARIABLE, MEMORY_VARIABLE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, with a memory limit of zero."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(MEMORY_VARIABLE, "0")
    return tmp_path / "cache"
