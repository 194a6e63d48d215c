"""log1p against exact logarithms, a plain Python twin, and golden bit patterns."""

from __future__ import annotations

import decimal
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import log1p

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "log1p.json").read_text())


def bits(x: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", x))[0])


def from_bits(word: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", word))[0])


def twin(x: float) -> float:
    """The branches of the published C code, in the order in which it takes them."""
    if math.isnan(x) or x == math.inf or abs(x) < 2**-53:
        return x
    if x < -1:
        return math.nan
    if x == -1:
        return -math.inf
    k, c, f = 0, 0.0, x
    if not from_bits(0xBFD2BEC500000000) < x < from_bits(0x3FDA827A00000000):
        u = 1.0 + x
        high = (bits(u) >> 32) + 0x3FF00000 - 0x3FE6A09E
        k = (high >> 20) - 0x3FF
        if k < 54:
            c = (1.0 - (u - x) if k >= 2 else x - (u - 1.0)) / u
        f = from_bits(((high & 0xFFFFF) + 0x3FE6A09E) << 32 | bits(u) & 0xFFFFFFFF) - 1.0
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (
        3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01)
    )
    odd = z * (
        6.666666666666735130e-01
        + w
        * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01))
    )
    low, high_part = k * 1.90821492927058770002e-10, k * 6.93147180369123816490e-01
    return s * (half_square + (odd + even)) + (low + c) - half_square + f + high_part


@given(st.lists(st.floats() | st.floats(-1, 4), max_size=20))
@example([-1.0, -0.0, 0.0, 5e-324, -5e-324, 2**-53, -(2**-53), math.inf, -math.inf, math.nan])
@example([from_bits(0x3FDA827A00000000), from_bits(0xBFD2BEC500000000), 1.7976931348623157e308])
@example([2.0**k - 1 for k in range(52, 56)])
def test_log1p_is_its_twin(values: list[float]) -> None:
    result = log1p(np.array(values, np.float64))
    assert result.dtype == np.float64
    expected = np.array([twin(value) for value in values], np.float64)
    assert result.tobytes() == expected.tobytes()


@given(st.floats(-1, allow_infinity=False, exclude_min=True))
@example(1e-300)
@example(-1 + 2**-53)
@example(0.4142)
def test_log1p_is_within_one_ulp(x: float) -> None:
    with decimal.localcontext(prec=400):
        exact = (1 + decimal.Decimal(x)).ln() if abs(x) > 1e-30 else decimal.Decimal(x)
        error = abs(decimal.Decimal(float(log1p(np.array([x]))[0])) - exact)
        assert error <= decimal.Decimal(math.ulp(float(exact)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f8"), ("u8", "f8"), ("i8", "f8")],
)
def test_result_dtypes(code: str, expected: str) -> None:
    result = log1p(np.array([0, 1, 100], code))
    assert result.dtype == np.dtype(expected)
    assert result.tolist() == log1p(np.array([0, 1, 100], expected)).tolist()


def test_golden_bit_patterns() -> None:
    for before, after in GOLDEN["float64"]:
        assert f"{bits(float(log1p(np.array([from_bits(int(before, 16))]))[0])):016x}" == after
    for before, after in GOLDEN["float32"]:
        word = np.array([int(before, 16)], np.uint32)
        assert f"{int(log1p(word.view(np.float32)).view(np.uint32)[0]):08x}" == after


def test_vectors_and_rests_of_vectors_agree() -> None:
    values = np.random.default_rng(5).lognormal(size=1003)
    one_by_one = [float(log1p(values[i : i + 1])[0]) for i in range(len(values))]
    assert log1p(values).tolist() == one_by_one
