"""Layers with centered weight normalization, in the place of torch's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, rule_for
from zeromean.plan import check_option
from zeromean.reparam.parametrization import (
    CenteredWeightNorm,
    assign,
    parametrized_by,
    register,
)
from zeromean.reparam.refusals import refuse_options

__all__ = ["CWNConv1d", "CWNConv2d", "CWNConv3d", "CWNConvTranspose2d", "CWNLinear"]


class _CWN(nn.Module):
    """Centres and normalizes the weight of the layer that it is mixed into."""

    _folds_to: ClassVar[type[nn.Module]]
    weight: Tensor

    def __init__(
        self,
        *args: Any,
        scale: Literal["learned"] | float = "learned",
        init: Literal["unit", "preserve"] = "unit",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_option("init", init, ("unit", "preserve"))
        refuse_options(self, "cwn", scale, "preserve", "drop", None, None)
        if scale != "learned" and init == "preserve":
            raise ZeromeanError(
                f"init='preserve' with scale={scale!r}",
                "a learned gain to start from the weight's length",
                "leave init or scale out",
            )
        rule = rule_for(type(self))
        fan_in = rule(self)["weight"] if rule else None
        assert isinstance(fan_in, FanIn)
        shape = tuple(self.weight.shape)
        if fan_in.size(shape) == 1:
            raise ZeromeanError(
                f"{type(self).__name__} with a weight of shape {shape}, whose fan-in is 1",
                "weight vectors of two or more entries: one entry less its mean is 0",
                f"use torch.nn.{self._folds_to.__name__}",
            )
        self.init = init
        fixed = None if scale == "learned" else scale
        register(self, "weight", fan_in, CenteredWeightNorm, scale=fixed, init=init)

    def reset_parameters(self) -> None:
        """Start anew from torch's own initialization of the plain layer."""
        reset: Any = super()
        if not parametrized_by(self):
            reset.reset_parameters()
            return
        with torch.no_grad(), parametrize.cached():
            reset.reset_parameters()  # writes into the weight that is cached
            weight = self.weight.clone()
        assign(self, "weight", weight, init=self.init)


class CWNLinear(_CWN, nn.Linear):
    r"""A linear layer whose weight vectors have no mean and the length g.

    .. math::
        y = W x + b, \quad w = g \, (v - \bar v) / \lVert v - \bar v \rVert

    v and g are trained in the place of w: they are ``parametrizations.weight.original1`` and
    ``original0``. In everything else the layer is torch's; :func:`zeromean.fold` makes it that.

    Args:
        args, kwargs: As torch's layer has them.
        scale: "learned" (default), or a number that g is fixed to.
        init: "unit" (default) starts from g = 1, as the paper does; "preserve" from the length that
            torch's own initialization gives each weight vector less its mean.

    Raises:
        ZeromeanError: The fan-in is 1, or an option does not exist or has no effect.

    Example:
        >>> import torch, zeromean
        >>> layer = zeromean.nn.CWNLinear(64, 32)
        >>> layer(torch.randn(8, 64)).shape
        torch.Size([8, 32])
        >>> torch.allclose(layer.weight.norm(dim=1), torch.ones(32))
        True

    Reference:
        Huang et al., Centered Weight Normalization in Accelerating Training of Deep Neural
        Networks, ICCV 2017, eq. 2, 3 and 5.
    """

    _folds_to = nn.Linear


class CWNConv1d(_CWN, nn.Conv1d):
    """``torch.nn.Conv1d`` whose output channels' kernels have no mean and the length g.

    Arguments, errors and reference as for :class:`CWNLinear`; a vector is one output channel's
    whole kernel.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv1d(4, 8, 3)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv1d


class CWNConv2d(_CWN, nn.Conv2d):
    """``torch.nn.Conv2d`` whose output channels' kernels have no mean and the length g.

    Arguments, errors and reference as for :class:`CWNLinear`; a vector is one output channel's
    whole kernel.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv2d(4, 8, 3, groups=2)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv2d


class CWNConv3d(_CWN, nn.Conv3d):
    """``torch.nn.Conv3d`` whose output channels' kernels have no mean and the length g.

    Arguments, errors and reference as for :class:`CWNLinear`; a vector is one output channel's
    whole kernel.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv3d(4, 8, 3)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv3d


class CWNConvTranspose2d(_CWN, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` whose output channels' kernels have no mean and the length g.

    Arguments, errors and reference as for :class:`CWNLinear`; a vector is one output channel's
    whole kernel, over the inputs of its group.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConvTranspose2d(4, 8, 3)
        >>> layer.weight.mean((0, 2, 3)).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.ConvTranspose2d
