"""Fan-in axes: the axes of a parameter that one output unit's weight vector extends over.

The axes follow from the layer, never from the shape alone. Each layer declares them by a rule, a
function from a module to ``{parameter name: FanIn}``. Rules are found by the qualified names of the
classes in a module's MRO, so no framework is imported to know a layer, and a subclass follows the
rule of its parent.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, SupportsIndex, TypeVar, get_args

from zeromean.class_lookup import nearest, qualified_name
from zeromean.errors import ZeromeanError

__all__ = ["FanIn", "register"]

Role = Literal["conv", "linear", "embedding"]


def __dir__() -> list[str]:
    return sorted(__all__)


@dataclass(frozen=True)
class FanIn:
    """The fan-in axes of one parameter.

    A weight vector holds the ``M`` numbers that multiply inputs to make one output unit. ``M`` is
    the product of the sizes of its axes, divided by ``groups``.

    Args:
        axes: Axes of the parameter that a weight vector extends over, counted from 0.
        groups: Number of blocks that axis 0 splits into, each with its own weight vectors, such as
            the groups of a transposed convolution. More than 1 requires axis 0 in ``axes``.
        role: Kind of layer that ``layers=`` and ``embeddings=`` select by.
        padding_idx: Index along axis 0 that is not an input. It is neither averaged nor changed.
        zero_mean: Whether the gradient already has zero mean over these axes, because a
            re-parametrization subtracts the mean from the parameter.

    Raises:
        ZeromeanError: The axes are empty, negative or repeated, or ``groups``, ``role`` or
            ``padding_idx`` does not match them.

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
                f"FanIn(axes={self.axes!r}) is not a tuple of different axes, counted from 0",
                "Name each axis that an output unit's weights extend over once",
            )
        if (
            not isinstance(self.groups, SupportsIndex)
            or self.groups < 1
            or (self.groups > 1 and 0 not in self.axes)
        ):
            raise ZeromeanError(
                f"FanIn(axes={self.axes!r}, groups={self.groups!r}) needs a whole number of at"
                " least 1 as groups, and axis 0 among the axes if there are several",
                "Leave groups at 1 unless axis 0 splits into separate blocks",
            )
        if self.role not in get_args(Role):
            roles = ", ".join(f'"{role}"' for role in get_args(Role))
            raise ZeromeanError(
                f"FanIn(role={self.role!r}) is not one of {roles}",
                "Use the role by which layers= selects this parameter",
            )
        if self.padding_idx is not None and (
            not isinstance(self.padding_idx, SupportsIndex)
            or self.padding_idx < 0
            or 0 not in self.axes
            or self.groups > 1
        ):
            raise ZeromeanError(
                f"FanIn(axes={self.axes!r}, groups={self.groups!r},"
                f" padding_idx={self.padding_idx!r}) needs an index of at least 0 as padding_idx,"
                " and axis 0 among the axes, without groups",
                "Omit padding_idx unless axis 0 is the input",
            )

    def words(self) -> str:
        """Return the axes for a message, with groups and padding index if there are any."""
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        padding = "" if self.padding_idx is None else f" with padding_idx={self.padding_idx}"
        return f"axes {self.axes}{groups}{padding}"

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether a parameter of this shape has these axes, groups and padding index."""
        if max(self.axes) >= len(shape):
            return False
        if self.padding_idx is not None and not 0 <= self.padding_idx < shape[0]:
            return False
        return shape[0] % self.groups == 0

    def size(self, shape: Sequence[int]) -> int:
        """Return M, the number of entries of one weight vector of a parameter of this shape."""
        entries = math.prod([shape[axis] for axis in self.axes]) // self.groups
        if self.padding_idx is not None:
            entries -= entries // shape[0]
        return entries

    def over_tensor(self, shape: Sequence[int]) -> FanIn:
        """Return axes that treat the parameter as one vector, the ``scope="tensor"`` ablation."""
        return replace(self, axes=tuple(range(len(shape))), groups=1)


def nonnegative_axes(axes: int | Iterable[int], ndim: int) -> tuple[int, ...]:
    """Return one or several axes of an array of ``ndim`` dimensions as a tuple, counted from 0.

    Raises:
        ZeromeanError: The array does not have one of these axes.
    """
    given = tuple(axes) if isinstance(axes, Iterable) else (axes,)
    if not all(isinstance(axis, SupportsIndex) and -ndim <= axis < ndim for axis in given):
        raise ZeromeanError(
            f"axes={axes!r} is not an axis, or a tuple of axes, of an array of {ndim} dimensions",
            f"Use axes from {-ndim} to {ndim - 1}" if ndim else "Leave out arrays without axes",
        )
    return tuple(int(axis) % ndim for axis in given)


Description = Mapping[str, "FanIn | str | None"]
"""Parameter name -> its fan-in axes, or a reason (or None) why it has none."""

Rule = Callable[[Any], Description]
_AnyRule = TypeVar("_AnyRule", bound=Rule)

_rules: dict[type | str, Rule] = {}


def register(module_class: type | str) -> Callable[[_AnyRule], _AnyRule]:
    """Declare the fan-in axes of a module class and its subclasses.

    Args:
        module_class: Module class, or its qualified name (``"package.module.Class"``) if it should
            not be imported. A shorter name under which a package exports the class works only if
            the package is imported already. A later registration replaces an earlier one.

    Returns:
        A decorator for the rule, a function from a module of that class to a mapping
        {parameter name: :class:`FanIn`, or None or a reason (text) to leave it alone}. A dotted
        name, such as ``"proj.weight"``, means a parameter of a PyTorch submodule, and replaces what
        the submodule's own rule says: the parent uses that weight differently.

    Raises:
        ZeromeanError: ``module_class`` is neither a class nor a qualified name.

    Example:
        >>> import torch, zeromean
        >>> class Experts(torch.nn.Module):  # one (in, out) matrix per expert
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
            f"register({module_class!r}) needs a module class or its qualified name",
            "Decorate the rule with @register(MyModule)",
        )

    def add(rule: _AnyRule) -> _AnyRule:
        key = module_class
        if isinstance(key, str):
            package, _, name = key.rpartition(".")
            exported = vars(sys.modules[package]).get(name) if package in sys.modules else None
            if isinstance(exported, type):
                _rules.pop(exported, None)  # else it would precede its name
                key = qualified_name(exported)
        _rules[key] = rule
        return rule

    return add


