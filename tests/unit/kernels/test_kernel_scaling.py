"""Kernels of numbers against numpy; those that are not here are held to it with the operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import fill, limit


def twin(values: Any, lower: Any, upper: Any) -> Any:
    # Comparisons with NaN are false.
    limited = values if lower is None else np.where(values < lower, lower, values)
    return limited if upper is None else np.where(limited > upper, upper, limited)


@pytest.mark.parametrize("code", ["f2", "f4", "f8"])
@given(
    values=st.lists(st.floats(width=16)),
    bounds=st.tuples(*[st.none() | st.floats(width=16, allow_nan=False)] * 2),
)
@example(values=[-0.0, 0.0, np.nan, np.inf, -np.inf], bounds=(0.0, 0.0))
@example(values=[-0.0, 0.0, np.nan, np.inf, -np.inf], bounds=(None, -0.0))
@example(values=[-0.0, 0.0, np.nan, np.inf, -np.inf], bounds=(None, None))
def test_floats_are_limited(code: str, values: list[float], bounds: Any) -> None:
    numbers = np.array(values, code)
    lower, upper = (None if b is None else numbers.dtype.type(b) for b in bounds)
    if lower is not None and upper is not None and lower > upper:
        lower, upper = upper, lower
    result = limit(numbers, lower, upper)
    assert result.dtype == numbers.dtype
    assert result.tobytes() == twin(numbers, lower, upper).tobytes()


@pytest.mark.parametrize("code", ["i1", "u1", "i4", "u4", "i8", "u8"])
@given(data=st.data())
def test_integers_are_limited(code: str, data: st.DataObject) -> None:
    limits = np.iinfo(code)
    integer = st.integers(int(limits.min), int(limits.max))
    numbers = np.array(data.draw(st.lists(integer)), code)
    bounds = sorted(data.draw(st.lists(integer, min_size=2, max_size=2)))
    low, high = (numbers.dtype.type(bound) for bound in bounds)
    for lower, upper in ((low, high), (low, None), (None, high), (None, None)):
        result = limit(numbers, lower, upper)
        assert result.dtype == numbers.dtype
        assert result.tolist() == twin(numbers, lower, upper).tolist()


@pytest.mark.parametrize("code", ["?", "i1", "u2", "f2", "i4", "f4", "u8", "f8"])
@given(data=st.data())
def test_what_is_not_valid_is_filled(code: str, data: st.DataObject) -> None:
    size = np.dtype(code).itemsize
    valid = np.array(data.draw(st.lists(st.booleans(), max_size=40)), np.bool_)
    # Any bits: those of a NaN stay too.
    bits = 1 if code == "?" else (1 << 8 * size) - 1
    words = data.draw(
        st.lists(st.integers(0, bits), min_size=len(valid) + 1, max_size=len(valid) + 1)
    )
    *numbers, value = np.array(words, f"u{size}").view(code)
    result = fill(np.array(numbers, code), valid, value)
    assert result.dtype == np.dtype(code)
    expected = [a if ok else value for a, ok in zip(numbers, valid, strict=True)]
    assert result.tobytes() == np.array(expected, code).tobytes()


def test_as_many_are_filled_as_there_are() -> None:
    with pytest.raises(IndexError, match="2 of 3 values"):
        fill(np.zeros(3), np.ones(2, np.bool_), 0.0)
