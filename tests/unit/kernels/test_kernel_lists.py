"""What the encoder measures of lists, against plain Python."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessor_server.kernels import list_changes, measure_ids, measure_lists

INT64 = np.iinfo(np.int64)
DTYPES = ["i4", "i8"]

Lists = list[list[int]]


def jagged(lists: Lists, dtype: str = "i8") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, lists)])
    return offsets, np.array([value for values in lists for value in values], dtype)


@st.composite
def lists_and_rows(draw: st.DrawFn, element: st.SearchStrategy[int]) -> tuple[Lists, list[int]]:
    """Lists, many of them equal, and rows of them in any order, adjacent ones too."""
    few = draw(st.lists(st.lists(element, max_size=4), min_size=1, max_size=4))
    lists = draw(st.lists(st.sampled_from(few), max_size=12))
    if not lists:
        return [], []
    row = st.integers(0, len(lists) - 1)
    stretch = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    stretches = draw(st.lists(stretch, max_size=5))
    return lists, [row for rows in stretches for row in rows]


@given(
    st.sampled_from(["?", "i1", "u2", "i4", "f4", "i8", "f8"]),
    lists_and_rows(st.integers(0, 1)),
)
def test_changes_are_lists_that_differ_from_the_one_before(
    code: str, drawn: tuple[Lists, list[int]]
) -> None:
    lists, rows = drawn
    offsets, values = jagged(lists, code)
    changes = list_changes(offsets, values, np.array(rows, np.int64))
    taken = [lists[row] for row in rows]
    assert changes.dtype == np.bool_
    assert changes.tolist() == [i == 0 or taken[i] != taken[i - 1] for i in range(len(taken))]


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


@given(
    st.sampled_from(DTYPES),
    st.data(),
)
def test_measures_are_those_of_all_values(code: str, data: st.DataObject) -> None:
    bounds = np.iinfo(code)
    element = (
        st.integers(int(bounds.min), int(bounds.max))
        | st.sampled_from([int(bounds.min), int(bounds.max), -1, 0])
        | st.integers(-200, 200)
    )
    lists, rows = data.draw(lists_and_rows(element))
    offsets, values = jagged(lists, code)
    lengths = np.full(len(rows), -1, np.int32)
    measures = measure_lists(offsets, values, np.array(rows, np.int64), lengths)
    taken = [value for row in rows for value in lists[row]]
    assert lengths.tolist() == [len(lists[row]) for row in rows]
    low, high = min(taken, default=0), max(taken, default=0)
    assert (measures.total, measures.low, measures.high) == (len(taken), low, high)
    distinct = sorted(set(taken)) if high - low > 255 else []
    assert measures.distinct.tolist() == distinct


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("count", [2, 255, 256, 257, 5000])
def test_distinct_values_are_counted_up_to_256(code: str, count: int) -> None:
    # Multiples of 2^20 fall on few slots of a table that took the lowest bits.
    distinct = (np.arange(count) - count // 2) * (2**20 if count <= 1000 else 300)
    values = np.random.default_rng(count).permutation(np.tile(distinct, 5)).astype(code)
    lengths = np.empty(1, np.int32)
    measures = measure_lists(np.array([0, len(values)]), values, np.array([0]), lengths)
    assert (measures.low, measures.high) == (distinct[0], distinct[-1])
    assert measures.distinct.tolist() == (distinct.tolist() if count <= 256 else [])
    (of_ids,) = measure_ids(values[np.newaxis])
    assert of_ids[:3] == measures[:3]
    assert of_ids.distinct.tolist() == measures.distinct.tolist()


@given(st.sampled_from(DTYPES), st.data())
def test_measures_of_ids_are_those_of_lists(code: str, data: st.DataObject) -> None:
    bounds = np.iinfo(code)
    element = st.integers(int(bounds.min), int(bounds.max)) | st.integers(-200, 200)
    size = data.draw(st.integers(1, 8))
    rows = data.draw(st.lists(st.lists(element, min_size=size, max_size=size), max_size=4))
    ids = np.array(rows, code).reshape(len(rows), size)
    found = measure_ids(ids)
    assert len(found) == len(rows)
    for row, measures in zip(ids, found, strict=True):
        as_list = measure_lists(np.array([0, size]), row, np.array([0]), np.empty(1, np.int32))
        assert measures[:3] == as_list[:3]
        assert measures.distinct.tolist() == as_list.distinct.tolist()


@example([int(INT64.min), int(INT64.max)])
@example([0, 255])
@example([0, 256])
@example([int(INT64.min), int(INT64.min) + 256])
@given(st.lists(st.integers(int(INT64.min), int(INT64.max)), min_size=1, max_size=3))
def test_distinct_values_are_found_where_words_take_more_than_a_byte(values: list[int]) -> None:
    offsets, array = jagged([values])
    measures = measure_lists(offsets, array, np.array([0, 0]), np.empty(2, np.int32))
    wide = max(values) - min(values) > 255
    assert measures.total == 2 * len(values)
    assert measures.distinct.tolist() == (sorted(set(values)) if wide else [])


@pytest.mark.parametrize("code", DTYPES)
def test_values_outside_the_rows_count_for_nothing(code: str) -> None:
    offsets, values = jagged([[2**30], [5], [], [-(2**30)]], code)
    lengths = np.empty(2, np.int32)
    measures = measure_lists(offsets, values, np.array([2, 1]), lengths)
    assert (measures.total, measures.low, measures.high) == (1, 5, 5)
    assert lengths.tolist() == [0, 1]
    empty = measure_lists(offsets, values, np.array([2]), lengths[:1])
    assert (empty.total, empty.low, empty.high) == (0, 0, 0)


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    offsets, values = jagged([[1, 2], [3]])
    for rows in (np.array([row]), np.array([0, 1, row]), np.array([row, 0])):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            list_changes(offsets, values, rows)
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            measure_lists(offsets, values, rows, np.empty(len(rows), np.int32))


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2]])
def test_offsets_that_leave_the_values_are_refused(offsets: list[int]) -> None:
    values, rows = np.zeros(3, np.int64), np.array([0])
    with pytest.raises(IndexError, match="leave 3 values"):
        list_changes(np.array(offsets), values, rows)
    with pytest.raises(IndexError, match="leave 3 values"):
        measure_lists(np.array(offsets), values, rows, np.empty(1, np.int32))


def test_lengths_of_another_size_are_refused() -> None:
    offsets, values = jagged([[1, 2], [3]])
    with pytest.raises(ValueError, match="room for 3 lengths, 2 rows"):
        measure_lists(offsets, values, np.array([0, 1]), np.empty(3, np.int32))


def test_a_list_longer_than_int32_is_refused() -> None:
    # Pages of zeros that nothing touches: the kernel refuses before it reads them.
    values = np.zeros(2**31, np.int64)
    with pytest.raises(OverflowError, match="Tail"):
        measure_lists(np.array([0, 2**31]), values, np.array([0]), np.empty(1, np.int32))
