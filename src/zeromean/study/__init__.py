"""Controlled comparisons of training methods: tasks x methods x optimizers x seeds.

>>> from zeromean.study import ImageTask, Study
>>> study = Study(tasks=(ImageTask(data="digits", model="mlp", epochs=1),), seeds=1)
>>> study.method_labels
('plain', 'gc')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zeromean.errors import needs_extra

with needs_extra("study", "zeromean.study"):
    from zeromean.study.spec.method import Method as Method
    from zeromean.study.spec.optimizer import Optimizer as Optimizer
    from zeromean.study.spec.program import ProgramTask as ProgramTask
    from zeromean.study.spec.schedule import Schedule as Schedule
    from zeromean.study.spec.study import Study as Study
    from zeromean.study.spec.task import FunctionTask as FunctionTask
    from zeromean.study.spec.task import ImageTask as ImageTask
    from zeromean.study.spec.task import TextTask as TextTask
    from zeromean.study.spec.toml import read as read
    from zeromean.study.spec.tuning import Tuning as Tuning

if TYPE_CHECKING:
    from zeromean.study.engine.run import run as run
    from zeromean.study.report import write as write_report

__all__ = [
    "FunctionTask", "ImageTask", "Method", "Optimizer", "ProgramTask", "Schedule", "Study",
    "TextTask", "Tuning", "read", "run", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # A declaration needs neither torch nor matplotlib.
    with needs_extra("study", f"zeromean.study.{name}"):
        if name == "run":
            from zeromean.study.engine.run import run

            return run
        if name == "write_report":
            from zeromean.study.report import write

            return write
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
