"""Layers with centered weight normalization that replace torch's layers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.fan_in import FanIn, rule_for
from zeromean.plan import check_option
from zeromean.reparam.parametrization import CenteredWeightNorm, register
from zeromean.reparam.preconditions import check_scale

__all__ = ["CWNConv1d", "CWNConv2d", "CWNConv3d", "CWNConvTranspose2d", "CWNLinear"]


def __dir__() -> list[str]:
    return sorted(__all__)


class _CWN(nn.Module):
    """Centers and normalizes the weight of the layer that it is mixed into."""

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
        check_scale(scale)
        fixed = None if scale == "learned" else scale
        if fixed is not None and init == "preserve":
            raise ZeromeanError(
                f'init="preserve" has no effect with scale={scale!r}, because there is no learned'
                " gain",
                "Leave init or scale out",
            )
        if self.weight.is_complex():
            raise ZeromeanError(
                f"weights of type {self.weight.dtype} are not supported",
                f"Use torch.nn.{self._folds_to.__name__}",
            )
        rule = rule_for(self)
        fan_in = rule(self)["weight"] if rule else None
        assert isinstance(fan_in, FanIn)
        shape = tuple(self.weight.shape)
        if fan_in.size(shape) == 1:
            raise ZeromeanError(
                f"{type(self).__name__} has a weight of shape {shape} with fan-in 1, and one entry"
                " minus its mean is 0",
                f"Use torch.nn.{self._folds_to.__name__}",
            )
        register(self, "weight", fan_in, CenteredWeightNorm, scale=fixed, init=init)


class CWNLinear(_CWN, nn.Linear):
    r"""A linear layer whose weight vectors have zero mean and length g.

    .. math::
        y = W x + b, \quad w = g \, (v - \bar v) / \lVert v - \bar v \rVert

    v and g are trained in place of w: they are ``parametrizations.weight.original1`` and
    ``original0``. Otherwise the layer is torch's; :func:`zeromean.fold` converts it to torch's.

    Args:
        args, kwargs: Arguments of torch's layer.
        scale: "learned" (default), or a fixed number for g.
        init: "unit" (default) starts from g = 1, as the paper does; "preserve" from the length that
            torch's initialization gives each centered weight vector.

    Raises:
        ZeromeanError: The fan-in is 1, the type is complex, or an option is unknown or has no
            effect.

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
    """``torch.nn.Conv1d`` whose kernels have zero mean and length g per output channel.

    Arguments, errors and reference: see :class:`CWNLinear`.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv1d(4, 8, 3)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv1d


class CWNConv2d(_CWN, nn.Conv2d):
    """``torch.nn.Conv2d`` whose kernels have zero mean and length g per output channel.

    Arguments, errors and reference: see :class:`CWNLinear`.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv2d(4, 8, 3, groups=2)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv2d


class CWNConv3d(_CWN, nn.Conv3d):
    """``torch.nn.Conv3d`` whose kernels have zero mean and length g per output channel.

    Arguments, errors and reference: see :class:`CWNLinear`.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConv3d(4, 8, 3)
        >>> layer.weight.flatten(1).mean(1).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.Conv3d


class CWNConvTranspose2d(_CWN, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` whose kernels have zero mean and length g per output channel.

    A weight vector spans the inputs of its group. Arguments, errors and reference: see
    :class:`CWNLinear`.

    Example:
        >>> import zeromean
        >>> layer = zeromean.nn.CWNConvTranspose2d(4, 8, 3)
        >>> layer.weight.mean((0, 2, 3)).abs().max() < 1e-7
        tensor(True)
    """

    _folds_to = nn.ConvTranspose2d
