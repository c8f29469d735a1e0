"""Prepare Triton's interpreter for tests: round as GPUs do, and waste less time.

It cuts bfloat16 off where compiled programs round to nearest, and patches the whole language
again at every call of a function inside a program.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def prepare_interpreter() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    convert, patch = interpreter._convert_float, interpreter._patch_lang
    patched: set[int] = set()

    def rounded(x: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(x, source, target, mode)
        bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
        to_nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), 0x7FC0, to_nearest_even).astype(np.uint16)

    def patch_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return None
        outermost = not patched
        patched.add(module)
        scope = patch(function)
        if outermost:
            restore = scope.restore

            def restored() -> None:
                patched.clear()
                restore()

            scope.restore = restored
        return scope

    interpreter._convert_float, interpreter._patch_lang = rounded, patch_once
