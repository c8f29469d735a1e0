"""The short names of methods and optimizers, such as ``gc`` and ``sgd``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from zeromean.study.spec.method import BASELINE, Method
from zeromean.study.spec.optimizer import CUSTOMARY, Optimizer
from zeromean.study.spec.validation import SettingError

PARTS: dict[str, Mapping[str, Any]] = {
    BASELINE: {},
    "gc": {"gradient": "gc"},
    "gc-conv": {"gradient": "gc-conv"},
    "gc-update": {"gradient": "gc", "at": "update"},
    "gc-conv-update": {"gradient": "gc-conv", "at": "update"},
    "gc-tensor": {"gradient": "gc-tensor"},
    "zscore": {"gradient": "zscore"},
    **{name: {"reparametrization": name} for name in ("wn", "cwn", "ws", "nnn")},
    **{
        f"{name}-conv": {"reparametrization": name, "layers": "conv"}
        for name in ("wn", "cwn", "ws")
    },
    # The papers start with every gain at 1, whatever the length of the weight vector.
    **{f"{name}-unit": {"reparametrization": name, "init": "unit"} for name in ("wn", "cwn")},
    **{
        f"{name}-conv-unit": {"reparametrization": name, "layers": "conv", "init": "unit"}
        for name in ("wn", "cwn")
    },
    **{f"norm={name}": {"normalization": name} for name in ("batch", "group", "none")},
    **{f"init={name}": {"initialization": name} for name in ("torch", "lecun", "xavier", "he")},
}  # fmt: skip
METHOD_NAMES = tuple(PARTS)
OPTIMIZER_NAMES = tuple(CUSTOMARY)


def method(name: str) -> Method:
    """Return the method of a short name, or of several that are joined by ``+``.

    Raises:
        ZeromeanError: A name is unknown, or two names set the same field.

    Example:
        >>> method("ws-conv+gc").calls
        'reparametrize(model, "ws", layers="conv"); centralize(optimizer, model)'
    """
    fields: dict[str, Any] = {}
    for part in name.split("+"):
        if part not in PARTS:
            near = difflib.get_close_matches(part, METHOD_NAMES, 1) or ["gc"]
            raise SettingError(
                "methods",
                f'the method "{name}" is not one of {", ".join(METHOD_NAMES)}, or several of these'
                " joined by +",
                f"Use one of these, such as {near[0]}, or write a table [[methods]] in a file",
            )
        twice = fields.keys() & PARTS[part].keys()
        if twice:
            raise SettingError(
                "methods",
                f'the method "{name}" sets {", ".join(sorted(twice))} twice',
                "Leave one of its parts out",
            )
        fields.update(PARTS[part])
    return Method(name, **fields)


def optimizer(name: str) -> Optimizer:
    """Return the optimizer of a short name, with its customary settings.

    Raises:
        ZeromeanError: The name is unknown.
    """
    if name not in CUSTOMARY:
        near = difflib.get_close_matches(name, OPTIMIZER_NAMES, 1) or ["sgd"]
        raise SettingError(
            "optimizers",
            f'the optimizer "{name}" is not one of {", ".join(OPTIMIZER_NAMES)}',
            f"Use one of these, such as {near[0]}, or write a table [[optimizers]] in a file",
        )
    return Optimizer(name)
