"""Networks of the library timm, for ImageNet."""

from __future__ import annotations

import torch
from torch import nn

from zeromean.study.extras import of_extra
from zeromean.study.settings import SettingError

PREFIX = "timm:"


def is_of_timm(model: str) -> bool:
    """Whether a task's model is one of timm's."""
    return model.startswith(PREFIX) and model != PREFIX


def timm_network(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """The network that timm makes by this name, tried out on one image.

    Args:
        name: As timm has it, such as ``resnet50``. Its weights are drawn anew; one with a tag,
            such as ``resnet50.tv_in1k``, starts from those pretrained weights, which timm
            downloads, all but its last layer.
        channels: Of the images.
        side: Height and width of the images in pixels.
        classes: Number of outputs.

    Raises:
        ZeromeanError: timm is not installed, or has no network of that name; weights cannot be
            had; or the network does not take such images.
    """
    with of_extra("timm", f"model {PREFIX}{name}"):
        import timm
    if not timm.is_model(name):
        raise SettingError(
            "model",
            f"model {PREFIX}{name}, which timm {timm.__version__} does not have",
            "a name of timm.list_models()",
            "mend the name",
            "get another version of timm",
        )
    pretrained = "." in name
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=classes, in_chans=channels
        )
    # An unknown tag, no way to the weights, no such channels: each in a class of its own.
    except Exception as error:
        raise SettingError(
            "model",
            f"model {PREFIX}{name}, which timm cannot make ({_line(error)})",
            "a name of timm.list_models(), with a tag only where its weights can be had",
            "mend the name (without its tag the weights are drawn anew)",
            "let timm have what it lacks",
        ) from error
    images = torch.zeros(1, channels, side, side)
    try:
        with torch.no_grad():
            outputs = network.eval()(images)
    except Exception as error:  # each of timm's networks has ways of its own
        raise SettingError(
            "model",
            f"model {PREFIX}{name} with images of {channels}x{side}x{side}, which it does not"
            f" take ({_line(error)})",
            "images of the size that it is made for",
            "use another model",
            "pass images of another size",
        ) from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (1, classes):
        raise SettingError(
            "model",
            f"model {PREFIX}{name}, which gives no number a class",
            "a network that classifies",
            "use another model",
        )
    return network.train()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
