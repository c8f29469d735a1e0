"""Fan-in axes: over which axes of a parameter one output unit's weight vector extends.

The axes follow from the layer, never from the shape alone, so each layer declares them: a rule is
a function from a module to ``{parameter name: FanIn}``. Rules are found by the qualified names of
the classes in a module's MRO. Nothing is imported to know a layer, and a subclass, a parametrized
or a sharded module is what it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from zeromean.class_lookup import nearest, qualified_name
from zeromean.errors import ZeromeanError

Role = Literal["conv", "linear", "embedding"]


@dataclass(frozen=True)
class FanIn:
    """The fan-in axes of one parameter.

    A weight vector holds the ``M`` numbers that multiply inputs to make one output unit;
    ``M`` is the product of the sizes of its axes (of one group only, where there are groups).

    Args:
        axes: Axes of the parameter that a weight vector extends over, from 0.
        groups: How many blocks axis 0 splits into, each with weight vectors of its own: the groups
            of a transposed convolution. Needs axis 0 among ``axes``.
        role: What ``layers=`` and ``embeddings=`` select by.
        padding_idx: An index along axis 0 that is no input: it is neither averaged nor changed.
        zero_mean: Whether gradients have no mean over these axes to begin with, because the
            parameter is a proxy that a re-parametrization takes the mean of away.

    Raises:
        ZeromeanError: The axes are empty, negative or repeated, or ``groups`` does not fit them.

    Example:
        >>> from zeromean.fan_in import FanIn
        >>> FanIn(axes=(1, 2, 3), role="conv").size((64, 3, 7, 7))
        147
        >>> FanIn(axes=(0, 2, 3), groups=4, role="conv").size((8, 16, 3, 3))
        18
    """

    axes: tuple[int, ...]
    groups: int = 1
    role: Role = "linear"
    padding_idx: int | None = None
    zero_mean: bool = False

    def __post_init__(self) -> None:
        if (
            not isinstance(self.axes, tuple)
            or not all(isinstance(axis, int) for axis in self.axes)
            or not self.axes
            or min(self.axes) < 0
            or len(set(self.axes)) != len(self.axes)
        ):
            raise ZeromeanError(
                f"FanIn axes {self.axes!r}",
                "a tuple of one or more different axes, counted from 0",
                "name each axis that an output unit's weights extend over, once",
            )
        if self.groups < 1 or (self.groups > 1 and 0 not in self.axes):
            raise ZeromeanError(
                f"FanIn groups {self.groups!r} with axes {self.axes!r}",
                "groups >= 1, and axis 0 among the axes when there is more than one",
                "leave groups at 1 unless axis 0 splits into blocks that are averaged apart",
            )
        if self.role not in get_args(Role):
            raise ZeromeanError(
                f"FanIn role {self.role!r}",
                " or ".join(map(repr, get_args(Role))),
                "take the role that layers= should select this parameter by",
            )
        if self.padding_idx is not None and (0 not in self.axes or self.groups > 1):
            raise ZeromeanError(
                f"FanIn padding_idx {self.padding_idx!r} with axes {self.axes!r}",
                "axis 0 among the axes, and no groups",
                "leave padding_idx out where axis 0 is not the input",
            )

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a parameter of this shape has these axes, and a first axis that splits."""
        if max(self.axes) >= len(shape):
            return False
        if self.padding_idx is not None and not 0 <= self.padding_idx < shape[0]:
            return False
        return shape[0] % self.groups == 0

    def size(self, shape: Sequence[int]) -> int:
        """M, the number of entries of one weight vector of a parameter of this shape."""
        entries = math.prod([shape[axis] for axis in self.axes]) // self.groups
        if self.padding_idx is not None:
            entries -= entries // shape[0]
        return entries

    def over_tensor(self, shape: Sequence[int]) -> FanIn:
        """The same parameter taken as one vector: the ``scope="tensor"`` ablation."""
        return replace(self, axes=tuple(range(len(shape))), groups=1)


