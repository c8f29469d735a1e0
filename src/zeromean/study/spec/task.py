"""The kinds of tasks that a study can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from zeromean.study.spec.program import ProgramTask
from zeromean.study.spec.schedule import DEFAULT_SCHEDULE, Schedule, resolve_schedule
from zeromean.study.spec.validation import (
    SettingError,
    Spec,
    build,
    check_name,
    check_range,
)

# Bounds far above any real study, within the integers that torch and SQLite hold.
MAX_EPOCHS = 100_000
MAX_EXAMPLES = 2**31 - 1
# A color image of this side takes 200 MB as bytes.
MAX_SIDE = 8192
IMAGE_MODELS = (
    "mlp", "cnn", "resnet20", "resnet18", "resnet50", "resnet56", "resnet101", "resnext29", "vgg11",
    "vgga", "densenet121", "googlenet", "googlenet-imagenet", "mlp-yaleb", "mlp-svhn", "horses",
)  # fmt: skip
TEXT_MODELS = ("lstm", "transformer")
TIMM_PREFIX = "timm:"
TIMM_NAME = f"{TIMM_PREFIX}NAME"


def model_family(model: str) -> str:
    """Return the name under which tables list a network: itself, or that of all timm networks.

    Example:
        >>> model_family("resnet20"), model_family("timm:resnet50")
        ('resnet20', 'timm:NAME')
    """
    return TIMM_NAME if model.startswith(TIMM_PREFIX) and model != TIMM_PREFIX else model


class TrainedTask(Spec, frozen=True, kw_only=True, tag_field="kind"):
    """The settings of every task that zeromean trains itself.

    Args:
        epochs: Number of passes over the training examples.
        batch_size: Number of examples per step; an incomplete last batch is left out.
        train_size: Number of training examples, drawn at random within each class; None for all.
        imbalance: Ratio of the number of training examples of the first class to that of the last.
        schedule: Learning-rate schedule, or the name of a kind that has no fields.
    """

    named_by: ClassVar[tuple[str, ...]] = ("data", "model")

    epochs: int = 12
    batch_size: int = 64
    train_size: int | None = None
    imbalance: float = 1.0
    schedule: Schedule = DEFAULT_SCHEDULE

    def _resolve(self, name: str, value: Any) -> Any:
        return resolve_schedule(value) if name == "schedule" else value

    def _check(self) -> None:
        check_range("epochs", self.epochs, 1, MAX_EPOCHS)
        if self.epochs < self.schedule.min_epochs:
            raise SettingError(
                "schedule",
                f"the schedule {self.schedule.label} needs {self.schedule.min_epochs} epochs, but"
                f" epochs is {self.epochs}",
                "Raise epochs, or change the schedule",
            )
        check_range("batch_size", self.batch_size, 1, MAX_EXAMPLES)
        if self.train_size is not None:
            check_range("train_size", self.train_size, 1, MAX_EXAMPLES)
        check_range("imbalance", self.imbalance, 1, 1e9)

    @property
    def source(self) -> str:
        """The data and the model, such as ``digits/cnn``; or the function."""
        return "/".join(getattr(self, name) for name in self.named_by)

    @property
    def title(self) -> str:
        """The data or the function, for titles."""
        return str(getattr(self, self.named_by[0]))

    @property
    def label(self) -> str:
        """The name of the task in tables and in the database.

        It contains every setting that is not the default, except epochs and batch size.
        """
        settings = []
        for name in self.changed:
            if name not in (*self.named_by, "epochs", "batch_size"):
                value = getattr(self, name)
                text = value.label if isinstance(value, Schedule) else value
                settings.append(f"{name}={text}")
        return " ".join([self.source, *settings])


class ImageTask(TrainedTask, frozen=True, kw_only=True, tag="image"):
    """Classification of images.

    Args:
        data: ``digits``, ``idx:DIR``, ``npz:FILE``, ``cifar:DIR``, ``svhn:DIR``,
            ``imagefolder:DIR`` (or a tar archive), ``miniimagenet:DIR``, ``hf:NAME`` or ``hf:DIR``.
        model: One of ``IMAGE_MODELS``, or ``timm:NAME``.
        augment: Random changes of training images: ``none``; ``crop-flip`` shifts and mirrors them;
            ``affine`` also rotates and zooms them; ``resized-crop-flip`` cuts rectangles of any
            size out of them, scales these to ``crop`` and mirrors them.
        border: Pixels that ``crop-flip`` shifts in: ``mean``, the mean color of the training
            images (default), ``black`` or ``reflect``.
        preprocess: Preprocessing of the images: ``channel`` standardizes each channel, ``pixel``
            each pixel; ``zca`` whitens after global contrast normalization. The statistics come
            from the training images alone.
        gray: Whether color images are converted to gray.
        resize: Height and width in pixels that image files are scaled to; None to keep their size.
        crop: Height and width in pixels of the center that is kept; None for the whole image. With
            ``resized-crop-flip``, the size of the training crops and of the center that is scored.
        test_per_class: Number of test images per class, for data without a test set; None for a
            share of all images.
        split: Choice of the test set, for data without one: ``fixed``, or ``seed`` for another one
            per seed.

    The other arguments are those of :class:`zeromean.study.spec.task.TrainedTask`.

    Raises:
        ZeromeanError: A name is unknown, a number is out of range, or settings do not go together.

    Example:
        >>> ImageTask(model="mlp", epochs=3).label
        'digits/mlp'
    """

    data: str = "digits"
    model: str = "cnn"
    augment: Literal["none", "crop-flip", "affine", "resized-crop-flip"] = "none"
    border: Literal["mean", "black", "reflect"] = "mean"
    preprocess: Literal["channel", "pixel", "zca"] = "channel"
    gray: bool = False
    resize: int | None = None
    crop: int | None = None
    test_per_class: int | None = None
    split: Literal["fixed", "seed"] = "fixed"

    def _check(self) -> None:
        if self.model in TEXT_MODELS:
            raise SettingError(
                "model",
                f'model "{self.model}" reads text, but data is "{self.data}"',
                f"Use one of the models {', '.join((*IMAGE_MODELS, TIMM_NAME))}",
                instead="Pass data text or text:FILE",
            )
        if is_text(self.data):
            raise _not_for_text(self)
        check_name("model", model_family(self.model), (*IMAGE_MODELS, TIMM_NAME))
        super()._check()
        if self.border != "mean" and self.augment != "crop-flip":
            raise SettingError(
                "border",
                f'border is "{self.border}", but only augment = "crop-flip" has a border',
                "Remove border",
            )
        for name in ("resize", "crop"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, MAX_SIDE)
        if self.test_per_class is not None:
            check_range("test_per_class", self.test_per_class, 1, MAX_EXAMPLES)
        if self.resize is not None and self.crop is not None and self.crop >= self.resize:
            raise SettingError(
                "crop", f"crop {self.crop} is not below resize {self.resize}", "Lower crop"
            )


class TextTask(TrainedTask, frozen=True, kw_only=True, tag="text"):
    """Prediction of the next character of a text.

    Args:
        data: ``text`` for a text that is part of Python, or ``text:FILE``.
        model: ``lstm`` or ``transformer``.

    The other arguments are those of :class:`zeromean.study.spec.task.TrainedTask`.

    Example:
        >>> TextTask(model="lstm").label
        'text/lstm'
    """

    data: str = "text"
    model: str = "lstm"

    def _check(self) -> None:
        if not is_text(self.data):
            raise SettingError("data", f'data "{self.data}" is not text', "Use text or text:FILE")
        if self.model not in TEXT_MODELS:
            raise _not_for_text(self)
        super()._check()


class FunctionTask(TrainedTask, frozen=True, kw_only=True, tag="function"):
    """A task that a Python function of the user returns.

    Args:
        function: ``module:function`` or ``file.py:function``; see
            :mod:`zeromean.study.tasks.function` for its result.

    The other arguments are those of :class:`zeromean.study.spec.task.TrainedTask`.

    Example:
        >>> FunctionTask(function="train.py:task").label
        'train.py:task'
    """

    named_by: ClassVar[tuple[str, ...]] = ("function",)

    function: str

    def _check(self) -> None:
        module, colon, name = self.function.rpartition(":")
        if not (module and colon and name):
            raise SettingError(
                "function",
                f'function "{self.function}" is not of the form module:function',
                "Write it as module:function or file.py:function",
            )
        super()._check()


TaskSpec: TypeAlias = ImageTask | TextTask | FunctionTask | ProgramTask
# The kind of task by the key that marks it in a study file; other tables describe image and text
# tasks.
TASK_KINDS: dict[str, type[Any]] = {"function": FunctionTask, "command": ProgramTask}


def make_task(table: Mapping[str, Any], place: str = "") -> Any:
    """Return the task that a table describes; its keys and its data determine the kind.

    Args:
        table: The settings of the task.
        place: The place of the table in its file, for messages.

    Raises:
        ZeromeanError: A key is unknown, or a value is not allowed.

    Example:
        >>> make_task({"data": "text", "model": "lstm"}).label
        'text/lstm'
    """
    for key, kind in TASK_KINDS.items():
        if key in table:
            return build(kind, table, place)
    return build(TextTask if is_text(table.get("data", "")) else ImageTask, table, place)


def _not_for_text(task: ImageTask | TextTask) -> SettingError:
    return SettingError(
        "model",
        f'model "{task.model}" does not read text, but data is "{task.data}"',
        f"Use one of the models {', '.join(TEXT_MODELS)}",
        instead="Pass images",
    )


def is_text(data: object) -> bool:
    """Return whether ``data`` names a text: ``text`` or ``text:FILE``."""
    return isinstance(data, str) and (data == "text" or data.startswith("text:"))
