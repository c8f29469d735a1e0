"""Studies from Python, tables and files go through the same checks."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeromean.errors import ZeromeanError
from zeromean.study.spec import presets, toml
from zeromean.study.spec.method import Method
from zeromean.study.spec.optimizer import Optimizer, equivalent
from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.schedule import Schedule
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import FunctionTask, ImageTask, TextTask, make_task
from zeromean.study.spec.toml import tomllib
from zeromean.study.spec.tuning import Tuning
from zeromean.study.spec.validation import SettingError

ROOT = Path(__file__).parents[3]
STUDIES = [
    Study(),
    Study(methods=("plain", "gc", "ws-conv+gc"), optimizers=("sgd", "adamw"), note='a "b"\n\tc'),
    Study(
        methods=("plain", Method("mine", reparametrization="nnn", eps=0.01, clip_norm=1)),
        optimizers=(Optimizer("sgd", label="fast", lr=0.3, nesterov=True), Optimizer("rmsprop")),
        tasks=(
            ImageTask(schedule=Schedule("multistep", milestones=(3, 5)), epochs=9, gray=True),
            TextTask(model="transformer", schedule="constant"),
        ),
        threads=3,
    ),
    Study(
        tasks=(FunctionTask(function="a.py:b"),),
        tuning=Tuning(rates=(0.1, 0.2), weight_decays=(0, 1e-3), epochs=2),
    ),
    Study(
        tasks=(ProgramTask(command=("a.py", "{seed}", "{x}"), metric="loss=loss NUMBER"),),
        methods=("plain", Method("long", arguments=("--long", "\u2028"))),
        tuning=Tuning(values={"x": (1, 2.5)}, seeds=3),
    ),
]


@pytest.mark.parametrize("study", STUDIES)
def test_study_survives_tables_files_and_processes(study: Study, tmp_path: Path) -> None:
    assert toml.from_table(toml.to_table(study)) == study
    file = tmp_path / "study.toml"
    file.write_text(toml.to_toml(study), encoding="utf-8")
    assert toml.read(file) == study
    again = pickle.loads(pickle.dumps(study))
    assert (again, hash(again)) == (study, hash(study))


PROGRAM = {"command": ["a.py", "{out}"], "metric": "loss=loss NUMBER"}
OPTUNA = {"rates": [1, 2], "search": "optuna", "trials": 3}


@pytest.mark.parametrize(
    ("table", "setting", "problem"),
    [
        ({"seeds": "3"}, "seeds", "seeds is '3', but it has to be a whole number, not a text"),
        ({"seeds": True}, "seeds", "not true or false"),
        ({"seeds": 0}, "seeds", "at least 1"),
        ({"seeds": 10**4500}, "seeds", "thousands of digits"),
        ({"lr": float("nan")}, "lr", "lr is nan"),
        ({"lr": 10**400}, "lr", "out of range"),
        ({"seed": 1}, "seed", "'seed' is not one of the keys .*seeds.* Write seeds"),
        ({"tasks": 3}, "tasks", "a list"),
        ({"tasks": [3]}, "tasks", r"^tasks\[0\] is 3, but it has to be a table"),
        ({"tasks": {"epochs": 3}}, "tasks", r"Write \[\[tasks\]\]"),
        ({"tasks": []}, "tasks", "empty"),
        ({"tasks": [{}, {}]}, "tasks", "digits/cnn appears 2 times"),
        ({"tasks": [{}, {"epochs": 3}]}, "tasks", "in a study of its own"),
        ({"tasks": [{"epoch": 3}]}, "epoch", r"^tasks\[0\]: 'epoch' is not one of"),
        ({"tasks": [{}, {"epochs": 10**9}]}, "epochs", r"^tasks\[1\]: epochs is 1000000000"),
        ({"tasks": [{"data": "a\0b"}]}, "data", "character"),
        ({"tasks": [{"model": "lstm"}]}, "model", "reads text"),
        ({"tasks": [{"data": "text", "model": "cnn"}]}, "model", "does not read text"),
        ({"tasks": [{"data": "text", "gray": True}]}, "gray", "'gray' is not one of"),
        ({"tasks": [{"model": "resnet21"}]}, "model", "resnet20"),
        ({"tasks": [{"border": "black"}]}, "border", "crop-flip"),
        ({"tasks": [{"resize": 8, "crop": 8}]}, "crop", "not below resize 8"),
        ({"tasks": [{"function": "f"}], "lr": 1}, "function", "module:function"),
        ({"tasks": [{"function": "a:f"}]}, "lr", "no customary learning rate"),
        (
            {"tasks": [{"schedule": "cosin"}]},
            "kind",
            r"^tasks\[0\]: schedule: kind 'cosin' .*cosine",
        ),
        ({"tasks": [{"schedule": {"kind": "step"}}]}, "schedule", "needs every"),
        ({"tasks": [{"schedule": {"every": 3}}]}, "schedule", "has no every"),
        ({"tasks": [{"schedule": {"kind": "step", "every": 0}}]}, "every", "every is 0"),
        ({"tasks": [{"schedule": {"kind": "step", "every": 12}}]}, "schedule", "needs 13 epochs"),
        (
            {"tasks": [{"schedule": {"kind": "multistep", "milestones": [5, 3]}}]},
            "schedule",
            "rise",
        ),
        ({"methods": ["plain", "cg"]}, "methods", '"cg" is not one of'),
        (
            {"methods": ["plain", 3]},
            "methods",
            r"^methods\[1\] is 3, but .* a short name or a table",
        ),
        ({"methods": ["plain", "gc+gc-conv"]}, "methods", "sets gradient twice"),
        ({"methods": ["plain", "ws+wn-conv"]}, "methods", "sets reparametrization twice"),
        ({"methods": ["plain"]}, "methods", "only method"),
        ({"methods": ["gc"]}, "methods", "without plain"),
        ({"methods": ["plain", "gc", {"label": "x", "gradient": "gc"}]}, "methods", "the same"),
        ({"methods": ["plain", {"gradient": "gc"}]}, "label", r"methods\[1\]: label is missing"),
        ({"methods": ["plain", {"label": "x"}]}, "label", "changes nothing"),
        ({"methods": [{"label": "plain", "gradient": "gc"}]}, "label", "plain training"),
        ({"methods": ["plain", {"label": "x", "at": "update"}]}, "at", "gradient"),
        (
            {"methods": ["plain", {"label": "x", "gradient": "gc", "eps": 1}]},
            "eps",
            "without reparametrization",
        ),
        (
            {"methods": ["plain", {"label": "x", "reparametrization": "wn", "mean": "keep"}]},
            "mean",
            "subtracts no mean",
        ),
        (
            {"methods": ["plain", {"label": "x", "reparametrization": "ws", "init": "unit"}]},
            "init",
            "has no gain",
        ),
        ({"tasks": [PROGRAM], "optimizers": [{"name": "program", "lr": 1}]}, "lr", "sets its own"),
        (
            {"tasks": [{**PROGRAM, "tune_metric": "loss=val NUMBER"}]},
            "tune_metric",
            "nothing is tuned",
        ),
        ({"tasks": [{**PROGRAM, "devices": ["0", "0"]}]}, "devices", "0 appears 2 times"),
        (
            {"tasks": [{**PROGRAM, "other_metrics": ["epoch=csv:a.csv:epoch"]}]},
            "other_metrics",
            "epoch is a name under which runs record",
        ),
        ({"optimizers": ["sgdd"]}, "optimizers", '"sgdd" is not one of'),
        ({"optimizers": [{"name": "adam", "momentum": 0.9}]}, "momentum", "adam has no momentum"),
        ({"optimizers": [{"name": "sgd", "momentum": 1}]}, "momentum", "below 1"),
        ({"optimizers": ["sgd", {"name": "sgd", "label": "b"}]}, "optimizers", "the same"),
        ({"optimizers": [{"name": "sgd", "lr": 1}], "lr": 1}, "optimizers", "learning rate"),
        ({"tuning": {}}, "rates", "tuning: rates is empty"),
        ({"tuning": {"rates": [0]}}, "rates", "above 0"),
        ({"tuning": {"rates": [1], "trials": 2}}, "trials", "grid"),
        ({"tuning": {"rates": [1], "weight_decays": [2]}}, "weight_decays", "at most 1"),
        ({"tuning": {"rates": [1, 2], "search": "optuna"}}, "trials", "needs trials"),
        ({"tuning": {**OPTUNA, "rates": [1]}}, "rates", "has one rate"),
        ({"tuning": {**OPTUNA, "extensions": 1}}, "extensions", "only a grid grows"),
        ({"tuning": {"rates": [1], "extensions": 1}}, "extensions", "one rate does not grow"),
        ({"tuning": {**OPTUNA, "weight_decays": [0, 1]}}, "weight_decays", "above 0"),
        ({"tuning": {"values": {"a": [1]}, "validation": 0.3}}, "validation", "both given"),
        ({"tuning": {"values": {"a": [1]}, "epochs": 0}}, "epochs", "both given"),
        ({"tuning": {"values": {"\N{GREEK SMALL LETTER ETA}": [1]}}}, "values", "placeholder"),
        ({"tuning": 3}, "tuning", "it has to be a table, not a whole number"),
        ({"precision": "half"}, "precision", "bfloat16"),
        ({"note": "\x1b[3m"}, "note", "character"),
    ],
)
def test_bad_tables_name_the_setting_and_the_place(
    table: dict[str, Any], setting: str, problem: str
) -> None:
    with pytest.raises(SettingError, match=problem) as caught:
        toml.from_table(table)
    assert caught.value.setting == setting
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"seeds = ", "not valid TOML"),
        (b"seeds = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"\xff", "cannot be read"),
        (b"[[tasks]]\nepoch = 3", r"study.toml: tasks\[0\]: 'epoch'"),
    ],
)
def test_bad_files_are_named(text: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_bytes(text)
    with pytest.raises(ZeromeanError, match=problem):
        toml.read(file)


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"  # as some editors on Windows write it
    file.write_text("seeds = 3", encoding="utf-8-sig")
    assert toml.read(file).seeds == 3


def test_missing_files_and_impossible_paths_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, Path("a\0b.toml")):
        with pytest.raises(ZeromeanError, match="cannot be read"):
            toml.read(path)


def test_keys_decide_the_kind_of_task() -> None:
    kinds = {"function": "a:b"}, {"data": "text:f", "model": "lstm"}, {"data": "npz:text"}
    assert [type(make_task(one)) for one in kinds] == [FunctionTask, TextTask, ImageTask]


def test_every_preset_makes_a_method_of_its_own() -> None:
    made = [presets.method(name) for name in presets.METHOD_NAMES]
    assert len({one.changes for one in made}) == len(made)
    assert [one.label for one in made] == [*presets.METHOD_NAMES]
    assert presets.method("plain+gc").changes == presets.method("gc").changes


@pytest.mark.parametrize(
    ("optimizer", "same"),
    [
        (Optimizer("sgd"), True),
        (Optimizer("sgd", nesterov=True), True),
        (Optimizer("sgdw"), False),
        (Optimizer("sgdw", weight_decay=0), True),
        (Optimizer("adam"), False),
        (Optimizer("rmsprop"), False),
    ],
)
def test_update_centering_is_equivalent_for_linear_optimizers(
    optimizer: Optimizer, same: bool
) -> None:
    for one, other in (("gc", "gc-update"), ("gc-conv", "gc-conv-update")):
        pair = presets.method(one), presets.method(other)
        assert equivalent(*pair, optimizer) == same
    assert not equivalent(presets.method("gc"), presets.method("gc-conv-update"), optimizer)


def test_equivalent_methods_are_trained_once() -> None:
    study = Study(methods=("plain", "gc-update", "gc"), optimizers=("sgd", "adamw"))
    assert study.trained_methods("sgd") == ("plain", "gc-update")
    assert study.trained_methods("adamw") == ("plain", "gc-update", "gc")


def test_declarations_need_no_torch() -> None:
    code = "import sys, zeromean.study as s; s.Study(); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["gc", "plain", "sgd", "cosine", "text", "digits", "a:b", "grid", "NUMBER"]),
    st.sampled_from([10**400, -1, 0, 2**31]),
)
KEYS = st.sampled_from(
    sorted(
        {
            name
            for cls in (Study, ImageTask, TextTask, FunctionTask, ProgramTask, Method, Optimizer)
            for name in cls.__struct_fields__
        }
        | {*Schedule.__struct_fields__, *Tuning.__struct_fields__}
    )
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(table=st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_table_makes_a_study_or_a_zeromean_error(table: dict[str, Any]) -> None:
    message = ""
    try:
        study = toml.from_table(table)
    except ZeromeanError as error:
        message = str(error)
    else:
        assert toml.from_table(toml.to_table(study)) == study
        assert toml.from_table(tomllib.loads(toml.to_toml(study))) == study
    assert "\n" not in message


@pytest.mark.parametrize("file", sorted((ROOT / "docs/results/studies").glob("*.toml")), ids=str)
def test_study_files_of_the_published_results_are_valid(file: Path) -> None:
    assert toml.read(file).tasks


def test_an_unknown_label_is_named() -> None:
    study = Study()
    for kind in ("task", "method", "optimizer"):
        with pytest.raises(ZeromeanError, match=f"{kind} 'other' is not one of"):
            getattr(study, kind)("other")
    with pytest.raises(ZeromeanError, match="optimizer 'other' is not one of sgd"):
        study.distinct_methods("other")
