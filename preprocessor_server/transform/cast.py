"""Conversions that keep values: of numbers, of stored times, of decimals and strings."""

from __future__ import annotations

import decimal
import re
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.frame import Bytes, Flat, Mask, Opaque, Scalars
from preprocessor_server.transform.column_type import ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, as_bytes, bytes_to_arrow

Numbers: TypeAlias = npt.NDArray[Any]

# Decimal numbers as SQL and JSON spell them, and the names of those that they lack.
_DECIMAL = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_FLOAT = rf"^({_DECIMAL}|[+-]?(?i:nan|inf|infinity))$"
# What surely fits 64 bits, once a plus and a fraction of zeros are gone.
_WHOLE = r"^(?:\+|(-))?(\d+)(?:\.0*)?$"
_SHORT_INTEGER = r"^-?\d{1,18}$"
_INTEGER = re.compile(_DECIMAL.encode(), re.ASCII)
# More digits than any integer target has.
_MAX_INTEGER_DIGITS = 20


def cast(
    values: Scalars, source: ColumnType, target: np.dtype[np.generic]
) -> tuple[Flat, Mask | None]:
    """The values [n] as numbers of the target dtype, and which of them have no such number.

    Those are 0 in the result; nulls stay null and are none of them. None where there are none.
    """
    if source.family is Family.TEXT:
        values = as_bytes(values)
    match values:
        case Flat():
            numbers, bad = cast_numbers(values.values, target)
            valid = values.valid
        case Bytes():
            # Without a check of the bytes: what is not UTF-8 spells no number.
            numbers, bad = _spelled(bytes_to_arrow(values).view(pa.large_string()), target)
            valid = values.valid
        case Opaque(array) if source.family is Family.TIME:
            stored = arrow_to_column(
                array.view(pa.from_numpy_dtype(f"i{array.type.bit_width // 8}"))
            )
            assert isinstance(stored, Flat)
            return cast(stored, source, target)
        case Opaque(array):
            numbers, bad = _spelled(array.cast(pa.string()), target)
            valid = _numpy(array.is_valid()) if array.null_count else None
    if valid is not None and bad is not None:
        bad &= valid
    return Flat(numbers, valid), bad


def cast_numbers(values: Numbers, target: np.dtype[np.generic]) -> tuple[Numbers, Mask | None]:
    """Numbers or booleans [n] as another dtype, and which of them it cannot hold (0 there).

    Floating-point targets round to nearest, to infinity beyond their range. None instead of a mask
    where every value fits.
    """
    if values.dtype == target:
        return values, None
    if target.kind == "f":
        with np.errstate(all="ignore"):
            return values.astype(target, copy=False), None
    bad = _outside(values, np.iinfo(target.name))
    if bad is None or not bad.any():
        return values.astype(target, copy=False), None
    return np.where(bad, 0, values).astype(target), bad


def _outside(values: Numbers, limits: np.iinfo[Any]) -> Mask | None:
    """Which numbers are no integers within limits; None if none can be."""
    if values.dtype.kind == "b":
        return None
    if values.dtype.kind == "f":
        # Exactly: both bounds are powers of two. NaN is on neither side.
        wide = values.astype(np.float64, copy=False)
        inside = (wide >= float(limits.min)) & (wide < -float(limits.min))
        with np.errstate(invalid="ignore"):
            outside: Mask = ~(inside & (wide == np.trunc(wide)))
        return outside
    own = np.iinfo(values.dtype)
    below = values < limits.min if own.min < limits.min else None
    above = values > limits.max if own.max > limits.max else None
    if below is None or above is None:
        return above if below is None else below
    either: Mask = below | above
    return either


def _spelled(text: pa.Array, target: np.dtype[np.generic]) -> tuple[Numbers, Mask | None]:
    """The numbers that strings spell; nulls count as 0."""
    if target.kind == "f":
        fits = pc.fill_null(pc.match_substring_regex(text, _FLOAT), False)
        # Correctly rounded, straight to the target.
        numbers = pc.if_else(fits, text, "0").cast(pa.from_numpy_dtype(target))
        return _numpy(numbers), ~_numpy(pc.or_(fits, text.is_null()))
    whole = pc.replace_substring_regex(text, _WHOLE, r"\1\2")
    short = pc.fill_null(pc.match_substring_regex(whole, _SHORT_INTEGER), False)
    numbers = _numpy(pc.if_else(short, whole, "0").cast(pa.int64()))
    bad = np.zeros(len(text), np.bool_)
    rest = np.flatnonzero(~_numpy(short) & _numpy(text.is_valid()))
    if len(rest):
        numbers = numbers.copy()
        spellings = text.take(pa.array(rest)).view(_binary(text.type)).to_pylist()
        for row, spelling in zip(rest.tolist(), spellings, strict=True):
            number = _integer(spelling)
            bad[row] = number is None
            numbers[row] = number or 0
    converted, outside = cast_numbers(numbers, target)
    return converted, bad if outside is None else bad | outside


def _binary(text: pa.DataType) -> pa.DataType:
    return pa.large_binary() if pa.types.is_large_string(text) else pa.binary()


def _integer(spelling: bytes) -> int | None:
    """The 64-bit integer that a string spells, None if it spells none."""
    if not _INTEGER.fullmatch(spelling):
        return None
    try:
        number = decimal.Decimal(spelling.decode())
    except decimal.InvalidOperation:
        # An exponent beyond all bounds.
        return None
    if not number:
        return 0
    if number.adjusted() > _MAX_INTEGER_DIGITS or number.adjusted() < 0:
        return None
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < 0 and any(number.as_tuple().digits[exponent:]):
        return None
    whole = int(number)
    return whole if -(2**63) <= whole < 2**63 else None


def _numpy(array: pa.Array) -> Numbers:
    numbers: Numbers = array.to_numpy(zero_copy_only=False)
    return numbers