def rule_for(module: Any) -> Rule | None:
    """Return the rule of the nearest class in the module's MRO that has one."""
    return nearest(_rules, type(module)) or (
        _stacked_experts if _is_stacked_experts(module) else None
    )


def describe(module: Any, known: Collection[str]) -> Description | None:
    """Return what the rule of a module says, or None if no rule describes its class.

    Args:
        module: Module of any framework.
        known: Parameter names that a rule may use.

    Raises:
        ZeromeanError: The rule returns something else, or names a parameter that does not exist.
    """
    rule = rule_for(module)
    if rule is None:
        return None
    description = rule(module)
    kind = type(module).__name__
    fix = f"Correct the rule that is registered for {kind}"
    if not isinstance(description, Mapping):
        raise ZeromeanError(
            f"the fan-in rule for {kind} returned {description!r}, not a mapping"
            " {parameter name: FanIn or None}",
            fix,
        )
    for name, entry in description.items():
        if name not in known:
            raise ZeromeanError(
                f"the fan-in rule for {kind} names {name!r}, which {qualified_name(type(module))}"
                " does not have",
                fix,
            )
        if not (entry is None or isinstance(entry, FanIn | str)):
            raise ZeromeanError(
                f"the fan-in rule for {kind} returned {entry!r} for {name!r}, which is not a FanIn"
                " such as FanIn(axes=(1,)), None, or a reason as text",
                fix,
            )
    return description


def look_up(kind: str, name: str, description: Description | None) -> FanIn | str:
    """Return the fan-in axes of one parameter of a module of this kind, or why it has none."""
    if description is None:
        return f"no rule describes {kind}; zeromean.fan_in.register adds one"
    if name not in description:
        is_bias = "bias" in name or name in ("b", "offset")  # Haiku's names
        return "a bias has no fan-in" if is_bias else f"the rule for {kind} leaves it out"
    return description[name] or f"the rule for {kind} leaves it alone"


# --- PyTorch --------------------------------------------------------------------------------------


@register("torch.nn.modules.linear.Linear")  # (out, in)
def _linear(module: Any) -> Description:
    return _weights(module, FanIn(axes=(1,)))


@register("torch.nn.modules.linear.Bilinear")  # (out, in1, in2)
def _bilinear(module: Any) -> Description:
    return _weights(module, FanIn(axes=(1, 2)))


