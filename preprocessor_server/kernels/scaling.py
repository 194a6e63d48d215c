"""Numbers filled, limited, moved and scaled, and counted against boundaries, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out

Numbers = npt.NDArray[Any]

# From here on 1 / scale may be subnormal, or infinite.
_LEAST_SCALE = 2.0**-1000


@kernel(
    types.void(array(types.float64), types.float64, types.float64, out(types.float64)),
    types.void(array(types.int64), types.float64, types.float64, out(types.float64)),
    types.void(array(types.int32), types.float64, types.float64, out(types.float64)),
)
def _shift_and_scale(values: Numbers, shift: float, scale: float, result: Numbers) -> None:
    for i in range(len(values)):
        x = np.float64(values[i])
        y = (x - shift) / scale
        # CPUs make different NaNs; the one that is there stays.
        result[i] = x if x != x else y  # noqa: PLR0124


@kernel(types.void(array(types.float32), types.float64, types.float64, out(types.float32)))
def _shift_and_scale_narrow(values: Numbers, shift: float, inverse: float, result: Numbers) -> None:
    # A division of float64 takes longer than all the rest.
    for i in range(len(values)):
        value = values[i]
        y = np.float32((np.float64(value) - shift) * inverse)
        result[i] = value if value != value else y  # noqa: PLR0124


@kernel(
    types.void(array(types.float64), types.float64, types.float64, out(types.float64)),
    types.void(array(types.float32), types.float32, types.float32, out(types.float32)),
)
def _limit(values: Numbers, lower: float, upper: float, result: Numbers) -> None:
    for i in range(len(values)):
        x = values[i]
        # Comparisons with NaN are false, so NaN stays; so does -0.0 at a bound of 0.
        x = lower if x < lower else x  # noqa: FURB136
        result[i] = upper if x > upper else x  # noqa: FURB136


@kernel(
    types.void(array(types.float64), array(types.float64), out(types.int64)),
    types.void(array(types.float32), array(types.float32), out(types.int64)),
    types.void(array(types.int64), array(types.int64), out(types.int64)),
    types.void(array(types.uint64), array(types.uint64), out(types.int64)),
)
def _count_reached(values: Numbers, boundaries: Numbers, result: npt.NDArray[np.int64]) -> None:
    for i in range(len(values)):
        x = values[i]
        first, size = np.int64(0), len(boundaries)
        # Halves without a branch: values come in no order that could be predicted.
        while size > 1:
            half = size >> 1
            # Not <=, so that NaN is above every boundary.
            first += half * np.int64(not boundaries[first + half - 1] > x)
            size -= half
        result[i] = first + np.int64(not boundaries[first] > x)


@kernel(
    *(
        types.void(array(word), array(types.boolean), word, out(word))
        for word in (types.uint8, types.uint16, types.uint32, types.uint64)
    )
)
def _fill(words: Numbers, valid: npt.NDArray[np.bool_], word: Any, result: Numbers) -> None:
    for i in range(len(words)):
        result[i] = words[i] if valid[i] else word


def fill(values: Numbers, valid: npt.NDArray[np.bool_], value: Any) -> Numbers:
    """Numbers or booleans [n], with value where valid [n] is false; the dtype stays."""
    if len(valid) != len(values):
        raise IndexError(f"{len(valid)} of {len(values)} values")
    word = np.dtype(f"u{values.dtype.itemsize}")
    result = np.empty(len(values), values.dtype)
    instead = np.array(value, values.dtype).view(word)[()]
    words = np.ascontiguousarray(values).view(word)
    _fill(words, np.ascontiguousarray(valid), instead, result.view(word))
    return result


def shift_and_scale(values: Numbers, shift: float, scale: float) -> Numbers:
    """(x - shift) / scale of numbers [n] in float64: float32 of float16 and float32, else float64.

    float32 is rounded once, of what is within 2 ulp of float64. scale is above 0. NaN stays; ±inf
    stay; what is beyond the range of the result is ±inf.
    """
    if values.dtype.kind == "f" and values.dtype.itemsize <= 4:
        if not _LEAST_SCALE < scale < 1 / _LEAST_SCALE:
            with np.errstate(over="ignore", invalid="ignore"):
                return shift_and_scale(values.astype(np.float64), shift, scale).astype(np.float32)
        inputs = np.ascontiguousarray(values.astype(np.float32, copy=False))
        result = np.empty_like(inputs)
        _shift_and_scale_narrow(inputs, shift, 1 / scale, result)
        return result
    if values.dtype not in {np.dtype(np.int32), np.dtype(np.int64)}:
        values = values.astype(np.float64, copy=False)
    result = np.empty(len(values), np.float64)
    _shift_and_scale(np.ascontiguousarray(values), shift, scale, result)
    return result


def limit(values: Numbers, lower: Any, upper: Any) -> Numbers:
    """Numbers [n] of any dtype limited to [lower, upper], of the same dtype; None for no bound.

    NaN stays, and so does -0.0 at a bound of 0.
    """
    if values.dtype.kind != "f":
        limits = np.iinfo(values.dtype)
        low, high = limits.min if lower is None else lower, limits.max if upper is None else upper
        return np.clip(values, low, high)
    dtype = np.promote_types(values.dtype, np.float32)
    inputs = np.ascontiguousarray(values.astype(dtype, copy=False))
    result = np.empty_like(inputs)
    low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper
    _limit(inputs, dtype.type(low), dtype.type(high), result)
    return result.astype(values.dtype, copy=False)


def count_reached(values: Numbers, boundaries: Numbers) -> npt.NDArray[np.int64]:
    """How many of the ascending boundaries [b] each number [n] reaches, int64; NaN reaches all.

    Both are of one dtype: float32, float64, int64 or uint64. -0.0 is 0.
    """
    result = np.zeros(len(values), np.int64)
    if len(boundaries):
        _count_reached(np.ascontiguousarray(values), np.ascontiguousarray(boundaries), result)
    return result