Description = Mapping[str, "FanIn | str | None"]
"""Parameter name -> its fan-in axes, or a reason (or None) why it has none."""

Rule = Callable[[Any], Description]
_AnyRule = TypeVar("_AnyRule", bound=Rule)

_rules: dict[type | str, Rule] = {}


def register(module_class: type | str) -> Callable[[_AnyRule], _AnyRule]:
    """Teach zeromean the fan-in axes of a module class and its subclasses.

    Args:
        module_class: The class, or its qualified name (``"package.module.Class"``) so that it need
            not be imported. A later registration replaces an earlier one.

    Returns:
        A decorator for the rule: a function from a module of that class to a mapping
        {parameter name: :class:`FanIn`, or None (or a reason, as text) to leave it alone}. Names
        are those of the module's own parameters; those of its submodules belong to the submodules.

    Raises:
        ZeromeanError: ``module_class`` is neither a class nor a qualified name.

    Example:
        >>> import torch, zeromean
        >>> class Experts(torch.nn.Module):  # one (in, out) matrix an expert
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = torch.nn.Parameter(torch.randn(8, 16, 32))
        >>> @zeromean.fan_in.register(Experts)
        ... def experts(module):
        ...     return {"w": zeromean.FanIn(axes=(1,))}
        >>> [row.axes for row in zeromean.explain(Experts())]
        [(1,)]
    """
    if not isinstance(module_class, type) and not (
        isinstance(module_class, str) and "." in module_class
    ):
        raise ZeromeanError(
            f"register({module_class!r})",
            "a module class or its qualified name",
            "decorate the rule with @register(MyModule)",
        )

    def add(rule: _AnyRule) -> _AnyRule:
        _rules[module_class] = rule
        return rule

    return add


def rule_for(module_class: type) -> Rule | None:
    """The rule of the nearest class in the MRO that has one."""
    return nearest(_rules, module_class)


def describe(module: Any, known: Collection[str]) -> Description | None:
    """What the rule of a module says, or None where nobody described its class.

    Args:
        module: Of any framework.
        known: The names that a rule may name.

    Raises:
        ZeromeanError: The rule returns something else, or names what the module does not have.
    """
    rule = rule_for(type(module))
    if rule is None:
        return None
    description = rule(module)
    fix = f"mend the rule registered for {type(module).__name__}"
    if not isinstance(description, Mapping):
        raise ZeromeanError(
            f"a fan-in rule that returns {description!r}", "{parameter name: FanIn or None}", fix
        )
    for name, told in description.items():
        if name not in known:
            raise ZeromeanError(
                f"a fan-in rule for {name!r}, which {qualified_name(type(module))} does not have",
                "a rule that names parameters of its module",
                fix,
            )
        if not (told is None or isinstance(told, FanIn | str)):
            raise ZeromeanError(
                f"a fan-in rule that says {told!r} of {name!r}",
                "a FanIn, such as FanIn(axes=(1,)); or None, or a reason as text",
                fix,
            )
    return description


def look_up(kind: str, name: str, description: Description | None) -> FanIn | str:
    """The fan-in axes of one parameter of a module of this kind, or the reason why it has none."""
    if description is None:
        return f"nobody described {kind}: zeromean.fan_in.register can"
    if name not in description:
        is_bias = "bias" in name or name in ("b", "offset")  # Haiku's names
        return "a bias has no fan-in" if is_bias else f"{kind}'s rule leaves it out"
    return description[name] or f"{kind}'s rule leaves it alone"


# --- PyTorch --------------------------------------------------------------------------------------


@register("torch.nn.modules.linear.Linear")  # (out, in)
def _linear(module: Any) -> Description:
    return _weight(module, FanIn(axes=(1,)))


@register("torch.nn.modules.linear.Bilinear")  # (out, in1, in2)
def _bilinear(module: Any) -> Description:
    return _weight(module, FanIn(axes=(1, 2)))


