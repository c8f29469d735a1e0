"""Launch the Triton backend: one launch per step, on a GPU or interpreted on the CPU."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from subprocess import SubprocessError
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from zeromean.errors import ZeromeanError, warn
from zeromean.fan_in import FanIn
from zeromean.kernels.layout import Layout
from zeromean.kernels.prepared import (
    PreparedCenter,
    PreparedMeanKeeper,
    PreparedStep,
    can_center,
    can_step,
    layout,
)
from zeromean.kernels.step_spec import At, Decay, Entry, Kind, Number, Rule, decay_numbers, numbers
from zeromean.kernels.tensor_memory import addresses

_TYPES = (torch.float32, torch.float64, torch.bfloat16)
# The shape of a tile (see triton_kernels.py): 2**LEVELS runs of LANES entries, in SIDE columns.
_LANES, _SIDE = 16, 4
_LEVELS = {torch.float32: 8, torch.float64: 7, torch.bfloat16: 8}
# 16 entries per thread (8 of float64), and registers for two programs per multiprocessor.
_LAUNCH = {"num_warps": 8, "maxnreg": 128}
# About as many programs as run at once on a large GPU; vectors of fewer tiles are not shared.
_PROGRAMS, _LEAST_SHARED = 512, 8
_COUNTED = 128  # tensors per program that counts steps
_LEAST_CAPABILITY = (7, 0)

# Launches whose tables a CUDA graph reads; it may be replayed at any time.
_CAPTURED: set[_Launch] = set()


def interpreted() -> bool:
    """Return whether Triton interprets its programs on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def installed() -> bool:
    """Return whether Triton is installed. CUDA builds of torch include it."""
    return find_spec("triton") is not None


def runs_on(device: torch.device) -> bool:
    """Return whether Triton is installed and supports this device."""
    if not installed():
        return False
    return device.type == "cpu" if interpreted() else _capable(device)


@lru_cache(maxsize=64)
def _capable(device: torch.device) -> bool:
    # ROCm devices are called cuda too, but the launch options are for NVIDIA GPUs.
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY and _starts()


@lru_cache(maxsize=1)
def _starts() -> bool:
    """Return whether Triton can start; it compiles a part of itself with the system's compiler."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except (ImportError, OSError, RuntimeError, SubprocessError) as error:
        warn(
            f"Triton cannot start ({error}), so the slower reference is used on GPUs; Triton needs"
            " a C compiler and the headers of Python"
        )
        return False
    return True


@lru_cache(maxsize=1)
def _tiles() -> ModuleType:
    from zeromean.kernels import triton_kernels  # only this module needs Triton

    return triton_kernels


def serves(kind: Kind, entry: Entry, gradient: Tensor) -> bool:
    """Return whether the kernels can step an entry along a gradient."""
    step = entry.state.get("step")
    return (
        can_step(_known, kind, entry, gradient)
        and (step is None or step.device == entry.weight.device)
        and _counted(layout(entry.weight, entry.fan_in))
    )


def serves_center(
    into: Tensor, gradient: Tensor, fan_in: FanIn | None, weight: Tensor | None
) -> bool:
    """Return whether the kernels can center a gradient, with a weight that decays inside."""
    return can_center(_known, into, gradient, fan_in, weight) and _counted(layout(gradient, fan_in))


def _known(x: Tensor) -> bool:
    return x.dtype in _TYPES and runs_on(x.device)


def _counted(found: Layout) -> bool:
    """Return whether 32 bits suffice for the counts of vectors and runs and the offsets in a tile.

    The start of a tile has 64 bits, so nearly all tensors qualify.
    """
    outer, m1, inner, m2 = found
    reach = m1 * inner * m2 if m1 * inner > 1 and m2 > 1 else inner << max(_LEVELS.values())
    return max(outer * inner, m1 * _ceiling(m2, _LANES), reach) < 2**31


def center_(
    into: Sequence[Tensor],
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn],
    decays: Sequence[Decay | None],
) -> None:
    """Compute ``into = g - mean(g) - lambda mean(w)`` for tensors of one type on one device."""
    weights = [None if decay is None else decay[0] for decay in decays]
    rows = _center_rows(gradients, fan_ins, range(len(gradients)), weights)
    launch = _remembered("center", "gradient", gradients[0].dtype, gradients[0].device, tuple(rows))
    factors = [0.0 if decay is None else decay[1] for decay in decays]
    launch.run(addresses(gradients), decay_numbers(factors), addresses(into))
    increment_version(into)


class Center(PreparedCenter):
    """Center gradients on one device in one launch."""

    def __init__(
        self, entries: Sequence[Entry], gradients: Sequence[Tensor], decayed: bool
    ) -> None:
        super().__init__(entries, gradients, decayed)
        rows = _center_rows(
            gradients,
            [entry.fan_in for entry in entries],
            [entry.group for entry in entries],
            self._weights or [None] * len(gradients),
        )
        self._launch = _Launch("center", "gradient", gradients[0].dtype, gradients[0].device, rows)

    def _run(self, gradients: array[int], decays: Sequence[Number]) -> None:
        self._launch.run(gradients, decay_numbers(decays), gradients)


class MeanKeeper(PreparedMeanKeeper):
    """Record the means of weights in one launch and restore them in another."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        first = entries[0].weight
        super().__init__(entries, torch.promote_types(first.dtype, torch.float32))
        rows = [
            _Row(
                found,
                True,
                0,
                residual=0 if entry.residual is None else entry.residual.data_ptr(),
                before=before,
            )
            for entry, found, before in zip(entries, self._layouts, self._before, strict=False)
        ]
        self._launches = {
            kind: _Launch(kind, "gradient", first.dtype, first.device, rows)
            for kind in ("note", "keep")
        }

    def _run(self, kind: str, weights: array[int], means: Tensor) -> None:
        self._launches[kind].run(weights, decay_numbers([0.0]), weights, means)


