"""Begin a study in a folder, continue it, or give it more seeds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec

from zeromean.errors import ZeromeanError
from zeromean.study.engine import results
from zeromean.study.engine.scheduler import final_seeds
from zeromean.study.engine.store import Store
from zeromean.study.spec.records import FINAL
from zeromean.study.spec.study import Study
from zeromean.study.spec.toml import read, to_table, to_toml
from zeromean.study.spec.validation import SettingError
from zeromean.study.tasks.interface import TaskInfo
from zeromean.tables import amount

# Matches the number of seeds in a study file, which comes before the first table.
SEEDS = re.compile(r"""\A((?:(?!\s*\[).*\n)*?\s*["']?seeds["']?\s*=\s*)[^\s#]+""")


def check_folder(study: Study, out: Path) -> None:
    """Check that a study can be stored in a folder.

    Raises:
        ZeromeanError: The folder is a file, cannot be written to, or holds another study.
    """
    try:
        if "\0" in str(out):
            raise ValueError("it contains the character NUL")
        str(out).encode()  # the database and the report name the folder in UTF-8
        taken = results.holds_study(out)
        if out.exists() and not out.is_dir():
            raise ZeromeanError(f"out {out} is a file", "Pass a folder")
        place = next(one for one in (out, *out.absolute().parents) if one.exists())
        TemporaryFile(dir=place).close()  # it leaves nothing behind
    except (OSError, ValueError) as error:
        raise ZeromeanError(
            f"out {str(out)!r} cannot be used ({getattr(error, 'strerror', None) or error})",
            "Pass a folder that can be written to",
        ) from error
    file = out / "study.toml"
    if taken:
        with results.open_store(out) as (store, held, _):
            _check_study(study, held, out, store)
    elif file.exists():
        _check_file(study, file, file)


def begin_or_resume(
    study: Study, infos: Mapping[str, TaskInfo], out: Path, threads: int, command: str
) -> Store:
    """Make a folder's study this one, and open its database.

    Args:
        study: The study.
        infos: Information on the tasks, by their labels.
        out: The folder; this is the only program that writes to it.
        threads: Number of CPU threads per run, of a study that begins.
        command: The command for the report.

    Raises:
        ZeromeanError: The folder holds another study, or one that began with other data.
    """
    facts = {
        "study": json.dumps(to_table(study), sort_keys=True),
        "command": command,
        "threads": str(threads),
        "tasks": msgspec.json.encode(infos).decode(),
    }
    file = out / "study.toml"
    if results.holds_study(out):
        with results.open_store(out) as (store, held, known):
            _check_study(study, held, out, store)
            results.check_same_data(infos, known)
            store.restart_failed_tasks()
            if study != held:
                revised = {"study": facts["study"]}
                if study.seeds != held.seeds:
                    begun = [one for one in results.begun(store) if one < study.seeds]
                    begun += [held.seeds] if study.seeds > held.seeds else []
                    revised |= {"command": command, results.BEGUN: json.dumps(begun)}
                # First, so that the same command continues after an error.
                _write_file(study, held, file)
                store.revise(revised)
    else:
        results.remove_checkpoints(out)  # of a study whose database was removed
    store = Store.create(out / results.DATABASE, facts)
    if not file.exists():
        _write_file(study, study, file)
    return store


def _check_study(study: Study, held: Study, out: Path, store: Store) -> None:
    """Raise if a folder holds another study, or cannot change to this number of seeds."""
    own, asked = _settings(held), _settings(study)
    if others := _differing({**own, "seeds": 0}, {**asked, "seeds": 0}):
        raise ZeromeanError(
            f"the folder {out} holds a study with other settings ({', '.join(others)})",
            "Pass another folder as out (on the command line: --out FOLDER)",
        )
    if study.seeds == held.seeds:
        return
    given = f"seeds is {study.seeds}, but out {out} holds this study with {held.seeds}"
    seeds, kept = final_seeds(held), store.keys()
    least = 1 + max((seeds.index(key.seed) for key in kept if key.trial == FINAL), default=0)
    if study.seeds < least:
        raise SettingError(
            "seeds", f"{given} and has runs of {least}", "Raise seeds, or pass another folder"
        )
    if study.seeds > held.seeds and (missing := results.missing_runs(held, out)):
        raise ZeromeanError(
            f"{given}, of which {amount(len(missing), 'run')} did not finish",
            f"Finish it first: {store.facts.get('command', '')}",
        )


def _write_file(study: Study, held: Study, file: Path) -> None:
    """Replace the study file in one step; of a file of the user, only the seeds change."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        text = file.read_bytes().decode("utf-8-sig", "replace") if file.exists() else None
        if text in (None, to_toml(held)):
            text = to_toml(study)
        elif study.seeds != held.seeds:
            read(file)  # an error names the file itself
            text, count = SEEDS.subn(rf"\g<1>{study.seeds}", text, count=1)
            text = text if count else f"seeds = {study.seeds}\n{text}"
        else:
            return
        new.write_bytes(text.encode())
        _check_file(study, new, file)
        os.replace(new, file)
    except OSError as error:
        raise ZeromeanError(
            f"{file} cannot be written ({error})", "Make room and give the same command again"
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _check_file(study: Study, file: Path, name: Path) -> None:
    """Raise if a file declares another study."""
    if _settings(read(file)) != _settings(study):
        raise ZeromeanError(
            f"{name} declares another study, and the folder keeps its own under that name",
            "Pass another folder, or rename that file",
        )


def _settings(study: Study) -> dict[str, Any]:
    """Return all settings that results depend on."""
    return {name: value for name, value in to_table(study).items() if name != "note"}


def _differing(own: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the names of the settings in which two studies differ."""
    found = [name for name in {**asked, **own} if own.get(name) != asked.get(name)]
    for name in ("tasks", "methods", "optimizers"):
        one, other = own.get(name), asked.get(name)
        if name in found and one and other and len(one) == len(other):
            found.remove(name)
            for pair in zip(one, other, strict=True):
                found += [inner for inner in _differing(*pair) if inner not in found]
    return found