@register("torch.nn.modules.rnn.RNNCellBase")
@register("torch.nn.modules.rnn.RNNBase")  # (gates * hidden, in): each matrix on its own
def _recurrent(module: Any) -> Description:
    matrix = re.compile(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?")
    return {name: FanIn(axes=(1,)) for name in _tensor_names(module) if matrix.fullmatch(name)}


@register("torch.nn.modules.activation.MultiheadAttention")  # in_proj (3E, E), or q, k, v apart
def _attention(module: Any) -> Description:
    matrix = re.compile(r"(in|q|k|v)_proj_weight")
    return {name: FanIn(axes=(1,)) for name in _tensor_names(module) if matrix.fullmatch(name)}


@register("torch.nn.modules.conv._ConvNd")
def _convolution(module: Any) -> Description:
    kernel = range(2, 2 + len(module.kernel_size))
    if module.transposed:  # (in, out / groups, k...): a group's inputs feed its own outputs only
        return _weight(module, FanIn(axes=(0, *kernel), groups=module.groups, role="conv"))
    return _weight(module, FanIn(axes=(1, *kernel), role="conv"))  # (out, in / groups, k...)


@register("torch.nn.modules.sparse.Embedding")  # (tokens, dim): a Linear of one-hot tokens
@register("torch.nn.modules.sparse.EmbeddingBag")
def _embedding(module: Any) -> Description:
    return _weight(module, FanIn(axes=(0,), role="embedding", padding_idx=module.padding_idx))


@register("torch.nn.modules.batchnorm._NormBase")
@register("torch.nn.modules.normalization.LayerNorm")
@register("torch.nn.modules.normalization.GroupNorm")
@register("torch.nn.modules.normalization.RMSNorm")
def _norm(module: Any) -> Description:
    return _weight(module, "a norm's gain multiplies one input")


@register("torch.nn.modules.activation.PReLU")
def _prelu(module: Any) -> Description:
    return _weight(module, "a slope multiplies one input")


def _weight(module: Any, told: FanIn | str) -> Description:
    """``weight``, where the module trains it, also under pruning's name for its original.

    A subclass may have made something else of it: a buffer, a product of other parameters.
    """
    return {name: told for name in _tensor_names(module) if name in ("weight", "weight_orig")}


def _tensor_names(module: Any) -> list[str]:
    """The module's own parameters that are set, under the names they had before parametrization."""
    names = [name for name, value in module._parameters.items() if value is not None]
    return names + list(getattr(module, "parametrizations", ()))


# --- Re-parametrizations --------------------------------------------------------------------------
# The rule of a parametrization describes the originals that torch keeps for it.


@register("zeromean.reparam.parametrization.Normalized")
def _normalized(parametrization: Any) -> Description:
    proxy = replace(parametrization.fan_in, zero_mean=parametrization.formula.centers)
    if parametrization.scale is None:
        return {"original0": "a gain multiplies one unit", "original1": proxy}
    return {"original": proxy}


@register("zeromean.reparam.nnn.NaturalLinear")  # v: (out, whitened inputs)
def _natural(module: Any) -> Description:
    return {"v": FanIn(axes=(1,)), "d": "a bias has no fan-in"}


# --- Third parties --------------------------------------------------------------------------------
# Most need no rule: timm's StdConv2d and Linear, PEFT's A and B, and bitsandbytes' Linear8bitLt are
# torch's own layers or subclasses of them.


@register("transformers.pytorch_utils.Conv1D")  # (in, out), GPT-2's linear layer
def _hf_conv1d(module: Any) -> Description:
    return {"weight": FanIn(axes=(0,))}


_quantized: dict[type | str, str] = {
    name: f"quantized by {name.partition('.')[0]}: its entries are codes"
    for name in (
        "bitsandbytes.nn.modules.Params4bit",
        "torchao.utils.TorchAOBaseTensor",
        "torchao.quantization.quantize_.workflows.nf4.nf4_tensor.NF4Tensor",
    )
}


def quantized(tensor_class: type) -> str | None:
    """Why the entries of a tensor subclass cannot be averaged, or None where they can."""
    return nearest(_quantized, tensor_class)
