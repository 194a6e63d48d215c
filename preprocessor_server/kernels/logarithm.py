"""log(1 + x) with the same bits on every CPU. docs/decisions says why it is not numpy's.

After s_log1p.c of FreeBSD's msun, in the form of musl's log1p.c (Copyright (C) 1993 by Sun
Microsystems, Inc.; permission to use, copy, modify, and distribute this software is freely
granted, provided that this notice is preserved). Only + - * / and bit operations on binary64, in a
fixed order: IEEE 754 leaves no freedom there, and without fastmath LLVM fuses nothing.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out

Floats: TypeAlias = npt.NDArray[Any]

# ln 2 in two parts, and the polynomial of (log(1 + s) - log(1 - s) - 2 s) / s in s^2.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_P1 = 6.666666666666735130e-01
_P2 = 3.999999999940941908e-01
_P3 = 2.857142874366239149e-01
_P4 = 2.222219843214978396e-01
_P5 = 1.818357216161805012e-01
_P6 = 1.531383769920937332e-01
_P7 = 1.479819860511658591e-01

# Below sqrt(2) - 1 and above sqrt(2)/2 - 1 the exponent is 0 and x itself is reduced already; the
# same words as in the source, so that the same branch is taken.
_UPPER = float(np.uint64(0x3FDA827A00000000).view(np.float64))
_LOWER = float(np.uint64(0xBFD2BEC500000000).view(np.float64))
_TINY = 2.0**-53
_HALF_SQRT2 = np.uint64(0x3FE6A09E00000000)
_ONE_TO_HALF_SQRT2 = np.uint64(0x3FF0000000000000 - 0x3FE6A09E00000000)
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_52 = np.uint64(52)
# 2^52 as bits; adding an integer below 2^52 to them gives the double 2^52 + that integer.
_INTEGER = np.uint64(0x4330000000000000)
_INTEGER_BIAS = 4503599627370496.0 + 1023.0

_NAN = float(np.uint64(0x7FF8000000000000).view(np.float64))
_INFINITY = float("inf")


@kernel(
    types.void(array(types.float64), out(types.float64)),
    types.void(array(types.float32), out(types.float32)),
)
def _log1p(values: Floats, result: Floats) -> None:
    # Every case is computed and the right one selected, so that LLVM can vectorise the loop.
    for i in range(len(values)):
        x = np.float64(values[i])
        u = np.float64(1.0 + x)
        word = u.view(np.uint64) + _ONE_TO_HALF_SQRT2
        k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - _INTEGER_BIAS
        # 1 + x lost this much in rounding; log(u) misses about c.
        lost = 1.0 - (u - x) if k >= 2.0 else x - (u - 1.0)
        c = lost / u if k < 54.0 else 0.0
        f = np.uint64((word & _MANTISSA) + _HALF_SQRT2).view(np.float64) - 1.0
        reduced = _LOWER < x < _UPPER
        f = x if reduced else f
        k = np.float64(0.0) if reduced else k
        c = 0.0 if reduced else c
        half_square = 0.5 * f * f
        s = f / (2.0 + f)
        z = s * s
        w = z * z
        even = w * (_P2 + w * (_P4 + w * _P6))
        odd = z * (_P1 + w * (_P3 + w * (_P5 + w * _P7)))
        y = s * (half_square + (odd + even)) + (k * _LN2_LOW + c) - half_square + f + k * _LN2_HIGH
        y = x if abs(x) < _TINY else y
        y = np.float64(-_INFINITY) if x == -1.0 else y
        y = np.float64(_NAN) if x < -1.0 else y
        y = x if x == _INFINITY else y
        y = x if x != x else y  # noqa: PLR0124
        result[i] = y


def log1p(values: npt.NDArray[Any]) -> Floats:
    """log(1 + x) of numbers [n]: float32 of float16 and float32, else float64 of the value.

    The error is below 1 ulp of binary64, before the one rounding to binary32. -1 gives -inf,
    below it NaN, +inf gives +inf; NaN, -0.0 and numbers below 2^-53 in size stay as they are.
    """
    narrow = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    dtype = np.float32 if narrow else np.float64
    inputs = np.ascontiguousarray(values.astype(dtype, copy=False))
    result = np.empty(len(inputs), dtype)
    _log1p(inputs, result)
    return result
