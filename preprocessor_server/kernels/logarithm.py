"""log(1 + x), and what is made of logarithms, with the same bits on every CPU.

docs/decisions says why they are not numpy's. After s_log1p.c, e_log.c and s_expm1.c of FreeBSD's
msun, in the form of musl's (Copyright (C) 1993 by Sun Microsystems, Inc.; permission to use, copy,
modify, and distribute this software is freely granted, provided that this notice is preserved).
Only + - * / and bit operations on binary64, in a fixed order: IEEE 754 leaves no freedom there, and
without fastmath LLVM fuses nothing.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out

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

_SQRT_HALF = 0.5**0.5

# What numbers below 2^-1000 are multiplied by, and its exponent: subnormal ones become normal.
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
_ZERO, _ONE, _INFINITY32 = np.float32(0.0), np.float32(1.0), np.float32(_INFINITY)
_NAN32 = np.uint32(0x7FC00000).view(np.float32)


@kernel(types.void(array(types.float64), out(types.float64)))
def _log1p(values: Floats, result: Floats) -> None:
    # Every case is computed and the right one selected, so that LLVM can vectorise the loop.
    for i in range(len(values)):
        x = values[i]
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
        y = y if x < _INFINITY else x
        y = np.float64(-_INFINITY) if x == -1.0 else y
        result[i] = np.float64(_NAN) if x < -1.0 else y


def log1p(values: npt.NDArray[Any]) -> Floats:
    """log(1 + x) of numbers [n]: float32 of float16 and float32, else float64 of the value.

    The error is below 1 ulp of binary64; of float32 it is about 3 ulp of binary64 before the one
    rounding to binary32. -1 gives -inf,
    below it NaN, +inf gives +inf; NaN, -0.0 and numbers below 2^-53 in size stay as they are.
    """
    inputs, result = _prepared(values)
    (_log1p_narrow if inputs.dtype == np.float32 else _log1p)(inputs, result)
    return result


@inner
def _parts(x: Any) -> Any:
    """The k and m of x = 2^k m, where sqrt(2)/2 <= m < sqrt(2); x is above 0 and not subnormal."""
    word = np.float64(x).view(np.uint64) + _ONE_TO_HALF_SQRT2
    k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - _INTEGER_BIAS
    return k, np.uint64((word & _MANTISSA) + _HALF_SQRT2).view(np.float64)


@inner
def _log_of_share(s: Any, k: Any) -> Any:
    """log(2^k (1 + s) / (1 - s)) as binary32, of a binary64 that is within about 3 ulp.

    With fewer operations than _log_of_parts; docs/decisions says how the rounding was compared.
    """
    z = s * s
    w = z * z
    even = w * (_P2 + w * (_P4 + w * _P6))
    odd = z * (_P1 + w * (_P3 + w * (_P5 + w * _P7)))
    return np.float32(k * _LN2_HIGH + (s * (2.0 + odd + even) + k * _LN2_LOW))


@kernel(types.void(array(types.float32), out(types.float32)))
def _log1p_narrow(values: Floats, result: Floats) -> None:
    for i in range(len(values)):
        value = values[i]
        x = np.float64(value)
        k, m = _parts(1.0 + x)
        # 1 + x is exact, but next to 1, where its m - 1 is x.
        f = x if abs(x) < 0.25 else m - 1.0
        y = _log_of_share(f / (2.0 + f), k)
        y = y if (value > -_ONE) & (value < _INFINITY32) & (value != _ZERO) else value
        y = -_INFINITY32 if value == -_ONE else y
        result[i] = _NAN32 if value < -_ONE else y


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
def _log(x: Any) -> Any:
    """log(x) of a number above 0, subnormal ones too; -inf of 0 and below; inf and NaN stay."""
    tiny = x < _LEAST
    word = np.float64(x * _LIFT if tiny else x).view(np.uint64) + _ONE_TO_HALF_SQRT2
    bias = _INTEGER_BIAS + _LIFT_EXPONENT if tiny else _INTEGER_BIAS
    k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - bias
    f = np.uint64((word & _MANTISSA) + _HALF_SQRT2).view(np.float64) - 1.0
    y = _log_of_parts(f, k, -0.0)
    y = y if x < _INFINITY else x
    return np.float64(-_INFINITY) if x <= 0.0 else y


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
        word = u.view(np.uint64) + _ONE_TO_HALF_SQRT2
        k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - _INTEGER_BIAS
        lost = 1.0 - (u - ratio) if k >= 2.0 else ratio - (u - 1.0)
        c = lost / u if k < 54.0 else 0.0
        f = np.uint64((word & _MANTISSA) + _HALF_SQRT2).view(np.float64) - 1.0
        reduced = ratio < _UPPER
        f = ratio if reduced else f
        k = np.float64(0.0) if reduced else k
        c = 0.0 if reduced else c
        y = _log_of_parts(f, k + _LIFT_EXPONENT if tiny else k, c)
        y = ratio if ratio < _TINY else y
        y = np.float64(_INFINITY) if m == 0.0 else y
        y = np.float64(_NAN) if m < 0.0 else y
        y = y if upper or m < 0.0 else -y
        y = x if x != x else y  # noqa: PLR0124
        result[i] = y


@kernel(types.void(array(types.float32), types.float64, out(types.float32)))
def _logit_narrow(values: Floats, least: float, result: Floats) -> None:
    for i in range(len(values)):
        value = values[i]
        x = np.float64(value)
        upper = x >= 0.5
        m = np.float64(max(1.0 - x if upper else x, least))
        # log((1 - m) / m) of (1 - m) / 2^k b, which 2^k brings between sqrt(2)/2 and sqrt(2).
        k, b = _parts(m)
        a = 1.0 - m
        far = a < _SQRT_HALF * b
        b = 0.5 * b if far else b
        y = _log_of_share((a - b) / (a + b), -1.0 - k if far else -k)
        y = _INFINITY32 if m == 0.0 else y
        y = y if upper else -y
        y = _NAN32 if m < 0.0 else y
        result[i] = value if value != value else y  # noqa: PLR0124


@kernel(types.void(array(types.float64), out(types.float64)))
def _natural_log(values: Floats, result: Floats) -> None:
    for i in range(len(values)):
        x = values[i]
        y = _log(x)
        result[i] = np.float64(_NAN) if x < 0.0 else y


@kernel(types.void(array(types.float32), out(types.float32)))
def _natural_log_narrow(values: Floats, result: Floats) -> None:
    for i in range(len(values)):
        value = values[i]
        k, m = _parts(np.float64(value))
        y = _log_of_share((m - 1.0) / (m + 1.0), k)
        y = y if value < _INFINITY32 else value
        y = -_INFINITY32 if value == _ZERO else y
        result[i] = _NAN32 if value < _ZERO else y


@kernel(
    types.void(array(types.float64), types.float64, out(types.float64)),
    types.void(array(types.float32), types.float64, out(types.float32)),
)
def _box_cox(values: Floats, lmbda: float, result: Floats) -> None:
    for i in range(len(values)):
        x = np.float64(values[i])
        # Not -0.0 of 1.
        y = _expm1(lmbda * _log(x)) / lmbda + 0.0
        y = np.float64(_NAN) if x < 0.0 else y
        result[i] = x if x != x else y  # noqa: PLR0124


def logit(values: npt.NDArray[Any], epsilon: float) -> Floats:
    """log(x / (1 - x)) of numbers [n] limited to [epsilon, 1 - epsilon]; dtypes as log1p.

    The error is below 2 ulp of binary64, before the one rounding to binary32. epsilon lies in
    [0, 0.5); with 0, 0 gives -inf, 1 gives +inf, and what is outside NaN. NaN stays.
    """
    inputs, result = _prepared(values)
    narrow = inputs.dtype == np.float32
    if narrow and 0 < epsilon < _LEAST:
        # A limit that may be subnormal.
        return logit(inputs.astype(np.float64), epsilon).astype(np.float32)
    (_logit_narrow if narrow else _logit)(inputs, epsilon or -_INFINITY, result)
    return result


def box_cox(values: npt.NDArray[Any], lmbda: float) -> Floats:
    """(x^lmbda - 1) / lmbda of numbers [n], log(x) where lmbda is 0; dtypes as log1p.

    The error is below (4 + 2 |lmbda log x|) ulp of binary64, below 1 ulp of the logarithm, before
    the one rounding to binary32. Below 0 NaN; 0 gives -1 / lmbda, or -inf where lmbda <= 0; +inf
    gives +inf, or -1 / lmbda where lmbda < 0. NaN stays.
    """
    inputs, result = _prepared(values)
    if abs(lmbda) < _LEAST_LMBDA:
        (_natural_log_narrow if inputs.dtype == np.float32 else _natural_log)(inputs, result)
    else:
        _box_cox(inputs, lmbda, result)
    return result


def _prepared(values: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """The numbers as binary32 or binary64, and room for as many of them."""
    narrow = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    inputs = np.ascontiguousarray(values.astype(np.float32 if narrow else np.float64, copy=False))
    return inputs, np.empty_like(inputs)
