"""Cast keeps values, or says which ones it cannot keep."""

from __future__ import annotations

import decimal
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.frame import Jagged
from preprocessor_server.transform.cast import cast
from preprocessor_server.transform.column_type import column_type
from preprocessor_server.transform.from_arrow import arrow_to_column

TARGETS = ["i4", "i8", "f4", "f8"]


def run(array: pa.Array, code: str) -> list[Any]:
    """The cast values, with "bad" for one that cannot be cast, None for a null."""
    column, source = arrow_to_column(array), column_type(array.type)
    assert source is not None
    assert not isinstance(column, Jagged)
    result, bad = cast(column, source, np.dtype(code))
    assert result.values.dtype == np.dtype(code)
    return [
        None
        if result.valid is not None and not result.valid[row]
        else "bad"
        if bad is not None and bad[row]
        else value
        for row, value in enumerate(result.values.tolist())
    ]


def nearest(value: Fraction, code: str) -> float:
    """The float of a width nearest to an exact number; ties to even."""
    dtype = np.dtype(code).type
    with np.errstate(over="ignore"):
        guess = dtype(float(value)) if abs(value) < Fraction(10) ** 300 else dtype(0)
        around = [
            guess,
            np.nextafter(guess, dtype(-math.inf)),
            np.nextafter(guess, dtype(math.inf)),
        ]
    finite = [x for x in around if np.isfinite(x)]
    word = np.dtype(f"u{np.dtype(code).itemsize}")
    return float(
        min(finite, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(word)) & 1))
    )


def whole(value: Fraction, code: str) -> Any:
    limits = np.iinfo(code)
    fits = value.denominator == 1 and limits.min <= value <= limits.max
    return int(value) if fits else "bad"


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)), st.sampled_from(TARGETS))
@example([2**53 + 1, 2**24 + 1, 2**31, -(2**31) - 1, 2**63 - 1, None], "f4")
def test_integers(values: list[int | None], code: str) -> None:
    convert = nearest if code[0] == "f" else whole
    assert run(pa.array(values, pa.int64()), code) == [
        None if value is None else convert(Fraction(value), code) for value in values
    ]


def test_unsigned_integers() -> None:
    array = pa.array([0, 2**31, 2**63 - 1, 2**63, 2**64 - 1, None], pa.uint64())
    assert run(array, "i4") == [0, "bad", "bad", "bad", "bad", None]
    assert run(array, "i8") == [0, 2**31, 2**63 - 1, "bad", "bad", None]
    assert run(array, "f4") == [0, 2.0**31, 2.0**63, 2.0**63, 2.0**64, None]


def test_booleans() -> None:
    for code in TARGETS:
        assert run(pa.array([True, None, False]), code) == [1, None, 0]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
@example([2.0**31, -(2.0**31), 2.0**63, -(2.0**63), 0.5, -0.0])
def test_floats_to_integers(values: list[float]) -> None:
    for code in ("i4", "i8"):
        expected = [whole(Fraction(value), code) for value in values]
        assert run(pa.array(values, pa.float32()), code) == expected
        assert run(pa.array(values, pa.float64()), code) == expected


def test_special_floats() -> None:
    array = pa.array([math.nan, math.inf, -math.inf, None], pa.float64())
    assert run(array, "i8") == ["bad", "bad", "bad", None]
    assert np.isnan(run(array, "f4")[0])
    assert run(array, "f4")[1:] == [math.inf, -math.inf, None]
    assert run(pa.array([1e300, -1e300, 1e-300, -0.0]), "f4") == [math.inf, -math.inf, 0, 0]
    assert math.copysign(1, run(pa.array([-0.0]), "f4")[0]) == -1
    assert run(pa.array([np.float16(1.5)], pa.float16()), "f8") == [1.5]


@given(
    st.lists(st.none() | st.decimals(-(10**25), 10**25, places=4)),
    st.sampled_from(TARGETS),
    st.sampled_from([pa.decimal128(38, 4), pa.decimal256(60, 4)]),
)
def test_decimals(values: list[decimal.Decimal | None], code: str, arrow: pa.DataType) -> None:
    convert = nearest if code[0] == "f" else whole
    assert run(pa.array(values, arrow), code) == [
        None if value is None else convert(Fraction(value), code) for value in values
    ]


