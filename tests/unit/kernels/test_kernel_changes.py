"""Where ids and lists change, against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.kernels import count_changes, list_changes

Lists = list[list[int]]


def jagged(lists: Lists, dtype: str = "i8") -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    offsets = np.cumsum([0, *map(len, lists)])
    return offsets, np.array([value for values in lists for value in values], dtype)


def changes_of(values: list[Any]) -> list[bool]:
    return [i == 0 or values[i] != values[i - 1] for i in range(len(values))]


@st.composite
def lists_and_rows(draw: st.DrawFn) -> tuple[Lists, list[int]]:
    """Lists, many of them equal, and rows of them in any order, adjacent ones too."""
    few = draw(st.lists(st.lists(st.integers(0, 1), max_size=4), min_size=1, max_size=4))
    lists = draw(st.lists(st.sampled_from(few), max_size=12))
    if not lists:
        return [], []
    row = st.integers(0, len(lists) - 1)
    stretch = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    stretches = draw(st.lists(stretch, max_size=5))
    return lists, [row for rows in stretches for row in rows]


@given(st.sampled_from(["?", "i1", "u2", "i4", "f4", "i8", "f8"]), lists_and_rows())
def test_changes_are_lists_that_differ_from_the_one_before(
    code: str, drawn: tuple[Lists, list[int]]
) -> None:
    lists, rows = drawn
    offsets, values = jagged(lists, code)
    changes = list_changes(offsets, values, np.array(rows, np.int64))
    assert changes.dtype == np.bool_
    assert changes.tolist() == changes_of([lists[row] for row in rows])


@pytest.mark.parametrize("code", ["i1", "i2", "i4", "i8"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 33, 100])
def test_a_change_at_any_place_is_seen(code: str, length: int) -> None:
    same = [1] * length
    for place in range(length):
        other = same.copy()
        other[place] = -1
        offsets, values = jagged([same, other, other, same], code)
        changes = list_changes(offsets, values, np.arange(4))
        assert changes.tolist() == [True, True, False, True]


def test_lists_are_compared_bit_by_bit() -> None:
    values = np.array([np.nan, np.nan, 0.0, -0.0], np.float32)
    changes = list_changes(np.arange(5), values, np.arange(4))
    assert changes.tolist() == [True, False, True, True]


def test_lists_may_be_a_range_of_a_larger_read_only_array() -> None:
    offsets, values = jagged([[7], [1, 2], [1, 2], [2], [7]])
    rows = np.arange(6)[::2] // 2
    for array in (offsets, values, rows):
        array.flags.writeable = False
    assert list_changes(offsets[1:-1], values, rows).tolist() == [True, False, True]


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    offsets, values = jagged([[1, 2], [3]])
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            list_changes(offsets, values, np.array(rows))


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2]])
def test_offsets_that_leave_the_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(IndexError, match="leave 3 values"):
        list_changes(np.array(offsets), np.zeros(3, np.int64), np.array([0]))


CODES = ["?", "i1", "f2", "i4", "f4", "i8", "f8"]


@given(
    st.lists(st.tuples(st.sampled_from(CODES), st.booleans(), st.integers(0, 9)), max_size=5),
    st.lists(st.integers(0, 19), max_size=30),
)
def test_values_that_change_are_counted(
    columns: list[tuple[str, bool, int]], rows: list[int]
) -> None:
    held: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]] = []
    expected = []
    for code, nullable, seed in columns:
        rng = np.random.default_rng(seed)
        values, valid = rng.integers(0, 2, 20).astype(code), rng.random(20) < 0.6
        values.flags.writeable = False
        held.append((values, valid if nullable else None))
        plain = [v if ok or not nullable else None for v, ok in zip(values, valid, strict=True)]
        expected.append(sum(changes_of([plain[row] for row in rows])))
    assert count_changes(held, np.array(rows, np.int64)).tolist() == expected


def test_values_are_compared_bit_by_bit() -> None:
    zeros = np.array([0.0, -0.0, np.nan, np.nan])
    assert count_changes([(zeros, None)], np.arange(4)).tolist() == [3]


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_no_column_has_are_refused(row: int) -> None:
    with pytest.raises(IndexError, match="leave a column of 2 rows"):
        count_changes([(np.zeros(2), None)], np.array([0, row]))


def test_columns_of_several_lengths_are_refused() -> None:
    for other in ((np.zeros(3), None), (np.zeros(2), np.ones(3, np.bool_))):
        with pytest.raises(ValueError, match="several lengths"):
            count_changes([(np.zeros(2), None), other], np.arange(2))
