"""Compute the steps of the triton backend: tiles of weight vectors, compiled for a GPU.

A program processes tiles of 2**LEVELS runs, SIDE runs abreast. A run has LANES lanes, which are
neighbors in memory, so that they are loaded as wide words. Weight vectors lie in a tile in one of
two ways:

- Vectors that are contiguous, or consist of contiguous pieces, take 1, 2, 4, ... whole runs each.
  Short ones share a tile. Sums run along runs, then over the runs of a vector.
- Vectors that lie side by side take one lane each. Sums run down the tile.

The mean of a vector is the sum of a number per run and a number per lane, one of which is zero.

Everything that differs between tensors and between steps is read from tables. Only the kind of
step, the element type and the tile are compiled in. Sums and arithmetic use float32, or float64 for
float64 tensors.

Arguments that many functions share:

- row: Pointer to the tensor's row of FIELDS. rule: Pointer to the NUMBERS of its param group.
- correction: Pointer to Adam's two bias corrections, see :func:`count_step`.
- base, start, width: Place of a tile, see :func:`_place`.
- g, w, m, v, largest: Tiles of the gradient, the weight, the momentum or exp_avg, exp_avg_sq and
  max_exp_avg_sq.
- KIND: Kind of step, or "center", "note" or "keep". UPDATE: Whether the whole update is centered.
- T: Element type. A: Type of the arithmetic. VECTOR: Number of entries per wide word.
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(16)
SIDE = tl.constexpr(4)

# The fields of a tensor's row, all of them int64. An address is 0 if there is no such tensor.
FIELDS = (
    "first_program",  # number of its first program
    "parts",  # number of programs that share the same vectors
    "tiles",  # number of tiles of a block of vectors, over all its parts
    "tiles_each",  # number of tiles of one part
    "scratch",  # index in the scratch memory of the sums of its parts
    "outer", "m1", "inner", "m2",  # see layout.py
    "columns",  # whether each vector takes one lane
    "shift",  # otherwise the binary logarithm of the number of runs per vector
    "centered", "aligned", "group", "starts",  # starts: whether the momentum is still empty
    "weight",  # for the kind "center" the weight that decays inside the projection
    "first",  # momentum, or exp_avg
    "second",  # exp_avg_sq
    "largest",  # max_exp_avg_sq
    "residual",  # rounding error of each vector's mean so far
    "step", "wide_step",  # step counter, and whether it is float64 instead of float32
    "before",  # for the kinds "note" and "keep" the number of vectors in the tensors before it
)  # fmt: skip
_FIELDS = tl.constexpr(len(FIELDS))
_FIRST_PROGRAM = tl.constexpr(FIELDS.index("first_program"))
_PARTS = tl.constexpr(FIELDS.index("parts"))
_TILES = tl.constexpr(FIELDS.index("tiles"))
_TILES_EACH = tl.constexpr(FIELDS.index("tiles_each"))
_SCRATCH = tl.constexpr(FIELDS.index("scratch"))
_OUTER = tl.constexpr(FIELDS.index("outer"))
_M1 = tl.constexpr(FIELDS.index("m1"))
_INNER = tl.constexpr(FIELDS.index("inner"))
_M2 = tl.constexpr(FIELDS.index("m2"))
_COLUMNS = tl.constexpr(FIELDS.index("columns"))
_SHIFT = tl.constexpr(FIELDS.index("shift"))
_CENTERED = tl.constexpr(FIELDS.index("centered"))
_ALIGNED = tl.constexpr(FIELDS.index("aligned"))
_GROUP = tl.constexpr(FIELDS.index("group"))
_STARTS = tl.constexpr(FIELDS.index("starts"))
_WEIGHT = tl.constexpr(FIELDS.index("weight"))
_FIRST = tl.constexpr(FIELDS.index("first"))
_SECOND = tl.constexpr(FIELDS.index("second"))
_LARGEST = tl.constexpr(FIELDS.index("largest"))
_RESIDUAL = tl.constexpr(FIELDS.index("residual"))
_STEP = tl.constexpr(FIELDS.index("step"))
_WIDE_STEP = tl.constexpr(FIELDS.index("wide_step"))
_BEFORE = tl.constexpr(FIELDS.index("before"))

# The numbers of a param group's rule, all of them float64.
NUMBERS = (
    "lr", "sign", "coupled", "decoupled", "momentum", "dampening", "beta1", "beta2", "eps",
)  # fmt: skip
_NUMBERS = tl.constexpr(len(NUMBERS))
_LR = tl.constexpr(NUMBERS.index("lr"))
_SIGN = tl.constexpr(NUMBERS.index("sign"))
_COUPLED = tl.constexpr(NUMBERS.index("coupled"))
_DECOUPLED = tl.constexpr(NUMBERS.index("decoupled"))
_MOMENTUM = tl.constexpr(NUMBERS.index("momentum"))
_DAMPENING = tl.constexpr(NUMBERS.index("dampening"))
_BETA1 = tl.constexpr(NUMBERS.index("beta1"))
_BETA2 = tl.constexpr(NUMBERS.index("beta2"))
_EPS = tl.constexpr(NUMBERS.index("eps"))


@triton.jit
def _regroup(sums, shift, LEVELS: tl.constexpr):
    """Replace each run's sum by the total over its block of 2**shift runs."""
    RUNS: tl.constexpr = 1 << LEVELS
    flat = tl.reshape(sums, (RUNS,))
    total = flat
    for level in tl.static_range(1, LEVELS + 1):
        if shift == level:
            apart = tl.reshape(flat, (RUNS >> level, 1 << level))
            each = tl.sum(apart, 1)[:, None]
            total = tl.reshape(tl.broadcast_to(each, (RUNS >> level, 1 << level)), (RUNS,))
    return tl.reshape(total, (RUNS // SIDE, SIDE))


@triton.jit
def _means(x, row, LEVELS: tl.constexpr):
    """Return the means of a tile's vectors, per run and per lane; one of the two is zero."""
    entries = (tl.load(row + _M1) * tl.load(row + _M2)).to(x.dtype)
    if tl.load(row + _COLUMNS) != 0:
        runs = tl.zeros((1 << (LEVELS - 2), SIDE), x.dtype)
        lanes = tl.sum(x, 0)
    else:
        runs = _regroup(tl.sum(x, 2), tl.load(row + _SHIFT), LEVELS)
        lanes = tl.zeros((SIDE, LANES), x.dtype)
    return runs / entries, lanes / entries


@triton.jit
def _runs(shift, LEVELS: tl.constexpr):
    """Return each run's vector, counted from the tile's first one, and its number in the vector."""
    run = tl.arange(0, 1 << (LEVELS - 2))[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    return run >> shift, run & ((1 << shift) - 1)


@triton.jit
def _columns(row, block):
    """Return the outer block that a strip of columns belongs to, and its first column."""
    WIDE: tl.constexpr = SIDE * LANES
    across = (tl.load(row + _INNER) + WIDE - 1) // WIDE
    return block // across, block % across * WIDE


@triton.jit
def _place(row, block, tile, LEVELS: tl.constexpr, VECTOR: tl.constexpr):
    """Return a tile's start in its tensor, each run's start from there, and each run's length."""
    HEIGHT: tl.constexpr = 1 << (LEVELS - 2)
    m1 = tl.load(row + _M1)
    inner = tl.load(row + _INNER)
    m2 = tl.load(row + _M2)
    if tl.load(row + _COLUMNS) != 0:
        o, c = _columns(row, block)
        base = (o * m1 + tile * HEIGHT) * inner + c
        i = tl.arange(0, HEIGHT)[:, None]
        side = tl.arange(0, SIDE)[None, :] * LANES
        start = i * inner.to(tl.int32) + side
        left = tl.where(i < _capped(m1 - tile * HEIGHT), _capped(inner - c) - side, 0)
    else:
        shift = tl.load(row + _SHIFT).to(tl.int32)
        first = block << (LEVELS - shift)
        vector, run = _runs(shift, LEVELS)
        if m1 * inner == 1:
            base = first * m2 + tile * (LANES << LEVELS)
            start = vector * m2.to(tl.int32) + run * LANES
            left = _capped(m2 - tile * (LANES << LEVELS)) - run * LANES
        else:
            # A vector consists of pieces of m2 entries, and each piece starts a run.
            across = inner.to(tl.int32)
            runs = ((m2 + LANES - 1) // LANES).to(tl.int32)
            p = tile.to(tl.int32) * (1 << LEVELS) + run
            piece = p // runs
            k = (p - piece * runs) * LANES
            base = first // inner * m1 * inner * m2
            c = (first % inner).to(tl.int32) + vector
            o = c // across
            start = ((o * (m1.to(tl.int32) - 1) + piece) * across + c) * m2.to(tl.int32) + k
            left = tl.where(piece < m1.to(tl.int32), m2.to(tl.int32) - k, 0)
        left = tl.where(vector < _capped(tl.load(row + _OUTER) * inner - first), left, 0)
    width = tl.minimum(tl.maximum(left, 0), LANES)
    # The caller guarantees these multiples; with them the compiler loads wide words.
    return base, start // VECTOR * VECTOR, width // VECTOR * VECTOR


@triton.jit
def _capped(n):
    """Convert a count to 32 bits; nothing above the size of a tile matters."""
    return tl.minimum(n, 1 << 20).to(tl.int32)


@triton.jit
def _lanes(address, base, start, width, T: tl.constexpr, VECTOR: tl.constexpr):
    """Return pointers to the lanes of a tile, and a mask of those that hold entries."""
    pointer = address.to(tl.pointer_type(T)) + base
    if VECTOR > 1:
        pointer = tl.multiple_of(pointer, 16)
    k = tl.arange(0, LANES)[None, None, :]
    return pointer + (start[:, :, None] + k), k < width[:, :, None]


@triton.jit
def _load(address, base, start, width, T: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr):
    pointers, mask = _lanes(address, base, start, width, T, VECTOR)
    return tl.load(pointers, mask, 0).to(A)


@triton.jit
def _store(
    address, base, start, width, before, x,
    T: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store a tile, and return the rounded entries minus ``before``."""
    pointers, mask = _lanes(address, base, start, width, T, VECTOR)
    rounded = x.to(T)
    tl.store(pointers, rounded, mask)
    return tl.where(mask, rounded.to(A) - before, 0.0)


@triton.jit
def _change(
    row, rule, correction, g, w, m, v, largest,
    KIND: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Return the amount to subtract from the weights, decay included, and the new state."""
    lr = tl.load(rule + _LR).to(A)
    if KIND == "sgd":
        x = lr * g
    elif KIND == "momentum" or KIND == "nesterov":
        gain = tl.where(tl.load(row + _STARTS) != 0, 1.0, 1.0 - tl.load(rule + _DAMPENING)).to(A)
        momentum = tl.load(rule + _MOMENTUM).to(A)
        m = momentum * m + gain * g
        x = lr * (g + momentum * m) if KIND == "nesterov" else lr * m
    else:
        beta1 = tl.load(rule + _BETA1)
        beta2 = tl.load(rule + _BETA2)
        m += (1.0 - beta1).to(A) * (g - m)
        v = beta2.to(A) * v + (1.0 - beta2).to(A) * g * g
        square = v
        if KIND == "amsgrad":
            largest = tl.maximum(largest, v)
            square = largest
        root = tl.sqrt(square) * tl.load(correction + 1).to(A)
        x = tl.load(correction).to(A) * m / (root + tl.load(rule + _EPS).to(A))
    return x + lr * tl.load(rule + _DECOUPLED).to(A) * w, m, v, largest


@triton.jit
def _read(
    row, gradient, base, start, width, weighed,
    KIND: tl.constexpr, T: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Load a tile of the gradient, the weight (``weighed`` lanes of it) and the kind's state."""
    g = _load(gradient, base, start, width, T, A, VECTOR)
    w = _load(tl.load(row + _WEIGHT), base, start, weighed, T, A, VECTOR)
    m = g
    v = g
    largest = g
    if (KIND == "momentum" or KIND == "nesterov") or (KIND == "adam" or KIND == "amsgrad"):
        m = _load(tl.load(row + _FIRST), base, start, width, T, A, VECTOR)
    if KIND == "adam" or KIND == "amsgrad":
        v = _load(tl.load(row + _SECOND), base, start, width, T, A, VECTOR)
    if KIND == "amsgrad":
        largest = _load(tl.load(row + _LARGEST), base, start, width, T, A, VECTOR)
    return g, w, m, v, largest


@triton.jit
def _begin(
    row, rule, correction, width, g, w, m, v, largest,
    KIND: tl.constexpr, UPDATE: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Return the tile to center: the gradient with coupled decay, or the whole change."""
    x = tl.load(rule + _SIGN).to(A) * g + tl.load(rule + _COUPLED).to(A) * w
    if UPDATE:
        x, m, v, largest = _change(row, rule, correction, x, w, m, v, largest, KIND, A)
        # Lanes without an entry hold 0 / (0 + eps), which is nan if eps is 0.
        x = tl.where(tl.arange(0, LANES)[None, None, :] < width[:, :, None], x, 0.0)
    return x, m, v, largest


@triton.jit
def _end(
    row, rule, correction, into, base, start, width, x, mean, g, w, m, v, largest,
    KIND: tl.constexpr, UPDATE: tl.constexpr,
    T: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Subtract the mean, make the step and store it; return the change of the stored entries."""
    if KIND == "center" or KIND == "keep":
        # Only the mean contains the decay; the optimizer adds the decay itself later.
        return _store(into, base, start, width, g, g - mean, T, A, VECTOR)
    x -= mean
    if not UPDATE:
        x, m, v, largest = _change(row, rule, correction, x, w, m, v, largest, KIND, A)
    if KIND != "sgd":
        _store(tl.load(row + _FIRST), base, start, width, m, m, T, A, VECTOR)
    if KIND == "adam" or KIND == "amsgrad":
        _store(tl.load(row + _SECOND), base, start, width, v, v, T, A, VECTOR)
    if KIND == "amsgrad":
        _store(tl.load(row + _LARGEST), base, start, width, largest, largest, T, A, VECTOR)
    return _store(tl.load(row + _WEIGHT), base, start, width, w, w - x, T, A, VECTOR)


@triton.jit
def _sum_tiles(
    row, gradient, rule, correction, block, first, last,
    KIND: tl.constexpr, UPDATE: tl.constexpr,
    T: tl.constexpr, A: tl.constexpr, LEVELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Return the sum, per lane, of the tiles to center, from ``first`` to before ``last``."""
    FEWER: tl.constexpr = KIND if UPDATE else "sgd"  # a gradient's mean needs no state
    coupled = tl.load(rule + _COUPLED)
    total = tl.zeros((1 << (LEVELS - 2), SIDE, LANES), A)
    for tile in range(first, last):
        base, start, width = _place(row, block, tile, LEVELS, VECTOR)
        weighed = width
        if not UPDATE:
            weighed = tl.where(coupled != 0, width, 0)
        g, w, m, v, largest = _read(row, gradient, base, start, width, weighed, FEWER, T, A, VECTOR)
        x, m, v, largest = _begin(
            row, rule, correction, width, g, w, m, v, largest, KIND, UPDATE, A
        )
        total += x
    return total


@triton.jit
def _vectors(row, block, LEVELS: tl.constexpr):
    """Return which vectors a tile holds.

    Returns:
        The number of its first vector; each run's vector, counted from there; whether the run has
        one; whether it is the first run of its vector; each lane's vector; whether it has one.
    """
    shift = tl.load(row + _SHIFT).to(tl.int32)
    inner = tl.load(row + _INNER)
    of_run, run = _runs(shift, LEVELS)
    of_lane = tl.arange(0, SIDE)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    if tl.load(row + _COLUMNS) != 0:
        o, c = _columns(row, block)
        first = o * inner + c
        run_has = run < 0
        lane_has = of_lane < _capped(inner - c)
    else:
        first = block << (LEVELS - shift)
        run_has = of_run < _capped(tl.load(row + _OUTER) * inner - first)
        lane_has = of_lane < 0
    return first, of_run, run_has, run_has & (run == 0), of_lane, lane_has


@triton.jit
def _step(
    row, gradient, into, rule, correction, scratch, means, block, parts, first, last,
    KIND: tl.constexpr, UPDATE: tl.constexpr, STEPS: tl.constexpr, CARRIES: tl.constexpr,
    T: tl.constexpr, A: tl.constexpr, LEVELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Step the tiles from ``first`` to before ``last``.

    They hold whole vectors, or a part of vectors whose sums :func:`sum_parts` has stored. STEPS and
    CARRIES are those of :func:`step`.
    """
    HEIGHT: tl.constexpr = 1 << (LEVELS - 2)
    centered = tl.load(row + _CENTERED) != 0
    fits = last - first == 1
    runs = tl.zeros((HEIGHT, SIDE), A)
    lanes = tl.zeros((SIDE, LANES), A)

    if fits:  # one tile stays in registers, so that one pass is enough
        base, start, width = _place(row, block, first, LEVELS, VECTOR)
        weighed = width
        if not STEPS:
            weighed = tl.where(tl.load(rule + _COUPLED) != 0, width, 0)
        g, w, m, v, largest = _read(row, gradient, base, start, width, weighed, KIND, T, A, VECTOR)
        x, m, v, largest = _begin(
            row, rule, correction, width, g, w, m, v, largest, KIND, UPDATE, A
        )
    else:
        base = first * 0
        start = tl.zeros((HEIGHT, SIDE), tl.int32)
        width = start
        x = tl.zeros((HEIGHT, SIDE, LANES), A)
        g = x
        w = x
        m = x
        v = x
        largest = x
        if centered & (parts == 1):
            x = _sum_tiles(
                row, gradient, rule, correction, block, first, last,
                KIND, UPDATE, T, A, LEVELS, VECTOR,
            )  # fmt: skip
    if centered:
        total = x
        if parts > 1:
            part = tl.arange(0, HEIGHT)[:, None, None]
            side = tl.arange(0, SIDE)[None, :, None] * LANES + tl.arange(0, LANES)[None, None, :]
            sums = _sums(row, scratch, block, parts) + (part * (SIDE * LANES) + side)
            total = tl.load(sums, (part < parts) & (side >= 0), 0.0)
        runs, lanes = _means(total, row, LEVELS)

    if (KIND == "note" or KIND == "keep") or CARRIES:
        number, of_run, run_has, run_leads, of_lane, lane_has = _vectors(row, block, LEVELS)
        known = means + tl.load(row + _BEFORE) + number
    if KIND == "note":
        tl.store(known + of_run, runs, run_leads)
        tl.store(known + of_lane, lanes, lane_has)
    else:
        run_known = runs
        lane_known = lanes
        run_lost = tl.zeros((HEIGHT, SIDE), A)
        lane_lost = tl.zeros((SIDE, LANES), A)
        if KIND == "keep":
            run_known = tl.load(known + of_run, run_has, 0.0)
            lane_known = tl.load(known + of_lane, lane_has, 0.0)
        if CARRIES:
            address = tl.load(row + _RESIDUAL)
            residual = address.to(tl.pointer_type(tl.float32)) + number
            here = tl.where(address != 0, 1 << 30, 0)  # all vectors have a residual, or none
            run_lost = tl.load(residual + of_run, run_has & (of_run < here), 0.0)
            lane_lost = tl.load(residual + of_lane, lane_has & (of_lane < here), 0.0)
        of_runs = _shift(runs, run_known, run_lost, KIND)
        of_lanes = _shift(lanes, lane_known, lane_lost, KIND)
        shift = of_runs[:, :, None] + of_lanes[None, :, :]
        gained = tl.zeros((HEIGHT, SIDE, LANES), A)
        if fits:
            gained = _end(
                row, rule, correction, into, base, start, width, x, shift, g, w, m, v, largest,
                KIND, UPDATE, T, A, VECTOR,
            )  # fmt: skip
        else:
            for back in range(first, last):
                # Process the tile that was summed last first: it is still in the cache.
                tile = first + last - 1 - back
                base, start, width = _place(row, block, tile, LEVELS, VECTOR)
                weighed = width
                if not STEPS:
                    weighed = width * 0  # only the mean contains it
                g, w, m, v, largest = _read(
                    row, gradient, base, start, width, weighed, KIND, T, A, VECTOR
                )
                x, m, v, largest = _begin(
                    row, rule, correction, width, g, w, m, v, largest, KIND, UPDATE, A
                )
                gained += _end(
                    row, rule, correction, into, base, start, width, x, shift, g, w, m, v, largest,
                    KIND, UPDATE, T, A, VECTOR,
                )  # fmt: skip
        if CARRIES:
            run_gained, lane_gained = _means(gained, row, LEVELS)
            run_left = _left(runs, run_known, run_lost, of_runs, run_gained, KIND)
            lane_left = _left(lanes, lane_known, lane_lost, of_lanes, lane_gained, KIND)
            tl.store(residual + of_run, run_left, run_leads & (of_run < here))
            tl.store(residual + of_lane, lane_left, lane_has & (of_lane < here))


@triton.jit
def _shift(mean, known, lost, KIND: tl.constexpr):
    """Return what to subtract from vectors: their mean, or for "keep" their mean's change.

    For "keep" a vector whose mean is equal to the known one stays unchanged to the bit.
    """
    if KIND == "keep":
        return tl.where(mean == known, 0.0, mean - known - lost)
    return mean + lost


@triton.jit
def _left(mean, known, lost, shift, gained, KIND: tl.constexpr):
    """Return the new residuals, the rounding errors of the means."""
    if KIND == "keep":
        return tl.where(mean == known, lost, -shift - gained)
    return lost - gained


@triton.jit
def _sums(row, scratch, block, parts):
    """Return a pointer to the sums of a block's parts, SIDE * LANES per part."""
    return scratch + tl.load(row + _SCRATCH) + block * parts * (SIDE * LANES)


@triton.jit
def _find(tensor_of_program, tensors, gradients, rules, corrections):
    """Return the tensor of this program, pointers to its tables, and the range of its tiles."""
    tensor = tl.load(tensor_of_program + tl.program_id(0)).to(tl.int64)
    row = tensors + tensor * _FIELDS
    local = tl.program_id(0) - tl.load(row + _FIRST_PROGRAM)
    parts = tl.load(row + _PARTS)
    each = tl.load(row + _TILES_EACH)
    block = local // parts
    part = local - block * parts
    last = tl.minimum((part + 1) * each, tl.load(row + _TILES))
    rule = rules + tl.load(row + _GROUP) * _NUMBERS
    gradient = tl.load(gradients + tensor)
    first = part * each
    return tensor, row, gradient, rule, corrections + tensor * 2, block, part, parts, first, last


@triton.jit
def step(
    tensor_of_program, tensors, gradients, into, rules, corrections, scratch, means,
    KIND: tl.constexpr, UPDATE: tl.constexpr, STEPS: tl.constexpr, CARRIES: tl.constexpr,
    T: tl.constexpr, A: tl.constexpr, LEVELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Step all tensors; or center ``gradients``, or record or restore the means in them.

    STEPS: Whether KIND is a step, instead of "center", "note" (record the means) or "keep" (restore
    them). CARRIES: Whether tensors may have residuals.
    """
    tensor, row, gradient, rule, correction, block, _part, parts, first, last = _find(
        tensor_of_program, tensors, gradients, rules, corrections
    )
    target = tl.load(into + tensor)
    if (tl.load(row + _ALIGNED) != 0) & ((gradient | target) % 16 == 0):
        _step(
            row, gradient, target, rule, correction, scratch, means, block, parts, first, last,
            KIND, UPDATE, STEPS, CARRIES, T, A, LEVELS, VECTOR,
        )  # fmt: skip
    else:
        _step(
            row, gradient, target, rule, correction, scratch, means, block, parts, first, last,
            KIND, UPDATE, STEPS, CARRIES, T, A, LEVELS, 1,
        )  # fmt: skip


@triton.jit
def sum_parts(
    tensor_of_program, tensors, gradients, rules, corrections, scratch,
    KIND: tl.constexpr, UPDATE: tl.constexpr,
    T: tl.constexpr, A: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Sum the parts of vectors that several programs share, before their step."""
    _tensor, row, gradient, rule, correction, block, part, parts, first, last = _find(
        tensor_of_program, tensors, gradients, rules, corrections
    )
    if (parts > 1) & (tl.load(row + _CENTERED) != 0):
        total = _sum_tiles(
            row, gradient, rule, correction, block, first, last, KIND, UPDATE, T, A, LEVELS, 1
        )
        lane = tl.arange(0, SIDE)[:, None] * LANES + tl.arange(0, LANES)[None, :]
        sums = _sums(row, scratch, block, parts) + part * (SIDE * LANES)
        tl.store(sums + lane, tl.sum(total, 0))


@triton.jit(do_not_specialize=["count"])
def count_step(
    tensors, rules, corrections, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count a step of Adam, and compute its bias corrections in float64.

    They are lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
    """
    tensor = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = tensor < count
    row = tensors + tensor.to(tl.int64) * _FIELDS
    wide = tl.load(row + _WIDE_STEP, here, 0) != 0
    address = tl.load(row + _STEP, here, 0)
    of_float32 = address.to(tl.pointer_type(tl.float32))
    of_float64 = address.to(tl.pointer_type(tl.float64))
    t = tl.load(of_float32, here & (wide == 0), 0.0).to(tl.float64)
    t = tl.where(wide, tl.load(of_float64, here & wide, 0.0), t) + 1.0
    tl.store(of_float32, t.to(tl.float32), here & (wide == 0))
    tl.store(of_float64, t, here & wide)
    rule = rules + tl.load(row + _GROUP, here, 0) * _NUMBERS
    lr = tl.load(rule + _LR, here, 0.0)
    rest1 = 1.0 - _power(tl.load(rule + _BETA1, here, 0.0), t.to(tl.int32))
    rest2 = 1.0 - _power(tl.load(rule + _BETA2, here, 0.0), t.to(tl.int32))
    tl.store(corrections + tensor * 2, lr / rest1, here)
    tl.store(corrections + tensor * 2 + 1, 1.0 / tl.sqrt(rest2), here)


@triton.jit
def _power(base, exponent):
    """Return base**exponent for exponents below 2**25; a float32 counter stops at 2**24."""
    power = base * 0.0 + 1.0
    for bit in range(25):
        power = tl.where((exponent >> bit) & 1 != 0, power * base, power)
        base = base * base
    return power
