"""The natural re-parametrization of a linear layer: its inputs are whitened now and then."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.plan import Row


class NaturalLinear(nn.Module):
    r"""A linear layer computed as :math:`v U (x - c) + d`; v and d are trained.

    U whitens the layer's inputs, :math:`U (\operatorname{cov} x + \epsilon I) U = I`, and c is
    their mean. Both are estimated from the last inputs at the first update and every so many
    updates from then on; v and d change with them so that the function does not:
    :math:`v \leftarrow v U U'^{-1}`, :math:`d \leftarrow d + v U (c' - c)`.

    An update is counted by the next forward pass in training that finds v changed, so gradient
    accumulation, several forward passes a step and recomputed ones count once. ``weight`` and
    ``bias`` are those of the plain layer.

    Args:
        linear: The layer, which has a bias.
        every: After how many updates U and c are estimated anew.
        eps: The ridge, added to each variance of the inputs.
        samples: How many of the last inputs are kept to estimate from.

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
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.v = nn.Parameter(weight.clone(), linear.weight.requires_grad)
        self.d = nn.Parameter(linear.bias.detach().clone(), linear.bias.requires_grad)
        eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        self.register_buffer("U", eye)
        self.register_buffer("c", weight.new_zeros(weight.shape[1]))
        # Since the last estimate; from the start it is due.
        self.register_buffer("updates", torch.tensor(every, device=weight.device))
        self.every, self.eps, self.samples = every, eps, samples
        self._own = [self.v]  # a list, so that it is no second name of the parameter
        self._seen = self.v._version
        self._inputs: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        """The plain layer's weight, v U."""
        return self.v @ self.U

    @property
    def bias(self) -> Tensor:
        """The plain layer's bias, d - v U c."""
        return self.d - self.weight @ self.c

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.c.shape:  # x - c would broadcast
            raise ZeromeanError(
                f"inputs of shape {tuple(x.shape)}",
                f"{self.in_features} features, along the last axis",
                "pass what the plain layer would take",
            )
        if self.training and torch.is_grad_enabled():
            self._observe(x.detach())
        return F.linear(F.linear(x - self.c, self.U), self.v, self.d)

    def linear(self) -> nn.Linear:
        """The plain layer of the same function."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight = nn.Parameter(self.weight.detach(), self.v.requires_grad)
        plain.bias = nn.Parameter(self.bias.detach(), self.d.requires_grad)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features},"
            f" every={self.every}, eps={self.eps:g}"
        )

    def _apply(self, *args: Any, **kwargs: Any) -> NaturalLinear:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._own = [self.v]  # to_empty and the like make it anew
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._own = [self.v]  # assign=True takes the checkpoint's own

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        if self.v is not self._own[0]:
            raise ZeromeanError(
                "a NaturalLinear in training whose v is not its own parameter",
                "v itself, because it changes with the estimate of the inputs",
                "do not shard it with fully_shard or call it through torch.func; another method,"
                " such as 'cwn', can be",
            )
        x = x.reshape(-1, x.shape[-1])[-self.samples :].clone()
        self._inputs.append(x)
        while sum(map(len, self._inputs[1:])) >= self.samples:
            del self._inputs[0]
        if self.v._version != self._seen:
            self.updates += 1
            self._seen = self.v._version
        elif self.updates != self.every:
            return
        if self.updates >= self.every:
            # From before the model moved there may be some that lie elsewhere.
            self._estimate(torch.cat([kept.to(x) for kept in self._inputs])[-self.samples :])
            self.updates.zero_()
            self._seen = self.v._version

    def _estimate(self, x: Tensor) -> None:
        """Whiten these inputs from now on, in float64, without changing the function."""
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
            return  # training has diverged, and shows it
        variances, axes = torch.linalg.eigh(covariance)
        if many:  # to the last bit the same everywhere
            dist.broadcast(axes, 0)
            dist.broadcast(variances, 0)
        deviations = (variances.clamp(min=0) + self.eps).sqrt()
        self.U.copy_(axes / deviations @ axes.mT)
        self.c.copy_(mean)
        self.v.copy_(weight @ (axes * deviations @ axes.mT))
        self.d.copy_(bias + weight @ mean)


def why_not(model: nn.Module, row: Row, module: nn.Module) -> Row:
    """The row, left alone where its layer cannot be wrapped."""
    if not row.centered:
        return row
    if type(module) is not nn.Linear:
        return row.left_alone(f"nnn whitens the inputs of torch.nn.Linear, not {row.reason}")
    if module.bias is None:
        return row.left_alone("nnn needs a bias, into which the inputs' mean goes")
    if module is model:
        return row.left_alone("nnn wraps layers, and this is the model itself")
    if has_hooks(module):
        return row.left_alone("it has hooks, which a wrapper would lose")
    return row


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called with the module's passes."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under each name that the model holds it by."""
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
