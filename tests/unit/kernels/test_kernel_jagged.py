"""The copy kernels against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.kernels import copy_tails, keep_valid, tail, take_lists

EVERY_WIDTH = ["?", "i1", "u2", "f2", "i4", "f4", "u8", "f8"]

lists_of_lists = st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6), max_size=12)


def jagged(lists: list[list[Any]], dtype: str = "i8") -> tuple[npt.NDArray[np.int64], Any]:
    offsets = np.cumsum([0, *map(len, lists)])
    return offsets, np.array([value for values in lists for value in values], dtype)


@given(lists_of_lists, st.integers(1, 2**31 - 1) | st.integers(1, 8))
def test_tails_are_the_ends_of_lists(lists: list[list[int]], count: int) -> None:
    offsets, values = jagged(lists)
    tail_offsets = tail(offsets, count)
    tails = copy_tails(offsets, values, tail_offsets)
    expected = jagged([values[-count:] for values in lists])
    assert tail_offsets.tolist() == expected[0].tolist()
    assert tails.tolist() == expected[1].tolist()


@pytest.mark.parametrize("code", EVERY_WIDTH)
def test_tails_of_every_width(code: str) -> None:
    offsets, values = jagged([[1, 0, 1], [], [1], [0, 1]], code)
    tails = copy_tails(offsets, values, tail(offsets, 2))
    assert tails.dtype == values.dtype
    assert tails.tolist() == np.array([0, 1, 1, 0, 1], code).tolist()


@given(lists_of_lists, st.data(), st.integers(0, 3))
def test_take_lists_copies_lists(lists: list[list[int]], data: st.DataObject, skipped: int) -> None:
    # Stretches of consecutive rows, which the kernel copies as blocks, among single ones.
    row = st.integers(0, max(0, len(lists) - 1))
    stretches = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    drawn = data.draw(st.lists(stretches, max_size=4 if lists else 0))
    rows = np.array([row for stretch in drawn for row in stretch], np.int64)
    offsets, values = jagged([[7] * skipped, *lists, [7]])
    # Lists may be a range of a larger array.
    taken_offsets, taken = take_lists(offsets[1:-1], values, rows)
    expected = jagged([lists[row] for row in rows])
    assert taken.dtype == np.int64
    assert taken_offsets.tolist() == expected[0].tolist()
    assert taken.tolist() == expected[1].tolist()


@pytest.mark.parametrize("code", EVERY_WIDTH)
def test_take_lists_of_every_width(code: str) -> None:
    offsets, values = jagged([[1, 0, 1], [], [1], [0, 1]], code)
    for array in (offsets, values):
        array.flags.writeable = False
    taken_offsets, taken = take_lists(offsets, values, np.array([3, 1, 2, 0]))
    assert taken.dtype == values.dtype
    assert taken_offsets.tolist() == [0, 2, 2, 3, 6]
    assert taken.tolist() == np.array([0, 1, 1, 1, 0, 1], code).tolist()


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    offsets, values = jagged([[1, 2], [3]])
    for rows in (np.array([row]), np.array([0, 1, row])):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            take_lists(offsets, values, rows)


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2]])
def test_offsets_that_leave_the_values_are_refused(offsets: list[int]) -> None:
    values = np.zeros(3, np.int64)
    with pytest.raises(IndexError, match="leave 3 values"):
        take_lists(np.array(offsets), values, np.array([0]))
    with pytest.raises(IndexError, match="leave 3 values"):
        copy_tails(np.array(offsets), values, np.array([0, 1]))


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=20))
@pytest.mark.parametrize("code", ["i4", "i8", "f8"])
def test_keep_valid_makes_lists_of_one_and_empty_ones(code: str, values: list[int | None]) -> None:
    valid = np.array([value is not None for value in values], np.bool_)
    offsets, kept = keep_valid(valid, np.array([value or 0 for value in values], code))
    expected = jagged([[] if value is None else [value] for value in values], code)
    assert offsets.dtype == np.int64
    assert kept.dtype == np.dtype(code)
    assert offsets.tolist() == expected[0].tolist()
    assert kept.tolist() == expected[1].tolist()


def test_keep_valid_wants_a_mark_a_value() -> None:
    for count in (2, 4):
        with pytest.raises(ValueError, match=f"{count} marks for 3 values"):
            keep_valid(np.ones(count, np.bool_), np.zeros(3, np.int64))
