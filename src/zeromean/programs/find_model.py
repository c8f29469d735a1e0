"""Find the model that an optimizer trains, among the live objects of the process."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor, nn

from zeromean.errors import ZeromeanError
from zeromean.model import owners
from zeromean.plan import Owner

# Wrappers that decide how parameters are stored or averaged are part of the model.
_WRAPPERS = ("torch.nn.parallel.", "torch.distributed.")
_CONTAINERS = (nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Args:
        model: The module that owns the parameters, or None.
        reason: Why there is none.
        conflicts: Sentences about other modules that describe a shared parameter differently.
    """

    model: nn.Module | None
    reason: str = ""
    conflicts: tuple[str, ...] = ()


class ModuleGraph:
    """The modules of the process and which of an optimizer's parameters each holds.

    Args:
        modules: The modules to search.
        parameters: The optimizer's parameters.
    """

    def __init__(self, modules: Iterable[nn.Module], parameters: Iterable[Tensor]) -> None:
        self.held = {id(parameter) for parameter in parameters}
        self.modules = list(modules)
        self._covered: dict[int, frozenset[int]] = {}

    def children(self, module: nn.Module) -> list[nn.Module]:
        """The direct submodules."""
        children = module.__dict__.get("_modules") or {}
        return [child for child in children.values() if child is not None]

    def own(self, module: nn.Module) -> set[int]:
        """The optimizer's parameters that the module itself holds, by identity."""
        parameters = module.__dict__.get("_parameters") or {}
        return {id(p) for p in parameters.values() if p is not None} & self.held

    def covered(self, module: nn.Module) -> frozenset[int]:
        """The optimizer's parameters that the module or a submodule holds, by identity."""
        known = self._covered.get(id(module))
        if known is None:
            self._covered[id(module)] = frozenset()  # ends a cycle of modules
            parts = [self.own(module), *map(self.covered, self.children(module))]
            known = self._covered[id(module)] = frozenset().union(*parts)
        return known

    def roots(self) -> list[nn.Module]:
        """The modules that hold parameters and are no submodules, best coverage first.

        A ParameterList has no layers, so it comes last. A TorchScript module hides its layers, so
        it comes after the module that it was made of, which has the same parameters.
        """
        inner = {id(child) for module in self.modules for child in self.children(module)}
        roots = [m for m in self.modules if id(m) not in inner and self.covered(m)]
        return sorted(
            roots,
            key=lambda root: (
                isinstance(self.tight(root), _CONTAINERS),
                -len(self.covered(root)),
                isinstance(root, torch.jit.ScriptModule),
            ),
        )

    def tight(self, module: nn.Module) -> nn.Module:
        """The smallest part of the module that holds the same parameters under the same owners."""
        while not self.own(module) and not type(module).__module__.startswith(_WRAPPERS):
            holding = [child for child in self.children(module) if self.covered(child)]
            if len({id(child) for child in holding}) != 1:
                break
            module = holding[0]
        return module


def find_model(parameters: list[Tensor], known: Iterable[nn.Module] = ()) -> Found:
    """Find the module that owns an optimizer's parameters.

    A module that covers all parameters is preferred to one that shares only some of them. Several
    modules that cover them together become a ``ModuleList``.

    Args:
        parameters: The optimizer's parameters, compared by identity.
        known: Models found earlier. If one of them owns all parameters, nothing is searched.
    """
    held = {id(parameter) for parameter in parameters}
    for model in known:
        if held <= {id(parameter) for parameter in model.parameters()}:
            return Found(model)
    graph = ModuleGraph(live_modules(), parameters)
    chosen: list[nn.Module] = []
    unchosen: list[nn.Module] = []
    missing = set(held)
    for root in graph.roots():
        if graph.covered(root) & missing:
            missing -= graph.covered(root)
            chosen.append(graph.tight(root))
        else:
            unchosen.append(root)
    if not chosen:
        return Found(None, "no module owns its parameters")
    if any(
        isinstance(module, torch.jit.ScriptModule) and graph.own(module)
        for root in chosen
        for module in root.modules()
    ):
        return Found(None, "TorchScript hides the classes of the model's layers")
    model = chosen[0] if len(chosen) == 1 else _Roots(chosen)
    return Found(model, conflicts=tuple(_conflicts(model, unchosen, held)))


class _Roots(nn.ModuleList):
    """Several models that one optimizer trains; a later search must not find this list."""


def live_modules() -> list[nn.Module]:
    """Every ``nn.Module`` of the process.

    The test looks at the identity of the type only: ``isinstance`` asks an object for its
    ``__class__``, which makes lazy objects load. ``map`` and ``compress`` keep the loop over
    millions of objects out of Python.
    """
    wanted = {id(kind) for kind in _subclasses(nn.Module)} - {id(_Roots)}
    frozen = gc.get_freeze_count() > 0
    if frozen:  # frozen objects are not listed
        gc.unfreeze()
    objects = gc.get_objects()
    if frozen:
        gc.freeze()
    return list(compress(objects, map(wanted.__contains__, map(id, map(type, objects)))))


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = type.__subclasses__(kind)
    for one in below:
        yield from _subclasses(one)


def _conflicts(model: nn.Module, unchosen: list[nn.Module], held: set[int]) -> Iterator[str]:
    """Name the parameters that a module which was not chosen would center over other axes."""
    if not unchosen:
        return
    planned: dict[int, Owner] = {}
    for owner in owners(model):
        planned.setdefault(id(owner.parameter), owner)
    for module in unchosen:
        try:
            others = list(owners(module))
        except ZeromeanError:
            continue
        for other in others:
            mine = planned.get(id(other.parameter))
            if (
                mine is not None
                and id(other.parameter) in held
                and mine.fan_in != other.fan_in
                and not isinstance(other.module, _CONTAINERS)
            ):
                yield (
                    f"{mine.name} is shared with {type(module).__name__}, which uses it differently"
                    f" ({other.reason}); {type(model).__name__} decides"
                )
