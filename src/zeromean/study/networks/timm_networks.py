"""Networks of the library timm, for ImageNet."""

from __future__ import annotations

import torch
from torch import nn

from zeromean.errors import ZeromeanError, needs_extra
from zeromean.study.spec.task import TIMM_PREFIX
from zeromean.study.spec.validation import SettingError


def timm_network(name: str, channels: int, side: int, classes: int) -> nn.Module:
    """Make a network of timm, and run it on one image to check the shapes.

    Args:
        name: Name in timm, such as ``resnet50``, for fresh weights; a name with a tag, such as
            ``resnet50.tv_in1k``, downloads pretrained weights for all layers but the last.
        channels: Number of channels of the images.
        side: Height and width of the images in pixels.
        classes: Number of outputs.

    Raises:
        ZeromeanError: timm is not installed or has no such network; weights cannot be downloaded;
            or the network does not take such images.
    """
    model = f'model "{TIMM_PREFIX}{name}"'
    with needs_extra("timm", model):
        try:
            import timm
        except RuntimeError as error:  # from torchvision, if it does not match torch
            raise ZeromeanError(
                f"{model} needs timm, which cannot be imported ({_line(error)})",
                "Install a torchvision that matches this torch",
            ) from error
    if not timm.is_model(name):
        raise SettingError(
            "model",
            f"{model} is not a name of timm.list_models() in timm {timm.__version__}",
            "Correct the name",
            instead="Install another version of timm",
        )
    try:
        network: nn.Module = timm.create_model(
            name, pretrained="." in name, num_classes=classes, in_chans=channels
        )
    # An unknown tag, no network access, no such channels: each has its own class of error.
    except Exception as error:
        raise SettingError(
            "model",
            f"{model} cannot be made by timm ({_line(error)})",
            "Correct the name; without its tag, the weights are fresh",
            instead="Install what timm needs",
        ) from error
    images = torch.zeros(1, channels, side, side)
    try:
        with torch.no_grad():
            outputs = network.eval()(images)
    except Exception as error:
        raise SettingError(
            "model",
            f"{model} does not take images of {channels}x{side}x{side} ({_line(error)})",
            "Use another model",
            instead="Pass images of the size that it is made for",
        ) from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (1, classes):
        raise SettingError(
            "model", f"{model} does not return one number per class", "Use another model"
        )
    return network.train()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