def test_decimals_of_every_width_and_scale() -> None:
    number = decimal.Decimal(12300)
    for arrow in (pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(5, -2)):
        array = pa.array([number, None], pa.decimal128(20, 2) if arrow.scale > 0 else arrow)
        assert run(array.cast(arrow), "i8") == [12300, None]
        assert run(array.cast(arrow), "f4") == [12300.0, None]


@pytest.mark.parametrize(
    ("text", "integer", "number"),
    [
        ("0", 0, 0.0),
        ("-12", -12, -12.0),
        ("+7", 7, 7.0),
        ("007", 7, 7.0),
        ("1.0", 1, 1.0),
        ("1.", 1, 1.0),
        ("1e3", 1000, 1000.0),
        ("1.5e1", 15, 15.0),
        ("10e-1", 1, 1.0),
        ("0e999999999", 0, 0.0),
        (".5", "bad", 0.5),
        ("1.5", "bad", 1.5),
        ("1e-5", "bad", 1e-5),
        ("9223372036854775807", 2**63 - 1, 2.0**63),
        ("-9223372036854775808", -(2**63), -(2.0**63)),
        ("9223372036854775808", "bad", 2.0**63),
        ("1e99", "bad", 1e99),
        ("1e999999999", "bad", math.inf),
        ("1e99999999999999999999", "bad", math.inf),
        ("-1e400", "bad", -math.inf),
        ("Infinity", "bad", math.inf),
        ("-inf", "bad", -math.inf),
        ("", "bad", "bad"),
        (" 1", "bad", "bad"),
        ("1 ", "bad", "bad"),
        ("1_000", "bad", "bad"),
        ("0x10", "bad", "bad"),
        ("++1", "bad", "bad"),
        ("--1", "bad", "bad"),
        ("1\n", "bad", "bad"),
        (".", "bad", "bad"),
        ("e5", "bad", "bad"),
        ("٣", "bad", "bad"),
        ("true", "bad", "bad"),
    ],
)
def test_strings(text: str, integer: Any, number: Any) -> None:
    for arrow in (pa.string(), pa.large_string(), pa.string_view()):
        array = pa.array([None, text], arrow)
        assert run(array, "i8") == [None, integer]
        assert run(array, "f8") == [None, number]
        assert run(array.dictionary_encode() if arrow == pa.string() else array, "i8")[1] == integer


def test_a_string_that_spells_nan_is_nan() -> None:
    assert math.isnan(run(pa.array(["NaN"]), "f4")[0])
    assert run(pa.array(["nan"]), "i8") == ["bad"]


def test_strings_that_are_not_utf8_spell_no_number() -> None:
    array = pa.array([b"\xff", b"1", b"\xc3("]).view(pa.string())
    assert run(array, "i8") == ["bad", 1, "bad"]
    assert run(array, "f8") == ["bad", 1.0, "bad"]


def test_strings_round_to_float32_once() -> None:
    # Between two float32; rounding to float64 first would land on the tie and go down.
    text = "1.00000005960464477540"
    assert run(pa.array([text]), "f4") == [float(np.nextafter(np.float32(1), np.float32(2)))]


@pytest.mark.parametrize(
    ("arrow", "stored"),
    [
        (pa.timestamp("us"), 1_700_000_000_000_001),
        (pa.timestamp("ns", "UTC"), -1),
        (pa.date32(), -5),
        (pa.date64(), 86_400_000),
        (pa.time32("s"), 59),
        (pa.time64("ns"), 1_000),
        (pa.duration("ms"), -7),
    ],
)
def test_times_become_the_integer_they_are_stored_as(arrow: pa.DataType, stored: int) -> None:
    array = pa.array([0, None, stored], pa.int32() if arrow.bit_width == 32 else pa.int64())
    assert run(array.cast(arrow).slice(1), "i8") == [None, stored]


def test_times_beyond_the_target_are_refused() -> None:
    array = pa.array([1_767_225_600, 0], pa.timestamp("s"))
    assert run(array, "i4") == [1_767_225_600, 0]
    assert run(array.cast(pa.timestamp("ms")), "i4") == ["bad", 0]
