"""Logarithms and powers of numbers, with the same bits on every CPU.

docs/decisions says why they are not numpy's. After s_log1p.c, e_log.c and s_expm1.c of FreeBSD's
msun, in the form of musl's (Copyright (C) 1993 by Sun Microsystems, Inc.; permission to use, copy,
modify, and distribute this software is freely granted, provided that this notice is preserved).
Only + - * / and bit operations, in a fixed order: IEEE 754 leaves no freedom there, and without
fastmath LLVM fuses nothing. logarithm32.py has the kernels of binary32.

Every case of the usual numbers is computed and the right one selected, so that LLVM can vectorise
the loop. Most kernels see to what is infinite, NaN, subnormal or out of the function's range in a
second loop, which is entered only if there is such a number.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels.logarithm32 import (
    box_cox_narrow,
    log1p_narrow,
    logit_narrow,
    natural_log_narrow,
)

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
_SIGN = np.uint64(0x8000000000000000)
_52 = np.uint64(52)
# 2^52 as bits; adding an integer below 2^52 to them gives the double 2^52 + that integer.
_INTEGER = np.uint64(0x4330000000000000)
_INTEGER_BIAS = 4503599627370496.0 + 1023.0
# Words from that of the least normal number, or of the least number above 0, up to infinity.
_NORMAL, _NORMALS = np.uint64(0x0010000000000000), np.uint64(0x7FE0000000000000)
_NEXT, _NEXTS = np.uint64(1), np.uint64(0x7FEFFFFFFFFFFFFF)

# Numbers below 2^-1000 are multiplied, so that subnormal ones become normal.
_LEAST = 2.0**-1000
_LIFT = 2.0**128
_LIFT_EXPONENT = 128.0

# expm1: 1 / ln 2, the polynomial of its rational form, and 1.5 * 2^52: adding it rounds.
_INVERSE_LN2 = 1.44269504088896338700e00
_Q1 = -3.33333333333331316428e-02
_Q2 = 1.58730158725481460165e-03
_Q3 = -7.93650757867487942473e-05
_Q4 = 4.00821782732936239552e-06
_Q5 = -2.01099218183624371326e-07
_ROUNDER = 6755399441055744.0
# Beyond these exp is 0 to expm1, and infinite.
_LOWEST, _HIGHEST = -60.0, 710.0

# Of a smaller exponent the power differs from the logarithm by less than half an ulp.
_LEAST_LMBDA = 2.0**-70

_NAN = float(np.uint64(0x7FF8000000000000).view(np.float64))
_INFINITY = float("inf")


@inner
def _log_of_parts(f: Any, k: Any, c: Any) -> Any:
    """log(2^k (1 + f)) + c, where sqrt(2)/2 - 1 < f < sqrt(2) - 1."""
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (_P2 + w * (_P4 + w * _P6))
    odd = z * (_P1 + w * (_P3 + w * (_P5 + w * _P7)))
    return s * (half_square + (odd + even)) + (k * _LN2_LOW + c) - half_square + f + k * _LN2_HIGH


@inner
def _parts(x: Any) -> Any:
    """The k and m of x = 2^k m, where sqrt(2)/2 <= m < sqrt(2); x is above 0 and not subnormal."""
    word = np.float64(x).view(np.uint64) + _ONE_TO_HALF_SQRT2
    k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - _INTEGER_BIAS
    return k, np.uint64((word & _MANTISSA) + _HALF_SQRT2).view(np.float64)


@inner
def _log(x: Any) -> Any:
    """log(x) of any number: subnormal ones too, -inf of 0, NaN below it; inf and NaN stay."""
    tiny = x < _LEAST
    k, m = _parts(x * _LIFT if tiny else x)
    y = _log_of_parts(m - 1.0, k - _LIFT_EXPONENT if tiny else k, -0.0)
    y = y if x < _INFINITY else x
    y = np.float64(-_INFINITY) if x == 0.0 else y
    return np.float64(_NAN) if x < 0.0 else y


@kernel(types.void(array(types.float64), out(types.float64)))
def _log1p(values: Floats, result: Floats) -> None:
    others = np.uint64(0)
    for i in range(len(values)):
        x = values[i]
        u = np.float64(1.0 + x)
        k, m = _parts(u)
        # 1 + x lost this much in rounding; log(u) misses about c.
        whole = u - 1.0
        lost = (x - whole) + (1.0 - (u - whole))
        c = lost / u if k < 54.0 else 0.0
        reduced = _LOWER < x < _UPPER
        f = x if reduced else m - 1.0
        k = np.float64(0.0) if reduced else k
        c = 0.0 if reduced else c
        y = np.float64(_log_of_parts(f, k, c))
        # Of what is less than 2^-53 in size, y is x, but for the sign of 0.
        sign = np.float64(x).view(np.uint64) & _SIGN
        result[i] = np.uint64(y.view(np.uint64) | sign).view(np.float64)
        others = max(others, np.uint64(u.view(np.uint64) - _NEXT))
    if others >= _NEXTS:
        for i in range(len(values)):
            x = values[i]
            y = result[i] if x < _INFINITY else x
            y = np.float64(-_INFINITY) if x == -1.0 else y
            result[i] = np.float64(_NAN) if x < -1.0 else y


@kernel(types.void(array(types.float64), out(types.float64)))
def _natural_log(values: Floats, result: Floats) -> None:
    others = np.uint64(0)
    for i in range(len(values)):
        x = np.float64(values[i])
        k, m = _parts(x)
        result[i] = _log_of_parts(m - 1.0, k, -0.0)
        others = max(others, np.uint64(x.view(np.uint64) - _NORMAL))
    if others >= _NORMALS:
        for i in range(len(values)):
            x = np.float64(values[i])
            if np.uint64(x.view(np.uint64) - _NORMAL) >= _NORMALS:
                result[i] = _log(x)


@kernel(types.void(array(types.float64), types.float64, out(types.float64)))
def _logit(values: Floats, least: float, result: Floats) -> None:
    for i in range(len(values)):
        x = values[i]
        upper = x >= 0.5
        # The distance from the nearer end, exact; log((1 - m) / m) is log(1 + (1 - 2 m) / m).
        m = 1.0 - x if upper else x
        m = np.float64(max(m, least))
        tiny = m < _LEAST
        ratio = np.float64((1.0 - (m + m)) / (m * _LIFT if tiny else m))
        u = np.float64(ratio if tiny else 1.0 + ratio)
        k, b = _parts(u)
        lost = 1.0 - (u - ratio) if k >= 2.0 else ratio - (u - 1.0)
        c = lost / u if k < 54.0 else 0.0
        reduced = ratio < _UPPER
        f = ratio if reduced else b - 1.0
        k = np.float64(0.0) if reduced else k
        c = 0.0 if reduced else c
        y = _log_of_parts(f, k + _LIFT_EXPONENT if tiny else k, c)
        y = ratio if ratio < _TINY else y
        y = np.float64(_INFINITY) if m == 0.0 else y
        y = np.float64(_NAN) if m < 0.0 else y
        y = y if upper or m < 0.0 else -y
        y = x if x != x else y  # noqa: PLR0124
        result[i] = y


@inner
def _expm1(x: Any) -> Any:
    """exp(x) - 1 of any number but NaN, within 2 ulp."""
    x = np.float64(_LOWEST) if x < _LOWEST else x
    x = np.float64(_HIGHEST) if x > _HIGHEST else x
    rounded = np.float64(x * _INVERSE_LN2 + _ROUNDER)
    k = rounded - _ROUNDER
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    lost = (high - r) - low
    half = 0.5 * r
    square = r * half
    ratio = 1.0 + square * (_Q1 + square * (_Q2 + square * (_Q3 + square * (_Q4 + square * _Q5))))
    t = 3.0 - ratio * half
    e = square * ((ratio - t) / (6.0 - r * t))
    reduced = r - ((r * (e - lost) - lost) - square)
    # 2^(k - 1), since 2^1024 is none: its exponent is 1022 + k, and _ROUNDER ends in zeros.
    scale = np.uint64((rounded.view(np.uint64) + np.uint64(1022)) << _52).view(np.float64)
    return (scale * reduced + (scale - 0.5)) * 2.0


@kernel(types.void(array(types.float64), types.float64, out(types.float64)))
def _box_cox(values: Floats, lmbda: float, result: Floats) -> None:
    for i in range(len(values)):
        x = np.float64(values[i])
        # Not -0.0 of 1.
        y = _expm1(lmbda * _log(x)) / lmbda + 0.0
        result[i] = y if x >= 0.0 else _log(x)


def log1p(values: npt.NDArray[Any]) -> Floats:
    """log(1 + x) of numbers [n]: float32 of float16 and float32, else float64 of the value.

    The error is below 1 ulp of float64, and below 1.5 ulp of float32. -1 gives -inf, below it NaN,
    +inf gives +inf; NaN, -0.0 and numbers that are far below 1 ulp of 1 stay as they are.
    """
    inputs, result = _prepared(values)
    (log1p_narrow if inputs.dtype == np.float32 else _log1p)(inputs, result)
    return result


def logit(values: npt.NDArray[Any], epsilon: float) -> Floats:
    """log(x / (1 - x)) of numbers [n] limited to [epsilon, 1 - epsilon]; dtypes as log1p.

    The error is below 2 ulp. epsilon lies in [0, 0.5); with 0, 0 gives -inf, 1 gives +inf, and what
    is outside NaN. NaN stays.
    """
    inputs, result = _prepared(values)
    if inputs.dtype == np.float32:
        least, limited = -_INFINITY, 0.0
        if epsilon:
            # The least float32 that is not limited, and what those that are become.
            least = float(np.float32(epsilon))
            if least < epsilon:
                least = float(np.nextafter(np.float32(least), np.float32(1)))
            limited = -float(logit(np.zeros(1), epsilon)[0])
        logit_narrow(inputs, least, limited, result)
    else:
        _logit(inputs, epsilon or -_INFINITY, result)
    return result


def box_cox(values: npt.NDArray[Any], lmbda: float) -> Floats:
    """(x^lmbda - 1) / lmbda of numbers [n], log(x) where lmbda is 0; dtypes as log1p.

    The error is below (4 + 2 |lmbda log x|) ulp of float64; float32 is rounded once, of what is
    within (1 + |lmbda log x|) 2^-34 of it. Of the logarithm it is below 1 ulp. Below 0 NaN; 0 gives
    -1 / lmbda, or -inf where lmbda <= 0; +inf gives +inf, or -1 / lmbda where lmbda < 0. NaN stays.
    """
    inputs, result = _prepared(values)
    narrow = inputs.dtype == np.float32
    if abs(lmbda) < _LEAST_LMBDA:
        (natural_log_narrow if narrow else _natural_log)(inputs, result)
    else:
        (box_cox_narrow if narrow else _box_cox)(inputs, lmbda, result)
    return result


def _prepared(values: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """The numbers as binary32 or binary64, and room for as many of them."""
    narrow = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    inputs = np.ascontiguousarray(values.astype(np.float32 if narrow else np.float64, copy=False))
    return inputs, np.empty_like(inputs)