class Step(PreparedStep):
    """Step entries on one device in one launch."""

    def __init__(
        self, kind: Kind, at: At, entries: Sequence[Entry], gradients: Sequence[Tensor]
    ) -> None:
        super().__init__(kind, at, entries, gradients)
        rows = [self._row(entry, index) for index, entry in enumerate(entries)]
        self._launch = _Launch(kind, at, self._dtype, entries[0].weight.device, rows)

    def _row(self, entry: Entry, index: int) -> _Row:
        state = self._states[index]
        step = state["step"] if self._kind in ("adam", "amsgrad") else None
        return _Row(
            layout(entry.weight, entry.fan_in),
            entry.fan_in is not None,
            entry.group,
            index in self._starting,
            entry.weight.data_ptr(),
            tuple(state[key].data_ptr() for key in self._keys),
            0 if entry.residual is None else entry.residual.data_ptr(),
            0 if step is None else step.data_ptr(),
            step is not None and step.dtype == torch.float64,
        )

    def _run(self, gradients: array[int], rules: Sequence[Rule]) -> None:
        self._launch.run(gradients, [number for rule in rules for number in numbers(rule)])

    def _started(self) -> None:
        self._launch.started()


def _center_rows(
    gradients: Sequence[Tensor],
    fan_ins: Sequence[FanIn | None],
    groups: Sequence[int],
    weights: Sequence[Tensor | None],
) -> list[_Row]:
    return [
        _Row(
            layout(gradient, fan_in),
            True,
            group,
            weight=0 if weight is None else weight.data_ptr(),
        )
        for gradient, fan_in, group, weight in zip(gradients, fan_ins, groups, weights, strict=True)
    ]


class _Row(NamedTuple):
    """The kernels' description of one tensor."""

    layout: Layout
    centered: bool
    group: int
    starts: bool = False  # whether the momentum is still empty
    weight: int = 0  # addresses from here on, 0 for none
    running: tuple[int, ...] = ()
    residual: int = 0
    step: int = 0
    wide_step: bool = False
    before: int = 0  # number of vectors in the tensors before it


class _Tiling(NamedTuple):
    """A mapping of a tensor's vectors to tiles, and of tiles to programs."""

    columns: bool
    shift: int
    blocks: int  # groups of vectors that share a tile
    tiles: int  # tiles per block, one after the other
    parts: int = 1  # programs per block

    @property
    def tiles_each(self) -> int:
        return _ceiling(self.tiles, self.parts)

    @property
    def programs(self) -> int:
        return self.blocks * self.parts


