"""Logarithms and powers of binary32; what logarithm.py says holds here too.

Logarithms are computed in binary32, after e_logf.c of the same source. Powers are computed in
binary64, since an error of the logarithm grows with the exponent, and rounded once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out

Floats: TypeAlias = npt.NDArray[Any]

_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_INFINITY, _NAN = np.float32("inf"), np.uint32(0x7FC00000).view(np.float32)

# ln 2 in two parts, and the polynomial of (log(1 + s) - log(1 - s) - 2 s) / s in s^2.
_LN2_HIGH = np.float32(6.9313812256e-01)
_LN2_LOW = np.float32(9.0580006145e-06)
_P1 = np.float32(float.fromhex("0xaaaaaa.0p-24"))
_P2 = np.float32(float.fromhex("0xccce13.0p-25"))
_P3 = np.float32(float.fromhex("0x91e9ee.0p-25"))
_P4 = np.float32(float.fromhex("0xf89e26.0p-26"))

_SQRT_HALF = np.float32(0.5**0.5)
_SQRT_HALF_WORD = np.uint32(0x3F3504F3)
_ONE_TO_SQRT_HALF = np.uint32(0x3F800000 - 0x3F3504F3)
_MANTISSA, _SIGN = np.uint32(0x007FFFFF), np.uint32(0x80000000)
_23 = np.uint32(23)
# The exponents of 2^k and of 2^(1 - k) add up to this; those of 2^128 and 0 do, too.
_255 = np.uint32(255)
# Words from that of the least normal number, or of the least number above 0, up to infinity.
_NORMAL, _NORMALS = np.uint32(0x00800000), np.uint32(0x7F000000)
_NEXT, _NEXTS = np.uint32(1), np.uint32(0x7F7FFFFF)
# What subnormal numbers are multiplied by, and its exponent: they become normal.
_LIFT, _LIFT_EXPONENT = np.float32(2.0**25), np.float32(25)

# Of powers, in binary64: the polynomial as above and (e^r - 1 - r) / r^2 for r within half a ln 2.
# Both are Chebyshev's and within 2^-35, relatively.
_A1, _A2 = 0.6666666655426973, 0.40000122025712326
_A3, _A4 = 0.2855079973020907, 0.23331040834029354
_E1, _E2, _E3 = 0.5, 0.166666667191548, 0.04166666671913807
_E4, _E5 = 0.008333298413941455, 0.0013888853979832356
_E6, _E7 = 0.00019899332056564083, 2.485963629410833e-05
_LN2, _INVERSE_LN2 = 6.93147180559945286227e-01, 1.44269504088896338700e00
# 1.5 * 2^52: adding it rounds.
_ROUNDER = 6755399441055744.0
# Beyond these exp is 0 to expm1, and infinite.
_LOWEST, _HIGHEST = -60.0, 710.0
_WIDE_SQRT_HALF = np.uint64(0x3FE6A09E00000000)
_WIDE_ONE_TO_SQRT_HALF = np.uint64(0x3FF0000000000000 - 0x3FE6A09E00000000)
_WIDE_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_52 = np.uint64(52)
# 2^52 as bits; adding an integer below 2^52 to them gives the double 2^52 + that integer.
_INTEGER, _INTEGER_BIAS = np.uint64(0x4330000000000000), 4503599627370496.0 + 1023.0


@inner
def _parts(x: Any) -> Any:
    """The k and m of x = 2^k m, sqrt(2)/2 <= m < sqrt(2), and 2^(1 - k) of x above 0, normal."""
    word = np.uint32(np.float32(x).view(np.uint32) + _ONE_TO_SQRT_HALF)
    exponent = np.uint32(word >> _23)
    k = np.float32(np.int32(exponent) - np.int32(127))
    m = np.uint32((word & _MANTISSA) + _SQRT_HALF_WORD).view(np.float32)
    return k, m, np.uint32(np.uint32(_255 - exponent) << _23).view(np.float32)


@inner
def _polynomial(z: Any) -> Any:
    w = z * z
    return z * (_P1 + w * _P3) + w * (_P2 + w * _P4)


@inner
def _log_of_parts(f: Any, k: Any) -> Any:
    """log(2^k (1 + f)), where sqrt(2)/2 - 1 < f < sqrt(2) - 1."""
    half_square = _HALF * f * f
    s = f / (_TWO + f)
    rest = s * (half_square + _polynomial(s * s))
    return rest + k * _LN2_LOW - half_square + f + k * _LN2_HIGH


@inner
def _log_of_others(x: Any) -> Any:
    """log(x) of what is not normal or not above 0."""
    k, m, _ = _parts(x * _LIFT)
    y = _log_of_parts(m - _ONE, k - _LIFT_EXPONENT)
    y = -_INFINITY if x == _ZERO else y
    y = _NAN if x < _ZERO else y
    return y if x < _INFINITY else x


@kernel(types.void(array(types.float32), out(types.float32)))
def log1p_narrow(values: Floats, result: Floats) -> None:
    """log(1 + x) within 1.5 ulp."""
    others = np.uint32(0)
    for i in range(len(values)):
        x = values[i]
        u = np.float32(_ONE + x)
        k, m, scale = _parts(u)
        # 1 + x lost this much in rounding; where k is 0, f is x.
        whole = u - _ONE
        lost = (x - whole) + (_ONE - (u - whole))
        y = np.float32(_log_of_parts((m - _ONE) + lost * scale * _HALF, k))
        # -0.0 stays.
        sign = np.float32(x).view(np.uint32) & _SIGN
        result[i] = np.uint32(y.view(np.uint32) | sign).view(np.float32)
        others = max(others, np.uint32(u.view(np.uint32) - _NEXT))
    if others >= _NEXTS:
        for i in range(len(values)):
            x = values[i]
            y = result[i] if x < _INFINITY else x
            y = -_INFINITY if x == -_ONE else y
            result[i] = _NAN if x < -_ONE else y


@kernel(types.void(array(types.float32), out(types.float32)))
def natural_log_narrow(values: Floats, result: Floats) -> None:
    """log(x) within 1 ulp."""
    others = np.uint32(0)
    for i in range(len(values)):
        x = np.float32(values[i])
        k, m, _ = _parts(x)
        result[i] = _log_of_parts(m - _ONE, k)
        others = max(others, np.uint32(x.view(np.uint32) - _NORMAL))
    if others >= _NORMALS:
        for i in range(len(values)):
            x = np.float32(values[i])
            if np.uint32(x.view(np.uint32) - _NORMAL) >= _NORMALS:
                result[i] = _log_of_others(x)


@kernel(types.void(array(types.float32), types.float32, types.float32, out(types.float32)))
def logit_narrow(values: Floats, least: float, limited: float, result: Floats) -> None:
    """log(x / (1 - x)) within 2 ulp; limited or -limited of what is not `least` from 0 and 1."""
    others = np.uint32(0)
    for i in range(len(values)):
        x = values[i]
        # The distance from the nearer of 0 and 1, which is exact.
        end = _ONE - x if x >= _HALF else x
        m = np.float32(least if end < least else end)  # noqa: FURB136
        a = np.float32(_ONE - m)
        lost = (_ONE - a) - m
        # log(a / m) of a / 2^k b, which 2^k brings between sqrt(2)/2 and sqrt(2).
        k, b, _ = _parts(m)
        far = a < _SQRT_HALF * b
        b = np.float32(_HALF * b if far else b)
        k = np.float32(-_ONE - k if far else -k)
        s = ((a - b) + lost) / (a + b)
        y = (s * _polynomial(s * s) + k * _LN2_LOW) + (s + s) + k * _LN2_HIGH
        y = limited if end < least else y
        result[i] = y if x >= _HALF else -y
        others = max(others, np.uint32(m.view(np.uint32) - _NORMAL))
    if others >= _NORMALS:
        for i in range(len(values)):
            x = values[i]
            m = np.float32(_ONE - x if x >= _HALF else x)
            if not m < least and np.uint32(m.view(np.uint32) - _NORMAL) >= _NORMALS:
                # 1 - m is 1, or NaN is the result.
                y = np.float32(_log_of_others(m))
                result[i] = -y if x >= _HALF and m >= _ZERO else y


@kernel(types.void(array(types.float32), types.float64, out(types.float32)))
def box_cox_narrow(values: Floats, lmbda: float, result: Floats) -> None:
    """(x^lmbda - 1) / lmbda, lmbda not 0: rounded once, as box_cox says."""
    inverse = 1.0 / lmbda
    others = np.uint32(0)
    for i in range(len(values)):
        value = np.float32(values[i])
        word = np.float64(value).view(np.uint64) + _WIDE_ONE_TO_SQRT_HALF
        k = np.uint64((word >> _52) | _INTEGER).view(np.float64) - _INTEGER_BIAS
        m = np.uint64((word & _WIDE_MANTISSA) + _WIDE_SQRT_HALF).view(np.float64)
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        rest = z * ((_A1 + z * _A2) + z * z * (_A3 + z * _A4))
        x = lmbda * (k * _LN2 + s * (2.0 + rest))
        x = np.float64(_LOWEST) if x < _LOWEST else x
        x = np.float64(_HIGHEST) if x > _HIGHEST else x
        rounded = np.float64(x * _INVERSE_LN2 + _ROUNDER)
        r = x - (rounded - _ROUNDER) * _LN2
        square = r * r
        low, high = _E1 + r * _E2 + square * (_E3 + r * _E4), _E5 + r * _E6 + square * _E7
        reduced = r + square * (low + square * square * high)
        # 2^(k - 1), since 2^1024 is none: its exponent is 1022 + k, and _ROUNDER ends in zeros.
        scale = np.uint64((rounded.view(np.uint64) + np.uint64(1022)) << _52).view(np.float64)
        # Not -0.0 of 1.
        result[i] = (scale * reduced + (scale - 0.5)) * 2.0 * inverse + 0.0
        others = max(others, np.uint32(value.view(np.uint32) - _NEXT))
    if others >= _NEXTS:
        for i in range(len(values)):
            value = values[i]
            if value == _ZERO:
                result[i] = -inverse if lmbda > 0.0 else -np.inf
            elif value == _INFINITY:
                result[i] = np.inf if lmbda > 0.0 else -inverse
            elif not value > _ZERO:
                result[i] = _log_of_others(value)
