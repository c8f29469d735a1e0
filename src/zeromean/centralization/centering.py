"""The centering of one optimizer: its options, its traits and its plan, kept up to date."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import is_
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from zeromean.centralization.optimizer_traits import traits_of
from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.gc_options import GCOptions
from zeromean.model import owners, owners_by_shape, refuse_lazy
from zeromean.plan import Plan, Row, make_plan
from zeromean.sharded import reshard
from zeromean.tables import amount


class CenteredParameter(NamedTuple):
    """A centered parameter, its fan-in axes, and the number of its param group."""

    group: int
    parameter: Tensor
    fan_in: FanIn


class Centering:
    """The centering of one optimizer, with a new plan whenever the optimizer holds a new parameter.

    Args:
        optimizer: The optimizer. No reference to it is kept; hooks pass it in.
        model: The model whose layers define the axes, or None to use shapes alone.
        options: The options of :func:`zeromean.centralize`.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None, options: GCOptions) -> None:
        self.model = model
        self.options = options
        self.traits = traits_of(optimizer, options.weight_decay)
        self._foreign: set[int] = set()
        self._stepped = False
        self._fan_ins: dict[Tensor, FanIn | None] = {}
        self._found: _Found | None
        self.plan = self._make_plan(optimizer)

    @property
    def how(self) -> str:
        """The place and the options in one line."""
        return self.options.describe(axes="shapes" if self.model is None else "model")

    def warn_of_doubt(self) -> None:
        """Warn if the plan uses shapes alone, centers nothing or has no rule for most modules."""
        if self.model is None:
            warn(
                "Without a model only shapes are known: transposed convolutions, embeddings,"
                " position embeddings and tied weights may be centered over the wrong axes. Pass"
                " the model."
            )
        plan = Plan(tuple(row for row in self.plan if row.parameter in self._fan_ins))
        undescribed = plan.undescribed()
        if not len(plan):
            warn("Nothing is centered yet, because the optimizer holds no parameter.")
        elif not plan.centered:
            largest = max(plan, key=lambda row: math.prod(row.shape))
            why = undescribed or f"The largest parameter is {largest.name} ({largest.reason})"
            already = sum(row.zero_mean_already for row in plan)
            if already:
                why = (
                    f"Re-parametrization already makes the gradient of {already} of its weights"
                    " zero-mean, so leave centralize out, or re-parametrize fewer layers"
                )
            warn(
                f"Nothing is centered. {why}. print(zeromean.explain(model)) shows the reason for"
                " each parameter."
            )
        elif undescribed:
            warn(f"{undescribed}.")

    def before_step(self, optimizer: Optimizer) -> None:
        """Plan again at the first step, because ``fully_shard`` and others replace parameters."""
        if not self._stepped:
            self._stepped = True
            self.plan = self._make_plan(optimizer)

    def parameters(self, optimizer: Optimizer) -> list[CenteredParameter]:
        """Return the centered parameters; the same list object until they change."""
        held = [group["params"] for group in optimizer.param_groups]
        parameters = [*chain.from_iterable(held)]
        lengths = [len(group) for group in held]
        found = self._found
        if (
            found is None
            or lengths != found.lengths
            or not all(map(is_, parameters, found.parameters))
        ):
            fan_ins = self.fan_ins(optimizer)
            centered: dict[int, CenteredParameter] = {}  # a parameter may be listed twice
            for number, group in enumerate(held):
                for p in group:
                    if (fan_in := fan_ins[p]) is not None:
                        centered.setdefault(id(p), CenteredParameter(number, p, fan_in))
            found = self._found = _Found(lengths, parameters, [*centered.values()])
        return found.centered

    def current_plan(self, optimizer: Optimizer) -> Plan:
        """Return the plan for the parameters that the optimizer holds now."""
        held = {p for group in optimizer.param_groups for p in group["params"]}
        if held != self._fan_ins.keys():
            self.plan = self._make_plan(optimizer)
        return self.plan

    def fan_ins(self, optimizer: Optimizer) -> Mapping[Tensor, FanIn | None]:
        """Return the fan-in axes of each of the optimizer's parameters; None if not centered."""
        if any(p not in self._fan_ins for group in optimizer.param_groups for p in group["params"]):
            self.plan = self._make_plan(optimizer)
        return self._fan_ins

    def _make_plan(self, optimizer: Optimizer) -> Plan:
        named = list(_named_parameters(optimizer))
        held = {id(parameter) for _, parameter in named}
        if self.model is not None and not held <= {id(p) for p in self.model.parameters()}:
            reshard(self.model)
        plan = make_plan(
            owners_by_shape(named) if self.model is None else owners(self.model),
            layers=self.options.layers,
            embeddings=self.options.embeddings,
            scope=self.options.scope,
        )
        rows = [
            row.left_alone("not a parameter of this optimizer")
            if row.centered and id(row.parameter) not in held
            else row
            for row in plan
        ]
        owned = {id(row.parameter) for row in rows}
        foreign = []
        for name, p in named:
            if id(p) not in owned:
                refuse_lazy(name, p)
                reason = "not a parameter of the model"
                foreign.append(Row(name, tuple(p.shape), None, False, reason, p))
        if named and len(foreign) == len(named):
            raise ZeromeanError(
                "the optimizer and the model share no parameter",
                "Pass the model whose parameters the optimizer updates, and create the optimizer"
                " after moving or wrapping the model: fully_shard replaces its parameters, and"
                " DeepSpeed ZeRO by flat partitions (use fully_shard, FSDP2, instead)",
            )
        if {id(row.parameter) for row in foreign} - self._foreign:
            self._foreign = {id(row.parameter) for row in foreign}
            warn(
                f"{len(foreign)} of the optimizer's parameters ({foreign[0].name} first) do not"
                " belong to the model and are not centered. Pass the model that holds all of them."
            )
        lost = [
            row
            for row in rows
            if self._fan_ins.get(row.parameter) is not None
            and not (row.centered or row.zero_mean_already)
            and id(row.parameter) in held
        ]
        if lost:
            warn(
                f"No longer centered: {amount(len(lost), 'parameter')}, {lost[0].name} first"
                f" ({lost[0].reason}). Call centralize after wrapping or changing the model."
            )
        rows += foreign
        # Other parameters of the model are planned if they are added to the optimizer.
        self._fan_ins = {
            row.parameter: row.fan_in if row.centered else None
            for row in rows
            if id(row.parameter) in held
        }
        self._found = None
        return Plan(tuple(rows))


class _Found(NamedTuple):
    """The parameters of an optimizer, the length of each param group, and what is centered."""

    lengths: list[int]
    parameters: list[Tensor]
    centered: list[CenteredParameter]


def _named_parameters(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for number, group in enumerate(optimizer.param_groups):
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            yield (names[index] if names else f"group {number}, parameter {index}"), parameter