def _tiling(row: _Row, levels: int) -> _Tiling:
    (outer, m1, inner, m2), runs = row.layout, 1 << levels
    if inner > 1 and m2 == 1:
        strips = outer * _ceiling(inner, _SIDE * _LANES)
        return _Tiling(True, 0, strips, _ceiling(m1, runs // _SIDE))
    each = m1 * _ceiling(m2, _LANES)
    shift = min(levels, (each - 1).bit_length())
    return _Tiling(False, shift, _ceiling(outer * inner, runs >> shift), _ceiling(each, runs))


def _shared(row: _Row, tiling: _Tiling, most: int, levels: int) -> _Tiling:
    """Share a block of more than ``most`` tiles among programs, at most as many as a tile has rows.

    A tensor with a residual is not shared, because one program must see the whole rounding error.
    """
    if not row.centered:
        return tiling._replace(parts=tiling.tiles)
    if tiling.tiles <= most or row.residual:
        return tiling
    parts = min(_ceiling(tiling.tiles, most), (1 << levels) // _SIDE)
    return tiling._replace(parts=_ceiling(tiling.tiles, _ceiling(tiling.tiles, parts)))


def _ceiling(a: int, b: int) -> int:
    return -(-a // b)


class _OnDevice:
    """Numbers on a device; they are copied there when they change."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._values: list[Any] = []
        self._copy: Tensor | None = None

    def of(self, values: list[Any]) -> Tensor:
        if _capturing(self._device):
            # Pass values inside kernels: a replay must not depend on later host memory.
            made = torch.zeros(len(values), dtype=self._dtype, device=self._device)
            torch._foreach_add_(list(made.unbind()), values)
            return made
        if self._copy is None or self._values != values:
            self._values, self._copy = values, _copied(values, self._dtype, self._device)
        return self._copy


def _copied(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy numbers to a device without waiting for it."""
    # Name the CPU, because the default device may be another, which has no pinned memory.
    made = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
    return made.to(device, non_blocking=True)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class _Launch:
    """One kind of step of tensors of one type on one device, set up once.

    Args:
        kind: Kind of step, or "center", "note" or "keep".
        at: Whether the gradient or the whole update is centered.
        dtype, device: Type and device of all tensors.
        rows: The tensors.

    Raises:
        ZeromeanError: A CUDA graph is being captured.
    """

    def __init__(
        self, kind: str, at: At, dtype: torch.dtype, device: torch.device, rows: Sequence[_Row]
    ) -> None:
        if _capturing(device):
            raise ZeromeanError(
                "the first step is inside the capture of a CUDA graph, but a step before it must"
                " prepare the kernels",
                "Make a few steps on a side stream first, as torch's notes on CUDA graphs show",
            )
        wide, levels = torch.promote_types(dtype, torch.float32), _LEVELS[dtype]
        tilings = [_tiling(row, levels) for row in rows]
        most = max(_LEAST_SHARED, sum(t.blocks * t.tiles for t in tilings) // _PROGRAMS)
        tilings = [_shared(*pair, most, levels) for pair in zip(rows, tilings, strict=True)]
        self._device, self._count = device, len(rows)
        self._counts = kind in ("adam", "amsgrad")
        self._steps = kind not in ("center", "note", "keep")
        self._carries = dtype == torch.bfloat16 and (at == "update" or kind == "keep")
        self._vector = 16 // dtype.itemsize
        self._compiled = {
            "KIND": kind,
            "UPDATE": at == "update",
            "T": _name(dtype),
            "A": _name(wide),
            "LEVELS": levels,
        }
        # Start with those that take longest, so that all programs end at about the same time.
        order = sorted(range(len(rows)), key=lambda n: -tilings[n].tiles_each)
        programs: list[int] = []
        words: dict[int, list[int]] = {}
        summed = 0
        for n in order:
            row, tiling = rows[n], tilings[n]
            words[n] = self._words(row, tiling, len(programs), summed)
            programs += [n] * tiling.programs
            if row.centered and tiling.parts > 1:
                summed += tiling.programs * _SIDE * _LANES
        self._shares = summed > 0
        self._programs = _copied(programs, torch.int32, device)
        self._tensors = _copied(
            [word for n in range(len(rows)) for word in words[n]], torch.int64, device
        )
        self._corrections = torch.empty(2 * len(rows), dtype=torch.float64, device=device)
        self._scratch = torch.empty(max(summed, 1), dtype=wide, device=device)
        self._read, self._written = (_OnDevice(torch.int64, device) for _ in range(2))
        self._rules = _OnDevice(torch.float64, device)

    def _words(self, row: _Row, tiling: _Tiling, program: int, scratch: int) -> list[int]:
        """Return a tensor's row in the order of FIELDS of triton_kernels.py."""
        run = row.layout.inner if tiling.columns else row.layout.m2
        state = (row.weight, *row.running)
        first, second, largest = (*row.running, 0, 0, 0)[:3]
        known = {
            "first_program": program,
            "parts": tiling.parts,
            "tiles": tiling.tiles,
            "tiles_each": tiling.tiles_each,
            "scratch": scratch,
            **row.layout._asdict(),
            "columns": tiling.columns,
            "shift": tiling.shift,
            "centered": row.centered,
            "aligned": run % self._vector == 0 and all(x % 16 == 0 for x in state),
            "group": row.group,
            "starts": row.starts,
            "weight": row.weight,
            "first": first,
            "second": second,
            "largest": largest,
            "residual": row.residual,
            "step": row.step,
            "wide_step": row.wide_step,
            "before": row.before,
        }
        return [int(known[field]) for field in _tiles().FIELDS]

    def run(
        self,
        gradients: array[int],
        rules: list[Number],
        into: array[int] | None = None,
        means: Tensor | None = None,
    ) -> None:
        """Launch.

        Args:
            gradients: Addresses of the gradients, or of the tensors whose means are subtracted,
                recorded or restored.
            rules: NUMBERS of triton_kernels.py for each group.
            into: Addresses to write to for "center" and "keep"; None (default) for other kinds.
            means: Mean of each vector for "note" and "keep"; None (default) for other kinds.
        """
        table = self._rules.of([0.0 if isinstance(n, Tensor) else n for n in rules])
        for place, number in enumerate(rules):
            if isinstance(number, Tensor):  # copied from device to device without waiting
                table[place : place + 1].copy_(number)  # of shape () or (1,)
        read = self._read.of([*gradients])
        written = read
        if into is not None and into != gradients:
            written = self._written.of([*into])
        tables = (self._programs, self._tensors, read)
        tiles, grid = _tiles(), (self._programs.numel(),)
        with self._guard():
            if self._counts:
                tiles.count_step[(_ceiling(self._count, _COUNTED),)](
                    self._tensors, table, self._corrections, self._count, BLOCK=_COUNTED
                )
            if self._shares:
                tiles.sum_parts[grid](
                    *tables, table, self._corrections, self._scratch, **self._compiled, **_LAUNCH
                )
            if grid[0]:
                tiles.step[grid](
                    *tables,
                    written,
                    table,
                    self._corrections,
                    self._scratch,
                    self._scratch if means is None else means,
                    **self._compiled,
                    STEPS=self._steps,
                    CARRIES=self._carries,
                    VECTOR=self._vector,
                    **_LAUNCH,
                )
        if _capturing(self._device):
            _CAPTURED.add(self)

    def started(self) -> None:
        """Record in the table that no momentum is empty anymore."""
        fields = _tiles().FIELDS
        self._tensors.view(-1, len(fields))[:, fields.index("starts")] = 0

    def _guard(self) -> AbstractContextManager[Any]:
        """Make the device current, because Triton launches on the current one."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


def _name(dtype: torch.dtype) -> Any:
    """Return Triton's name of a type."""
    return getattr(_tiles().tl, str(dtype).removeprefix("torch."))


# The launches of the latest calls of center_.
_remembered = lru_cache(maxsize=8)(_Launch)
