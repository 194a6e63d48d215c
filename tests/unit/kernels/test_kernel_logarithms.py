"""logit and box_cox against exact values, a plain Python twin, and golden bit patterns."""

from __future__ import annotations

import decimal
import json
import math
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import assume, example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import box_cox, log1p, logit

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "logarithms.json").read_text())
# XXH64 of the results of one float32 in 2,003.
GOLDEN_NARROW = json.loads((FOLDER / "logarithms32.json").read_text())
FUNCTIONS: dict[str, Callable[..., Any]] = {"logit": logit, "box_cox": box_cox}
LMBDAS = st.sampled_from([0.5, 1.0, 2.0, -0.5, -1.0, 0.1, 1e-9, 3.25]) | st.floats(-5, 5)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False) | st.floats(0.01, 100)
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


def bits(x: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", x))[0])


def of_parts(f: float, k: float, c: float) -> float:
    """log(2^k (1 + f)) + c, by the polynomial of the published C code."""
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
    return s * (half_square + (odd + even)) + (k * LN2_LOW + c) - half_square + f + k * LN2_HIGH


def split(x: float) -> tuple[float, int]:
    """f and k of a number 2^k (1 + f), 1 + f between the square roots of 1/2 and of 2."""
    mantissa, k = math.frexp(x)
    # As the high words have it, which the C code compares.
    if bits(mantissa) >> 32 < 0x3FE6A09E:
        mantissa, k = mantissa * 2, k - 1
    return mantissa - 1.0, k


def log_twin(x: float) -> float:
    f, k = split(x)
    return of_parts(f, float(k), 0.0)


def logit_twin(x: float, epsilon: float) -> float:
    if math.isnan(x):
        return x
    near = max(1.0 - x if x >= 0.5 else x, epsilon or -math.inf)
    if near < 0:
        return math.nan
    if near == 0:
        return math.inf if x >= 0.5 else -math.inf
    tiny = near < 2.0**-1000
    u = (1.0 - 2 * near) / (near * 2.0**128 if tiny else near)
    if tiny:
        f, k = split(u)
        y = of_parts(f, k + 128.0, 0.0)
    elif u < 2.0**-53:
        y = u
    elif u < struct.unpack("<d", struct.pack("<Q", 0x3FDA827A00000000))[0]:
        y = of_parts(u, 0.0, 0.0)
    else:
        whole = 1.0 + u
        f, k = split(whole)
        c = (1.0 - (whole - u) if k >= 2 else u - (whole - 1.0)) / whole if k < 54 else 0.0
        y = of_parts(f, float(k), c)
    return y if x >= 0.5 else -y


def expm1_twin(x: float) -> float:
    x = min(max(x, -60.0), 710.0)
    # Python rounds halves to even, as binary64 additions do.
    k = round(x * 1.44269504088896338700e00)
    high, low = x - k * LN2_HIGH, k * LN2_LOW
    r = high - low
    lost = (high - r) - low
    half = 0.5 * r
    square = r * half
    ratio = 1.0 + square * (
        -3.33333333333331316428e-02
        + square
        * (
            1.58730158725481460165e-03
            + square
            * (
                -7.93650757867487942473e-05
                + square * (4.00821782732936239552e-06 + square * -2.01099218183624371326e-07)
            )
        )
    )
    t = 3.0 - ratio * half
    e = square * ((ratio - t) / (6.0 - r * t))
    reduced = r - ((r * (e - lost) - lost) - square)
    scale = math.ldexp(1.0, k - 1)
    return (scale * reduced + (scale - 0.5)) * 2.0


def box_cox_twin(x: float, lmbda: float) -> float:
    if math.isnan(x):
        return x
    if x < 0:
        return math.nan
    log = -math.inf if x == 0 else x if x == math.inf else log_twin(x)
    if abs(lmbda) < 2.0**-70:
        return log
    return expm1_twin(lmbda * log) / lmbda + 0.0


@given(st.lists(st.floats() | st.floats(0, 1), max_size=20), st.sampled_from([0.0, 1e-6, 0.3]))
@example([0.0, -0.0, 1.0, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan, 5e-324], 0.0)
@example([0.5 - 2**-54, 0.5 + 2**-53, 1 - 2**-53, 2.0**-1000, 2.0**-1001, 1e-310], 0.0)
@example([0.25, 0.75, 1 / 3, 2 / 3, 0.4142135, 0.41421357], 5e-324)
def test_logit_is_its_twin(values: list[float], epsilon: float) -> None:
    expected = np.array([logit_twin(value, epsilon) for value in values], np.float64)
    assert logit(np.array(values, np.float64), epsilon).tobytes() == expected.tobytes()


@given(st.lists(st.floats() | st.floats(0, 9), max_size=20), LMBDAS | st.floats(-1e300, 1e300))
@example([0.0, -0.0, 1.0, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan, 5e-324], 0.0)
@example([0.0, -0.0, 1.0, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan, 5e-324], 0.5)
@example([0.0, -0.0, 1.0, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan, 5e-324], -2.0)
@example([0.0, 1.0, 0.5, 2.0, 1.7976931348623157e308, 1e-310], 1.0)
@example([0.0, 1.0, 0.5, 2.0, math.inf], -1e300)
def test_box_cox_is_its_twin(values: list[float], lmbda: float) -> None:
    expected = np.array([box_cox_twin(value, lmbda) for value in values], np.float64)
    assert box_cox(np.array(values, np.float64), lmbda).tobytes() == expected.tobytes()


def error_ulp(found: float, exact: Decimal) -> Decimal:
    return abs(Decimal(found) - exact) / Decimal(math.ulp(float(exact)))


@given(
    st.floats(0, 1, exclude_min=True, exclude_max=True) | st.floats(0.49, 0.51),
    st.sampled_from([0.0, 1e-9]),
)
@example(5e-324, 0.0)
@example(1 - 2**-53, 0.0)
@example(0.5 + 2**-53, 0.0)
@example(0.5076960503647878, 0.0)
def test_logit_is_within_two_ulp(x: float, epsilon: float) -> None:
    with decimal.localcontext(prec=60):
        near = max(min(Decimal(x), 1 - Decimal(x)), Decimal(epsilon))
        size = (1 / near - 1).ln() if x < 0.49 or x > 0.51 else ((1 - near) / near).ln()
        exact = size if x >= 0.5 else -size
        found = float(logit(np.array([x]), epsilon)[0])
        assert found == 0 if exact == 0 else error_ulp(found, exact) < 2


@given(POSITIVE)
@example(5e-324)
@example(1 + 2**-52)
@example(1 - 2**-53)
def test_the_logarithm_is_within_one_ulp(x: float) -> None:
    with decimal.localcontext(prec=60):
        exact = Decimal(x).ln()
        found = float(box_cox(np.array([x]), 0.0)[0])
        assert found == 0 if exact == 0 else error_ulp(found, exact) < 1


@given(POSITIVE, LMBDAS)
@example(1.3755447847329788e77, 0.1)
@example(0.7, 1.0)
@example(1e-300, -0.5)
def test_box_cox_is_within_its_error(x: float, lmbda: float) -> None:
    assume(abs(lmbda) >= 1e-12)
    with decimal.localcontext(prec=120):
        power = Decimal(lmbda) * Decimal(x).ln()
        exact = (power.exp() - 1) / Decimal(lmbda)
        assume(abs(exact) < Decimal("1.7e308"))
        found = float(box_cox(np.array([x]), lmbda)[0])
        assert found == 0 if exact == 0 else error_ulp(found, exact) < 4 + 2 * abs(power)


# Each function of float32 with the error in ulp that it stays below; a power is rounded once.
NARROW: dict[str, tuple[Callable[[Any], Any], float]] = {
    "log1p": (log1p, 1.5),
    "logit": (lambda x: logit(x, 0.0), 2),
    "limited logit": (lambda x: logit(x, 1e-6), 2),
    "logit near its limits": (lambda x: logit(x, 0.4999), 2),
    "log": (lambda x: box_cox(x, 0.0), 1),
    "power": (lambda x: box_cox(x, 0.3), 0.51),
    "inverse": (lambda x: box_cox(x, -2.0), 0.51),
}


def narrow_error_ulp(function: Callable[[Any], Any], narrow: Any) -> float:
    """The greatest error of float32 [n], from the float64 of the same numbers.

    What is no number, infinite, or -0.0 is the same as there, bit for bit.
    """
    found = function(narrow)
    assert found.dtype == np.float32
    with np.errstate(all="ignore"):
        exact = function(narrow.astype(np.float64))
        rounded = exact.astype(np.float32)
    same = ~np.isfinite(rounded) | (rounded == 0)
    assert found[same].tobytes() == rounded[same].tobytes()
    ulp = np.spacing(np.abs(rounded[~same])).astype(np.float64)
    errors = np.abs(found[~same].astype(np.float64) - exact[~same]) / ulp
    return float(errors.max(initial=0))


@pytest.mark.parametrize("name", NARROW)
@given(values=st.lists(st.floats(width=32) | st.floats(0, 2, width=32), max_size=20))
@example(values=[0.0, -0.0, 1.0, 0.5, -1.0, 2.0, math.inf, -math.inf, math.nan, 2.0**-149])
@example(values=[2.0**-126, 2.0**-127, 3.4028234663852886e38, -(2.0**-149), 1 - 2.0**-24])
def test_float32_is_within_its_error(name: str, values: list[float]) -> None:
    function, bound = NARROW[name]
    assert narrow_error_ulp(function, np.array(values, np.float32)) < bound


@pytest.mark.parametrize("name", NARROW)
def test_float32_of_its_whole_range_is_within_its_error(name: str) -> None:
    """Of one number in 2,003; docs/decisions/011-log1p.md says that all of them were compared."""
    words = np.arange(0, 1 << 32, 2003, dtype=np.uint64).astype(np.uint32)
    # NaN come out as they are: quiet ones here, as a conversion to float64 makes them.
    words[np.isnan(words.view(np.float32))] |= np.uint32(0x00400000)
    function, bound = NARROW[name]
    narrow = words.view(np.float32)
    assert narrow_error_ulp(function, narrow) < bound
    assert xxhash.xxh64_hexdigest(function(narrow).tobytes()) == GOLDEN_NARROW[name]


@pytest.mark.parametrize("epsilon", [1e-60, 2.0**-149, 1e-40, 1e-6, 0.3, 0.49999999])
def test_a_limit_of_float32_is_that_of_float64_rounded_once(epsilon: float) -> None:
    around = np.float32(epsilon)
    near = np.array([0, np.nextafter(around, np.float32(0)), around, -1, 2], np.float32)
    limited = near[near < epsilon]
    values = np.concatenate([limited, np.array([1, 7], np.float32)])
    expected = logit(values.astype(np.float64), epsilon).astype(np.float32)
    assert logit(values, epsilon).tolist() == expected.tolist()
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    ("code", "expected"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f8"), ("u8", "f8"), ("i8", "f8")],
)
def test_result_dtypes(code: str, expected: str) -> None:
    for function in FUNCTIONS.values():
        result = function(np.array([0, 1, 100], code), 0.25)
        assert result.dtype == np.dtype(expected)
        assert result.tolist() == function(np.array([0, 1, 100], expected), 0.25).tolist()


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['function']} {case['argument']}")
def test_golden_bit_patterns(case: dict[str, Any]) -> None:
    for code in ("f8", "f4"):
        words = f"u{code[1]}"
        before, after = (np.array([int(w, 16) for w in row], words) for row in case[code])
        found = FUNCTIONS[case["function"]](before.view(code), case["argument"]).view(words)
        assert [hex(word) for word in found] == [hex(word) for word in after]


def test_vectors_and_rests_of_vectors_agree() -> None:
    values = np.random.default_rng(5).uniform(size=1003)
    for function in FUNCTIONS.values():
        one_by_one = [float(function(values[i : i + 1], 0.125)[0]) for i in range(len(values))]
        assert function(values, 0.125).tolist() == one_by_one
