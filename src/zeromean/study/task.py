"""What is learned, checked when declared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zeromean.study.settings import SettingError, blaming, check_at_least, check_name

# The names of choices live in tables beside their code, which loads torch; they are imported in
# the checks below, so that `zeromean --help` stays quick.

# Of an image, in pixels: a colored one takes 200 MB, as bytes.
LARGEST_SIDE = 8192
# Fields that only a task of images has.
OF_IMAGES = ("augment", "prepare", "gray", "resize", "crop", "test_per_class", "split")
SPLITS = ("fixed", "seed")


@dataclass(frozen=True)
class Task:
    """What is learned: data, a network, and how long it is trained.

    Args:
        data: ``digits``, ``idx:DIR``, ``npz:FILE``, ``cifar:DIR``, ``svhn:DIR``,
            ``imagefolder:DIR`` (or a tar archive), ``miniimagenet:DIR``, ``hf:NAME`` or ``hf:DIR``;
            or ``text``, which Python carries, or ``text:FILE``.
        model: For images a key of ``zeromean.study.networks.build.NETWORKS``, such as ``cnn``
            or ``resnet20``, or ``timm:NAME``; for text ``lstm`` or ``transformer``.
        function: ``module:function`` of a task of one's own, instead of data and model; see
            ``zeromean.study.tasks.user``.
        epochs: Passes over the training examples.
        batch_size: Examples a step.
        train_size: How many training examples are kept, chosen at random within each class; None
            for all.
        imbalance: How many times more training examples the first class has than the last.
        augment: ``none``; for images also ``crop-flip``, which shifts and mirrors them at random,
            ``affine``, which also turns and zooms them, or ``resized-crop-flip``, which cuts
            rectangles of any size out of them, scales these to ``crop`` and mirrors them.
        prepare: What networks see of images, by the training images alone: ``channel`` standardizes
            each channel, ``pixel`` each pixel; ``zca`` whitens after global contrast
            normalization.
        gray: Whether colored images are made gray first.
        resize: Height and width in pixels that image files are scaled to, whatever their
            proportions; None leaves them as they are.
        crop: Height and width of the middle that is kept of them then; None keeps all. With
            ``resized-crop-flip`` all is kept, of any images: it trains on crops of that size,
            and the middle is what is scored.
        test_per_class: How many images of each class are held out for the test, of data that
            comes without a test set; None for a share.
        split: ``fixed``, or ``seed`` for a test set of its own for each seed, of such data.
        schedule: How the learning rate goes from its peak: ``cosine`` to 0, ``constant``,
            ``every=60`` and ``drops=50,80`` (a tenth from then on, in epochs), ``halve=2000`` (in
            steps), or ``exponential=0.01`` (to that share of itself, a step each two epochs); a run
            that ends before all of it acts is refused.

    Raises:
        ZeromeanError: A name is unknown or a number out of range.

    Example:
        >>> Task(model="mlp", epochs=3).label
        'digits/mlp'
    """

    data: str = "digits"
    model: str = "cnn"
    function: str | None = None
    epochs: int = 12
    batch_size: int = 64
    train_size: int | None = None
    imbalance: float = 1.0
    augment: str = "none"
    prepare: str = "channel"
    gray: bool = False
    resize: int | None = None
    crop: int | None = None
    test_per_class: int | None = None
    split: str = "fixed"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        from zeromean.study.data.text import is_text
        from zeromean.study.networks.build import NETWORKS, OF_TIMM, listed
        from zeromean.study.networks.text import TEXT_NETWORKS
        from zeromean.study.schedules import Schedule
        from zeromean.study.tasks.augment import AUGMENTATIONS
        from zeromean.study.tasks.preparation import PREPARATIONS

        images = [name for name in OF_IMAGES if getattr(self, name) != getattr(Task, name)]
        own = (self.data, self.model) != (Task.data, Task.model) or images
        if self.function is not None and own:
            raise SettingError(
                "function",
                f"a task function {self.function} with"
                f" {', '.join(['data', 'model', *OF_IMAGES[:-1]])} or {OF_IMAGES[-1]}",
                "a function, which brings its own",
                "leave the others out",
            )
        networks = (*NETWORKS, OF_TIMM)
        check_name("model", listed(self.model), (*networks, *TEXT_NETWORKS))
        check_name("augment", self.augment, AUGMENTATIONS)
        check_name("prepare", self.prepare, PREPARATIONS)
        check_name("split", self.split, SPLITS)
        if is_text(self.data) != (self.model in TEXT_NETWORKS):
            fitting = ", ".join(TEXT_NETWORKS if is_text(self.data) else networks)
            raise SettingError(
                "model",
                f"model {self.model} for {self.data}",
                fitting,
                "name one of these models",
                "pass images" if self.model not in TEXT_NETWORKS else "pass text",
            )
        if is_text(self.data) and images:
            name = images[0]
            raise SettingError(
                name, f"{name} {getattr(self, name)} for text", "images for that", "drop it"
            )
        with blaming("schedule"):
            schedule = Schedule.parse(self.schedule)
        check_at_least("epochs", self.epochs, 1)
        if self.epochs < schedule.least_epochs:
            raise SettingError(
                "schedule",
                f"schedule {self.schedule} in a run of {self.epochs} epoch(s), which ends before"
                " all of it acts",
                f"{schedule.least_epochs} epochs or more for it",
                "raise epochs, or change the schedule",
            )
        check_at_least("batch_size", self.batch_size, 1)
        for name in ("train_size", "resize", "crop", "test_per_class"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        for name in ("resize", "crop"):
            if (getattr(self, name) or 0) > LARGEST_SIDE:
                raise SettingError(
                    name, f"{name} = {getattr(self, name)}", f"{LARGEST_SIDE} or less", "lower it"
                )
        if self.resize is not None and self.crop is not None and self.crop >= self.resize:
            raise SettingError(
                "crop",
                f"crop = {self.crop} with resize = {self.resize}",
                "a crop below the size",
                "lower it, or leave it out",
            )
        object.__setattr__(self, "imbalance", float(self.imbalance))
        if not 1 <= self.imbalance < math.inf:
            raise SettingError(
                "imbalance", f"imbalance = {self.imbalance}", "1 or more", "raise it"
            )

    @property
    def label(self) -> str:
        """What the task is called in tables and in the database: what is not as usual is told."""
        extras = [
            f"{name}={getattr(self, name)}"
            for name in ("train_size", "imbalance", *OF_IMAGES, "schedule")
            if getattr(self, name) != getattr(Task, name)
        ]
        return " ".join([self.function or f"{self.data}/{self.model}", *extras])

    @property
    def early_epoch(self) -> int:
        """A third of the way: where a head start shows that the end no longer tells."""
        return math.ceil(self.epochs / 3)
