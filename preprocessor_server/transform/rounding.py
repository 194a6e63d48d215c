"""Numbers to the floating-point types that a trainer can ask for, rounded once, ties to even.

Numbers of 16 bits are kept as the float32 that equals them: numpy has no bfloat16, and what
gathers columns moves words of 32 and 64 bits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Mask
from preprocessor_server.transform.cast import cast_numbers

Numbers: TypeAlias = npt.NDArray[Any]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# Integers up to here are exact in binary64.
_EXACT_BITS = 53


def number_dtype(dtype: dataset_pb2.ScalarType) -> np.dtype[np.generic]:
    """What numbers of a block are kept in: float64 for FLOAT64, else float32."""
    return _FLOAT64 if dtype == dataset_pb2.SCALAR_TYPE_FLOAT64 else _FLOAT32


def round_numbers(values: Numbers, dtype: dataset_pb2.ScalarType) -> tuple[Numbers, Mask | None]:
    """Numbers or booleans [n] rounded to a dtype, and which finite ones are beyond its range.

    They are of number_dtype. To FLOAT32 what is beyond its range is an infinity, and none
    of those. NaN of 16 bits is 0x7E00 or 0x7FC0, whatever it was.
    """
    if dtype in {dataset_pb2.SCALAR_TYPE_FLOAT32, dataset_pb2.SCALAR_TYPE_FLOAT64}:
        return cast_numbers(values, number_dtype(dtype))[0], None
    with np.errstate(all="ignore"):
        exact = values if values.dtype.kind == "f" else _doubles(values)
        if dtype == dataset_pb2.SCALAR_TYPE_FLOAT16:
            rounded = exact.astype(np.float16).astype(np.float32)
        else:
            rounded = _to_bfloat16(exact)
    rounded[np.isnan(rounded)] = np.nan
    beyond: Mask = np.isinf(rounded)
    if not beyond.any():
        return rounded, None
    return rounded, beyond & np.isfinite(exact)


def _doubles(values: Numbers) -> npt.NDArray[np.float64]:
    """Integers or booleans as binary64 that round to fewer bits as the integers would.

    Where an integer has more bits than binary64, those that it lacks are told by a last one.
    """
    if values.dtype.itemsize < 8:
        return values.astype(np.float64)
    step = values.dtype.type(1 << 12)
    rest = values % step
    large = np.abs(values.astype(np.float64)) >= 2.0**_EXACT_BITS
    told = values - rest + np.where(rest == 0, 0, step >> 1).astype(values.dtype)
    return np.where(large, told, values).astype(np.float64)


def _to_bfloat16(exact: Numbers) -> npt.NDArray[np.float32]:
    words = (exact.astype(np.float32) if exact.dtype.itemsize < 8 else _to_odd(exact)).view(
        np.uint32
    )
    is_nan = (words & np.uint32(0x7FFF_FFFF)) > np.uint32(0x7F80_0000)
    halves = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF_0000
    )
    return np.where(is_nan, np.uint32(0x7FC0_0000), halves).view(np.float32)


def _to_odd(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The float32 next to each number towards 0, made odd where it is another number.

    What is rounded from it to fewer bits is rounded as if from the number: Boldo and Melquiond,
    "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
    """
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    words = near.view(np.uint32) - (np.abs(back) > np.abs(values)).astype(np.uint32)
    inexact = (back != values) & ~np.isnan(values)
    odd: npt.NDArray[np.float32] = (words | inexact.astype(np.uint32)).view(np.float32)
    return odd
