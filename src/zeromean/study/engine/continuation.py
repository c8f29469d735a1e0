"""Whether a folder can keep a study: it holds none, this very one, or this one with fewer seeds."""

from __future__ import annotations

import json
import os
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
        # Empty, it is being made by another process at this moment.
        taken = folder.database.exists() and folder.database.stat().st_size > 0
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
    elif (
        study.needs_file
        and folder.file.exists()
        and _settings(encode(read(folder.file))) != _settings(encode(study))
    ):
        raise ZeromeanError(
            f"{folder.file}, which declares another study",
            "none: the folder keeps the study's own there",
            "pass another folder, or give that file another name",
        )


def check_study(study: Study, out: Path, store: Store) -> None:
    """Refuses a study that is neither the folder's nor that with more seeds.

    Raises:
        ZeromeanError: It is another one; or the folder's is tuned or unfinished, and cannot grow.
    """
    kept, asked = _settings(store.facts.get("study", "{}")), _settings(encode(study))
    held = kept.get("seeds")
    if {**kept, "seeds": 0} != {**asked, "seeds": 0} or not isinstance(held, int):
        raise ZeromeanError(
            f"out {out}, which already holds a study with other settings",
            f"this study's folder, or one without {store.path.name}",
            "pass another folder, or remove the old study",
        )
    if study.seeds == held:
        return
    given = f"seeds = {study.seeds} in out {out}, which holds this study with {held}"
    if study.seeds < held:
        raise SettingError("seeds", given, f"{held} or more", "raise it, or pass another folder")
    if study.tuning is not None:
        raise ZeromeanError(
            f"{given}, tuned with seeds {held} and up",
            "seeds that the tuning has not used",
            "pass another folder",
        )
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
    if folder.database.is_file():
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
    check_study(study, out, store)  # another may have begun since the folder was looked at
    check_same_data(problems, decode_facts(store.facts["tasks"]))
    held = _settings(store.facts["study"])["seeds"]
    grows = study.seeds > held
    if grows:
        begun = [*json.loads(store.facts.get(results.BEGUN, "[]")), held]
        store.revise({"study": encode(study), "command": command, results.BEGUN: json.dumps(begun)})
    file = Folder(out).file
    # What is there declares this study, and may be the user's own, with comments.
    if study.needs_file and (grows or not file.exists()):
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(as_toml(study), encoding="utf-8")
        os.replace(new, file)


def _settings(text: str) -> dict[str, Any]:
    """All but the note, which is none."""
    settings: dict[str, Any] = json.loads(text)
    return {name: value for name, value in settings.items() if name != "note"}
