"""The natural re-parametrization of a linear layer, whose inputs are whitened."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zeromean.eager import eager
from zeromean.errors import ZeromeanError
from zeromean.plan import Owner, Row
from zeromean.reparam.preconditions import check_positive


class NaturalLinear(nn.Module):
    r"""A linear layer computed as :math:`v U (x - c) + d`; v and d are trained.

    U whitens the layer's inputs, :math:`U (\operatorname{cov} x + \epsilon I) U = I`, and c is
    their mean. Both are estimated from the latest inputs at the first update and then at fixed
    intervals; v and d change with them so that the function stays the same:
    :math:`v \leftarrow v U U'^{-1}`, :math:`d \leftarrow d + v U (c' - c)`.

    A training forward pass that finds v changed counts one update, so gradient accumulation,
    several forward passes per step and recomputed passes count once. ``weight`` and ``bias`` are
    those of the plain layer. A checkpoint of the plain layer can be loaded.

    Args:
        linear: Linear layer with a bias.
        every: Number of updates between two estimates of U and c (default 100).
        eps: Ridge added to each variance of the inputs (default 0.1).
        samples: Number of the latest inputs to estimate from (default 1000).

    Raises:
        ZeromeanError: The layer has no bias, an option is not positive, an input has another number
            of features, or v is sharded or replaced.

    Reference:
        Desjardins et al., Natural Neural Networks, NeurIPS 2015, Algorithm 1.
    """

    U: Tensor
    c: Tensor
    updates: Tensor

    def __init__(
        self, linear: nn.Linear, *, every: int = 100, eps: float = 0.1, samples: int = 1000
    ) -> None:
        super().__init__()
        if linear.bias is None:
            raise ZeromeanError(
                "the linear layer has no bias, which absorbs the mean of the inputs",
                "Pass a layer with bias=True",
            )
        check_positive("eps", eps)
        check_positive("every", every, whole=True)
        check_positive("samples", samples, whole=True)
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.v = nn.Parameter(weight.clone(), linear.weight.requires_grad)
        self.d = nn.Parameter(linear.bias.detach().clone(), linear.bias.requires_grad)
        eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        self.register_buffer("U", eye)
        self.register_buffer("c", weight.new_zeros(weight.shape[1]))
        # Updates since the last estimate; the first estimate is due at once.
        self.register_buffer("updates", torch.tensor(every, device=weight.device))
        self.every, self.eps, self.samples = every, eps, samples
        self._own = [self.v]  # in a list, so that torch does not register it again
        self._seen = self.v._version
        self._inputs: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        """Return the plain layer's weight, v U."""
        return self.v @ self.U

    @property
    def bias(self) -> Tensor:
        """Return the plain layer's bias, d - v U c."""
        return self.d - self.weight @ self.c

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, and count an update if v changed since the last pass."""
        if x.shape[-1:] != self.c.shape:  # x - c would broadcast
            raise ZeromeanError(
                f"an input of shape {tuple(x.shape)} does not have {self.in_features} features"
                " along its last axis",
                "Pass the input that the plain layer takes",
            )
        if self.training and torch.is_grad_enabled():
            self._observe(x.detach())
        x = x - self.c
        if x.numel() > self.v.numel():  # more inputs than rows of v, so v U is the smaller product
            return F.linear(x, self.weight, self.d)
        return F.linear(F.linear(x, self.U), self.v, self.d)

    def reset_parameters(self) -> None:
        """Start again from the plain layer's own initialization."""
        plain = self.linear()
        plain.reset_parameters()
        self.load_state_dict(plain.state_dict())

    def linear(self) -> nn.Linear:
        """Return the plain layer with the same function."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight = nn.Parameter(self.weight.detach(), self.v.requires_grad)
        plain.bias = nn.Parameter(self.bias.detach(), self.d.requires_grad)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        """Return the sizes and the options, for printing."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features},"
            f" every={self.every}, eps={self.eps:g}"
        )

    def _apply(self, *args: Any, **kwargs: Any) -> NaturalLinear:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._own = [self.v]  # to_empty and others replace it
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}weight" in state_dict and f"{prefix}v" not in state_dict:
            # A plain layer's checkpoint: nothing is whitened yet, and an estimate is due, from new
            # inputs, because those of a deeper layer depend on the weights.
            self._inputs.clear()
            weight = state_dict[f"{prefix}v"] = state_dict.pop(f"{prefix}weight")
            if f"{prefix}bias" in state_dict:
                state_dict[f"{prefix}d"] = state_dict.pop(f"{prefix}bias")
            eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
            state_dict[f"{prefix}U"], state_dict[f"{prefix}c"] = eye, torch.zeros_like(eye[0])
            state_dict[f"{prefix}updates"] = torch.tensor(self.every, device=weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._own = [self.v]  # assign=True replaces it by the checkpoint's tensor

    @eager
    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        if self.v is not self._own[0]:
            raise ZeromeanError(
                "v of a NaturalLinear has been replaced, but each estimate of the inputs has to"
                " change it in place",
                'Do not use "nnn" with fully_shard or torch.func; another method, such as "cwn",'
                " supports both",
            )
        x = x.reshape(-1, x.shape[-1])[-self.samples :].clone()
        self._inputs.append(x)
        while sum(map(len, self._inputs[1:])) >= self.samples:
            del self._inputs[0]
        if self.v._version != self._seen:
            self.updates += 1
            self._seen = self.v._version
        if self.updates >= self.every:
            # Inputs from before the model moved may be on another device.
            self._estimate(torch.cat([kept.to(x) for kept in self._inputs])[-self.samples :])

    def _estimate(self, x: Tensor) -> None:
        """Whiten these inputs from now on without changing the function; computed in float64."""
        weight = self.v.double() @ self.U.double()
        bias = self.d.double() - weight @ self.c.double()
        x = x.double()
        moments = torch.cat([x.new_tensor([len(x)]), x.sum(0), (x.mT @ x).flatten()])
        many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if many:
            dist.all_reduce(moments)
        count, size = moments[0], x.shape[1]
        mean = moments[1 : 1 + size] / count
        covariance = moments[1 + size :].view(size, size) / count - mean.outer(mean)
        if not covariance.isfinite().all():
            return  # training has diverged, or there are no inputs: try again at the next pass
        variances, axes = torch.linalg.eigh(covariance)
        if many:  # the same bits on every rank
            dist.broadcast(axes, 0)
            dist.broadcast(variances, 0)
        deviations = (variances.clamp(min=0) + self.eps).sqrt()
        self.U.copy_(axes / deviations @ axes.mT)
        self.c.copy_(mean)
        self.v.copy_(weight @ (axes * deviations @ axes.mT))
        self.d.copy_(bias + weight @ mean)
        self.updates.zero_()
        self._seen = self.v._version


def leave_unwrappable(model: nn.Module, row: Row, owner: Owner) -> Row:
    """Return the row, marked as left alone if its layer cannot be replaced by a NaturalLinear."""
    module = owner.module
    if type(module) is not nn.Linear:
        return row.left_alone(f"nnn whitens the inputs of torch.nn.Linear, not of {row.reason}")
    if module.bias is None:
        return row.left_alone("nnn needs a bias, which absorbs the mean of the inputs")
    held = [one for part in model.modules() for one in part._parameters.values()]
    if sum(one is module.bias for one in held) > 1:
        return row.left_alone("nnn changes the bias too, which is tied to another")
    if has_gradient_hooks(module.bias):
        return row.left_alone("its bias has gradient hooks: register them on d afterwards")
    if module is model:
        return row.left_alone("nnn replaces layers of a model, and this layer is the model itself")
    if has_hooks(module):
        return row.left_alone("it has hooks, which its replacement would lose")
    return row


def has_gradient_hooks(parameter: Any) -> bool:
    """Return whether functions are registered to be called with the parameter's gradient."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def has_hooks(module: nn.Module) -> bool:
    """Return whether the module has forward or backward hooks."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module under every name that the model holds it by."""
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
