"""A study in a folder that was used before: refused, gone on with, or given more seeds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from zeromean.errors import ZeromeanError
from zeromean.study import results
from zeromean.study.declare import as_table, as_toml, read
from zeromean.study.engine.units import Folder
from zeromean.study.facts import check_same_data, decode_facts
from zeromean.study.problem import Problem
from zeromean.study.settings import SettingError
from zeromean.study.store import Store
from zeromean.study.study import Study

# Where a study's file says how many.
SEEDS = re.compile(r"""^(\s*["']?seeds["']?\s*=\s*)[\d_]+""", re.MULTILINE)


def encode(study: Study) -> str:
    """The study as the database holds it."""
    return json.dumps(as_table(study), sort_keys=True)


def check_folder(study: Study, out: Path) -> None:
    """Refuses a folder that the study cannot be kept in.

    Raises:
        ZeromeanError: It is a file, cannot be written to, or holds another study.
    """
    folder = Folder(out)
    try:
        taken = folder.holds_study
        if out.exists() and not out.is_dir():
            raise ZeromeanError(f"out {out}, which is a file", "a folder", "pass another one")
        place = next(one for one in (out, *out.absolute().parents) if one.exists())
        TemporaryFile(dir=place).close()  # which leaves nothing behind
    except OSError as error:
        raise ZeromeanError(
            f"out {out}, which cannot be used ({error.strerror})",
            "a folder that can be written to",
            "pass another one",
        ) from error
    if taken:
        with Store(folder.database) as store:
            check_study(study, out, store)
    elif study.needs_file and folder.file.exists():
        _check_declared(study, folder.file, folder.file)


def check_study(study: Study, out: Path, store: Store) -> None:
    """Refuses a study that is neither the folder's nor that with other seeds that it can have.

    Raises:
        ZeromeanError: It is another one; or the folder's is tuned, is to get more seeds before it
            is finished, or has runs of more than are asked for or is getting them.
    """
    own, asked = _settings(store.facts.get("study", "{}")), _settings(encode(study))
    held = own.get("seeds", 0)
    if others := _differing({**own, "seeds": 0}, {**asked, "seeds": 0}):
        raise ZeromeanError(
            f"out {out}, which already holds a study with other settings ({', '.join(others)})",
            f"this study's folder, or one without {store.path.name}",
            "pass another folder, or remove the old study",
        )
    if study.seeds == held:
        return
    given = f"seeds = {study.seeds} in out {out}, which holds this study with {held}"
    if study.tuning is not None:
        raise ZeromeanError(
            f"{given}, tuned with seeds {held} and up",
            f"seeds = {held}: the tuning has used the others",
            "pass another folder",
        )
    kept = store.keys()
    least = 1 + max((key.seed for key in kept), default=0)
    if study.seeds < least:
        raise SettingError("seeds", given, f"{least} or more", "raise it, or pass another folder")
    if study.seeds < held:  # no run is lost: it was a slip
        if Folder(out).is_claimed:
            raise SettingError(
                "seeds",
                f"{given}, and a process trains it",
                f"{held} or more",
                "raise it, or end that process first",
            )
        return
    if missing := results.missing(replace(study, seeds=held), out):
        raise ZeromeanError(
            f"{given}, of which {len(missing)} run(s) are missing",
            "a finished study, before it gets more",
            f"finish it: {store.facts['command']}",
        )


def check_data(problems: Mapping[str, Problem], out: Path) -> None:
    """Refuses tasks, by their labels, with other examples than those that the folder's study has.

    Raises:
        ZeromeanError: Some are others.
    """
    folder = Folder(out)
    if folder.holds_study:
        with Store(folder.database) as store:
            check_same_data(problems, decode_facts(store.facts["tasks"]))


def go_on(
    study: Study, problems: Mapping[str, Problem], out: Path, store: Store, command: str
) -> None:
    """Makes the folder's study this one, with its seeds.

    Args:
        study: What is to be done.
        problems: Its tasks' data, by the tasks' labels.
        out: The folder.
        store: Its database.
        command: What makes it so.

    Raises:
        ZeromeanError: It is another study, or has other data.
    """
    folder = Folder(out)
    with store.revising() as facts:  # another may have begun since the folder was looked at
        check_study(study, out, store)
        check_same_data(problems, decode_facts(facts["tasks"]))
        held = _settings(facts["study"])["seeds"]
        if study.seeds != held:
            begun = [one for one in json.loads(facts.get(results.BEGUN, "[]")) if one < study.seeds]
            if study.seeds > held:
                begun.append(held)
            else:
                folder.tidy()  # other seeds train together from now on
            facts.update(
                {"study": encode(study), "command": command, results.BEGUN: json.dumps(begun)}
            )
        if study.needs_file and (study.seeds != held or not folder.file.exists()):
            _keep_file(study, folder.file)


def _keep_file(study: Study, file: Path) -> None:
    """In one stroke. What is there may be the user's own, with comments: only its seeds change."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        if file.exists():
            text = file.read_text(encoding="utf-8")
            told, count = SEEDS.subn(rf"\g<1>{study.seeds}", text, count=1)
            new.write_text(told if count else f"seeds = {study.seeds}\n{text}", encoding="utf-8")
            _check_declared(study, new, file)
        else:
            new.write_text(as_toml(study), encoding="utf-8")
        os.replace(new, file)
    except OSError as error:
        raise ZeromeanError(
            f"{file}, which cannot be written ({error})",
            "a disk with room",
            "make room and give the same command again",
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _check_declared(study: Study, file: Path, name: Path) -> None:
    """Refuses a file that declares another study, by its name."""
    if _settings(encode(read(file))) != _settings(encode(study)):
        raise ZeromeanError(
            f"{name}, which declares another study",
            "none: the folder keeps the study's own there",
            "pass another folder, or give that file another name",
        )


def _settings(text: str) -> dict[str, Any]:
    """All but the note, which is none."""
    settings: dict[str, Any] = json.loads(text)
    return {name: value for name, value in settings.items() if name != "note"}


def _differing(own: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Names of the settings, those of the tasks among them, in which two studies differ."""
    found = [name for name in {**asked, **own} if own.get(name) != asked.get(name)]
    if "tasks" in found and len(own.get("tasks", ())) == len(asked["tasks"]):
        found.remove("tasks")
        for pair in zip(own["tasks"], asked["tasks"], strict=True):
            found += [name for name in _differing(*pair) if name not in found]
    return found
