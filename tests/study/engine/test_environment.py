"""The revision of the checkout that a study records."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from zeromean.study.engine import environment


def test_revision_is_of_the_checkout_that_holds_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "package" / "study" / "engine" / "environment.py"
    file.parent.mkdir(parents=True)
    package = file.parents[2] / "__init__.py"
    package.touch()
    monkeypatch.setattr(environment, "__file__", str(file))

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def recorded() -> str:
        return environment.describe("cpu")["git revision"]

    assert recorded() == "not a checkout"
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert recorded() == "not a checkout"  # just installed inside one
    git("add", ".")
    git("commit", "-m", "second")
    git("tag", "-a", "v1", "-m", "a tag")
    assert recorded() == git("rev-parse", "HEAD")[:12]
    package.write_text("changed = True\n")
    assert recorded() == git("rev-parse", "HEAD")[:12] + "+"
