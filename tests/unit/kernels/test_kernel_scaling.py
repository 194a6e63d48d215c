"""Limits against their plain numpy twin; the other kernels of the file have theirs with the ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import limit


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