@register("torch.nn.modules.rnn.RNNCellBase")
@register("torch.nn.modules.rnn.RNNBase")  # (gates * hidden, in): each matrix on its own
def _recurrent(module: Any) -> Description:
    return _weights(module, FanIn(axes=(1,)), r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?")


@register("torch.nn.modules.activation.MultiheadAttention")  # in_proj (3E, E), or q, k, v apart
def _attention(module: Any) -> Description:
    return _weights(module, FanIn(axes=(1,)), r"(in|q|k|v)_proj_weight")


@register("torch.nn.modules.conv._ConvNd")
def _convolution(module: Any) -> Description:
    kernel = range(2, 2 + len(module.kernel_size))
    if module.transposed:  # (in, out / groups, k...): a group's inputs feed its own outputs only
        return _weights(module, FanIn(axes=(0, *kernel), groups=module.groups, role="conv"))
    return _weights(module, FanIn(axes=(1, *kernel), role="conv"))  # (out, in / groups, k...)


@register("torch.nn.modules.sparse.Embedding")  # (tokens, dim): a Linear of one-hot tokens
@register("torch.nn.modules.sparse.EmbeddingBag")
def _embedding(module: Any) -> Description:
    return _weights(module, FanIn(axes=(0,), role="embedding", padding_idx=module.padding_idx))


@register("torch.nn.modules.batchnorm._NormBase")
@register("torch.nn.modules.normalization.LayerNorm")
@register("torch.nn.modules.normalization.GroupNorm")
@register("torch.nn.modules.normalization.RMSNorm")
def _norm(module: Any) -> Description:
    return _weights(module, "a norm's gain multiplies one input")


@register("torch.nn.modules.activation.PReLU")
def _prelu(module: Any) -> Description:
    return _weights(module, "a slope multiplies one input")


def _weights(module: Any, entry: FanIn | str, pattern: str = "weight") -> Description:
    """Describe the module's own tensors by their names, also by those that pruning gives them.

    A subclass may have replaced a parameter by a buffer or a product of other parameters; then the
    description leaves it out.
    """
    matching = re.compile(f"{pattern}(_orig)?")
    names = [name for name, value in module._parameters.items() if value is not None]
    names += getattr(module, "parametrizations", ())  # the names of the tensors they replaced
    return {name: entry for name in names if matching.fullmatch(name)}


# --- Re-parametrizations --------------------------------------------------------------------------
# The rule of a parametrization describes the original tensors that torch keeps for it.


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
    return _weights(module, FanIn(axes=(0,)))


def _is_stacked_experts(module: Any) -> bool:
    """Return whether transformers' ``use_experts_implementation`` decorates the module's class.

    The decorator leaves no base class behind, but sets these attributes on every instance.
    """
    return {"has_gate", "has_bias", "is_transposed"} <= getattr(module, "__dict__", {}).keys()


def _stacked_experts(module: Any) -> Description:  # (experts, out, in), or (experts, in, out)
    axes = (1,) if module.is_transposed else (2,)
    return _weights(module, FanIn(axes), r"(gate_up|up|down)_proj")


@register("peft.tuners.lora.layer.ParamWrapper")  # LoRA of a parameter, such as stacked experts
def _lora_of_parameter(module: Any) -> Description:
    base = module.get_base_layer()
    rule = rule_for(base)
    described = rule(base).get(module.parameter_name) if rule else None
    kind = f"{type(base).__name__}.{module.parameter_name}"
    left_alone = {}
    # PEFT stores A as (rank * experts, in), if it assumes the right layout of the parameter.
    axes = (2,) if getattr(module, "_did_swap_in_out_features", False) else (1,)
    if not (isinstance(described, FanIn) and described.axes == axes):
        reason = f"it adapts {kind}, whose layout is unknown or not the one that PEFT assumes"
        left_alone = {"lora_A": reason, "lora_B": reason}
    elif module.num_experts > 1:  # B is (out, rank * experts), rank by rank: no FanIn splits axis 1
        reason = f"it adapts {kind}, and its columns belong to {module.num_experts} experts in turn"
        left_alone = {"lora_B": reason}
    return {
        f"{factor}.{adapter}.weight": reason
        for factor, reason in left_alone.items()
        for adapter in getattr(module, factor)
    }


@register("peft.tuners.lily.layer.LilyLayer")  # B is (bases * rank, out), although a Linear
def _lily(module: Any) -> Description:
    return {
        f"lily_B.{adapter}.weight": FanIn(axes=(0,), groups=module.num_B[adapter])
        for adapter in module.lily_B
    }


_quantized: dict[type | str, str] = {
    name: f"quantized by {name.partition('.')[0]}: its entries are codes"
    for name in (
        "bitsandbytes.nn.modules.Params4bit",
        "torchao.utils.TorchAOBaseTensor",
        "torchao.quantization.quantize_.workflows.nf4.nf4_tensor.NF4Tensor",
    )
}


def quantized(tensor_class: type) -> str | None:
    """Return why the entries of a tensor subclass cannot be averaged, or None if they can."""
    return nearest(_quantized, tensor_class)
