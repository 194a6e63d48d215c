"""Rows of columns and of runs against numpy and plain Python."""

from __future__ import annotations

from itertools import chain, groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from preprocessor_server.kernels import (
    Columns,
    ListColumns,
    OptionalColumns,
    ids_of_lists,
    ids_of_valid,
    lists_of_ids,
    run_rows,
    take_into,
)

OUTSIDE = [-1, 2, 2**63 - 1, -(2**63)]

rows_of_ten = st.lists(st.integers(0, 9), max_size=30)


def bits(values: npt.NDArray[Any]) -> list[bytes]:
    return [row.tobytes() for row in values]


@given(st.sampled_from(["i4", "i8", "f4"]), st.integers(1, 5), rows_of_ten, st.data())
def test_columns_are_gathered_bit_by_bit(
    code: str, count: int, rows: list[int], data: st.DataObject
) -> None:
    columns = [data.draw(hnp.arrays(code, 10), label="column") for _ in range(count)]
    for column in columns:
        column.flags.writeable = False
    gathered = Columns(columns).gather(np.array(rows, np.int64)).values
    assert gathered.dtype == columns[0].dtype
    assert gathered.shape == (count, len(rows))
    assert bits(gathered) == bits(np.array([column[rows] for column in columns]))


@given(st.sampled_from(["i4", "i8", "f4"]), st.permutations(range(6)), rows_of_ten)
def test_columns_are_gathered_into_places_of_a_matrix(
    code: str, places: list[int], rows: list[int]
) -> None:
    whole = np.arange(60).astype(code).reshape(6, 10)
    matrix = np.full((6, len(rows)), -1, code)
    for of_level in (places[:4], places[5:]):
        columns = Columns([whole[place] for place in of_level])
        columns.gather_into(np.array(rows, np.int64), matrix, of_level)
    whole[places[4]] = -1
    assert bits(matrix) == bits(whole[:, rows])


@pytest.mark.parametrize("places", [[0], [0, 1, 2], [0, 2], [-1, 0]])
def test_places_that_a_matrix_lacks_are_refused(places: list[int]) -> None:
    columns = Columns([np.zeros(3, np.int32)] * 2)
    with pytest.raises(ValueError, match="2 columns of int32"):
        columns.gather_into(np.arange(3), np.empty((2, 3), np.int32), places)
    for other in (np.empty((2, 2), np.int32), np.empty((2, 3), np.int64)):
        with pytest.raises(ValueError, match="2 columns of int32"):
            columns.gather_into(np.arange(3), other, [0, 1])


def test_columns_and_rows_of_any_strides() -> None:
    values, rows = np.arange(20, dtype=np.int32), np.arange(10)
    gathered = Columns([values[::2], values[::-2]]).gather(rows[::-3]).values
    assert gathered.tolist() == [[18, 12, 6, 0], [1, 7, 13, 19]]


@pytest.mark.parametrize("code", ["i4", "i8", "f4"])
def test_no_rows(code: str) -> None:
    none = np.empty(0, np.int64)
    for size in (0, 2):
        assert Columns([np.zeros(size, code)] * 3).gather(none, 1).values.shape == (3, 0)
    with pytest.raises(IndexError, match="leave a column of 0 rows"):
        Columns([np.empty(0, code)]).gather(np.array([0]))


@pytest.mark.parametrize("row", OUTSIDE)
@pytest.mark.parametrize("code", ["i4", "i8", "f4"])
def test_rows_that_no_column_has_are_refused(code: str, row: int) -> None:
    columns = [np.zeros(2, code), np.ones(2, code)]
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            Columns(columns).gather(np.array(rows))


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (3, 3, 0)])
def test_columns_of_several_lengths_are_refused(sizes: tuple[int, ...]) -> None:
    columns = [np.zeros(size, np.int32) for size in sizes]
    with pytest.raises(ValueError, match="several lengths"):
        Columns(columns)
    with pytest.raises(ValueError, match="several lengths"):
        ListColumns([(np.zeros(size, np.int64), np.empty(0, np.int32)) for size in sizes])


def test_columns_of_several_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths or dtypes"):
        Columns([np.zeros(2, np.int32), np.zeros(2, np.int64)])


def changes_of(values: list[Any]) -> list[bool]:
    return [i == 0 or values[i] != values[i - 1] for i in range(len(values))]


@given(
    st.sampled_from(["i4", "i8"]),
    st.lists(st.lists(st.sampled_from([0, 1, -1]), min_size=10, max_size=10), max_size=4),
    rows_of_ten,
    st.integers(0, 12),
)
def test_changes_are_counted_and_shown_where_they_are_few(
    code: str, columns: list[list[int]], rows: list[int], limit: int
) -> None:
    # Numbers that differ in their highest bits only, too.
    high = int(np.iinfo(code).min)
    columns = [[each if each != -1 else high for each in column] for column in [*columns, [0] * 10]]
    held = [np.array(column, code) for column in columns]
    gathered = Columns(held).gather(np.array(rows, np.int64), limit)
    expected = [changes_of([column[row] for row in rows]) for column in columns]
    assert gathered.changed.tolist() == [sum(changes) for changes in expected]
    for found, changes in zip(gathered.changes.tolist(), expected, strict=True):
        if sum(changes) <= limit:
            assert found == changes


lists_of_ten = st.sampled_from([0, 1, 2, 40]).flatmap(
    lambda longest: st.lists(
        st.lists(st.integers(0, 1), max_size=longest), min_size=10, max_size=10
    )
)


# In their lowest bit, ids of 32 bits are none that is negative.
shifts = st.sampled_from([0, 31])


@given(
    st.lists(st.tuples(st.sampled_from(["i4", "i8"]), shifts, lists_of_ten), min_size=1),
    rows_of_ten,
)
def test_lists_are_gathered_with_their_changes(
    columns: list[tuple[str, int, list[list[int]]]], rows: list[int]
) -> None:
    high = [[[each << shift for each in row] for row in lists] for _, shift, lists in columns]
    held = []
    for (code, *_), lists in zip(columns, high, strict=True):
        # The lists are a part of larger arrays.
        offsets = np.cumsum([3, *map(len, lists)])
        values = np.array([7, 7, 7, *chain(*lists), 7]).astype(code)
        offsets.flags.writeable = values.flags.writeable = False
        held.append((offsets, values))
    gathered = ListColumns(held).gather(np.array(rows, np.int64))
    for f, lists in enumerate(high):
        wanted = [lists[row] for row in rows]
        dtype = held[f][1].dtype
        expected = np.array([*chain(*wanted)], np.int64).astype(dtype)
        assert gathered.values[f].dtype == dtype
        assert gathered.values[f].tolist() == expected.tolist()
        assert gathered.offsets[f].tolist() == [0, *np.cumsum([*map(len, wanted)]).tolist()]
        assert gathered.changes[f].tolist() == changes_of(wanted)
        assert gathered.changed[f] == sum(changes_of(wanted))


def test_lists_that_differ_in_their_last_element_only() -> None:
    for size in (1, 15, 16, 17, 33):
        values = np.zeros(3 * size, np.int64)
        values[-1] = 1 << 40
        lists = ListColumns([(np.arange(4) * size, values)])
        assert lists.gather(np.arange(3)).changes.tolist() == [[True, False, True]]


@pytest.mark.parametrize("row", OUTSIDE)
def test_rows_that_no_list_has_are_refused(row: int) -> None:
    lists = ListColumns([(np.array([0, 1, 1]), np.zeros(1, np.int32))] * 2)
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            lists.gather(np.array(rows))


@pytest.mark.parametrize("dtype", ["i4", "i8"])
@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [0, 5, 3, 3], [0, -1, 2, 3], [0, 1, 0, 1]])
def test_offsets_that_decrease_are_refused(offsets: list[int], dtype: str) -> None:
    lists = ListColumns([(np.array(offsets), np.zeros(3, dtype))])
    with pytest.raises(IndexError, match="decrease, or leave"):
        lists.gather(np.arange(3))


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2]])
def test_lists_outside_their_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(IndexError, match="leave 3 values"):
        ListColumns([(np.array(offsets), np.zeros(3, np.int64))])


@given(st.lists(st.integers(0, 3), min_size=10, max_size=10), rows_of_ten)
def test_runs_of_rows(inverse: list[int], rows: list[int]) -> None:
    found = run_rows(np.array(inverse, np.int32), np.array(rows, np.int64))
    groups = [list(group) for _, group in groupby(range(len(rows)), lambda i: inverse[rows[i]])]
    assert found.runs.tolist() == [inverse[rows[group[0]]] for group in groups]
    assert found.firsts.tolist() == [group[0] for group in groups]
    assert found.run_of_row.tolist() == [run for run, group in enumerate(groups) for _ in group]
    assert {part.dtype for part in found} == {np.dtype(np.int64)}


def test_runs_of_read_only_rows_of_any_strides() -> None:
    inverse, rows = np.array([0, 9, 0, 9, 1, 9], np.int32)[::2], np.arange(6)[::-1][::2] // 2
    inverse.flags.writeable = rows.flags.writeable = False
    found = run_rows(inverse, rows)
    assert [part.tolist() for part in found] == [[1, 0], [0, 1], [0, 1, 1]]


@pytest.mark.parametrize("row", OUTSIDE)
def test_rows_that_no_run_has_are_refused(row: int) -> None:
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            run_rows(np.array([0, 0], np.int32), np.array(rows))


optional_id = st.none() | st.sampled_from([0, 1, 1, 7, 2**31 - 1])


def jagged(lists: list[list[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The lists, as a part of larger arrays."""
    values = np.array([5, *chain(*lists), 5], np.int64).astype(np.int32)
    return np.cumsum([1, *map(len, lists)]), values


def listed(ids: list[int | None]) -> list[list[int]]:
    return [[] if each is None else [each] for each in ids]


@given(st.lists(optional_id, max_size=20))
def test_lists_of_at_most_one_id_are_a_number_a_row(ids: list[int | None]) -> None:
    numbers = [-1 if each is None else each for each in ids]
    found = ids_of_lists(*jagged(listed(ids)))
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == numbers
    valid = np.array([each is not None for each in ids], np.bool_)
    # What stands where there is no id may be anything.
    values = np.array([-9 if each is None else each for each in ids], np.int32)
    again = ids_of_valid(valid, values)
    assert again is not None
    assert again.tolist() == numbers
    offsets, kept = lists_of_ids(found)
    assert offsets.tolist() == [0, *np.cumsum(valid).tolist()]
    assert kept.dtype == np.int32
    assert kept.tolist() == [each for each in ids if each is not None]


@pytest.mark.parametrize("lists", [[[1], [2, 3], []], [[1], [], [-1]], [[-(2**31)]]])
def test_several_ids_and_negative_ones_stay_lists(lists: list[list[int]]) -> None:
    assert ids_of_lists(*jagged(lists)) is None


def test_negative_ids_are_no_optional_ones() -> None:
    assert ids_of_valid(np.array([True, True]), np.array([0, -1], np.int32)) is None
    with pytest.raises(IndexError, match="2 marks for 1 values"):
        ids_of_valid(np.array([True, True]), np.zeros(1, np.int32))
    with pytest.raises(IndexError, match="leave 1 values"):
        ids_of_lists(np.array([0, 2]), np.zeros(1, np.int32))


@given(
    st.lists(st.lists(optional_id, min_size=10, max_size=10), min_size=1, max_size=5),
    rows_of_ten,
)
def test_optional_ids_are_gathered_as_lists_are(
    columns: list[list[int | None]], rows: list[int]
) -> None:
    ids = [np.array([-1 if x is None else x for x in each], np.int32) for each in columns]
    wanted = np.array(rows, np.int64)
    found = OptionalColumns(ids).gather(wanted)
    expected = ListColumns([jagged(listed(each)) for each in columns]).gather(wanted)
    assert found.lengths.tolist() == np.diff(expected.offsets).tolist()
    assert [each.tolist() for each in found.values] == [x.tolist() for x in expected.values]
    assert found.changes.tolist() == expected.changes.tolist()
    assert found.changed.tolist() == expected.changed.tolist()


@pytest.mark.parametrize("row", OUTSIDE)
def test_rows_that_have_no_optional_ids_are_refused(row: int) -> None:
    with pytest.raises(IndexError, match="leave a column of 2 rows"):
        OptionalColumns([np.zeros(2, np.int32)] * 2).gather(np.array([0, row]))
    with pytest.raises(ValueError, match="several lengths"):
        OptionalColumns([np.zeros(2, np.int32), np.zeros(3, np.int32)])
    with pytest.raises(ValueError, match="not int32"):
        OptionalColumns([np.zeros(2, np.int32), np.zeros(2)])  # type: ignore[list-item]


@given(st.sampled_from(["i4", "f4", "i8", "f8"]), st.integers(1, 5), rows_of_ten, rows_of_ten)
def test_rows_are_taken_into_a_matrix_one_part_after_the_other(
    code: str, count: int, rows: list[int], more: list[int]
) -> None:
    parts = [np.arange(10 * count).reshape(count, 10).astype(code) + each for each in (0, 100)]
    taken = np.zeros((count, len(rows) + len(more)), code)
    take_into(list(parts[0]), np.array(rows, np.int64), taken, 0)
    take_into(list(parts[1]), np.array(more, np.int64), taken, len(rows))
    expected = np.concatenate([parts[0][:, rows], parts[1][:, more]], axis=1)
    assert bits(taken) == bits(expected)


def test_rows_that_do_not_fit_a_matrix_are_refused() -> None:
    columns, rows = [np.zeros(2), np.zeros(2)], np.arange(2)
    for matrix, first in (
        (np.zeros((1, 2)), 0),
        (np.zeros((2, 2)), 1),
        (np.zeros((2, 2)), -1),
        (np.zeros((2, 1)), 0),
        (np.zeros((2, 2), np.float32), 0),
    ):
        with pytest.raises(ValueError, match="columns"):
            take_into(columns, rows, matrix, first)
    with pytest.raises(ValueError, match="several"):
        take_into([np.zeros(2), np.zeros(3)], rows, np.zeros((2, 2)), 0)


@pytest.mark.parametrize("row", OUTSIDE)
def test_rows_outside_are_not_taken(row: int) -> None:
    with pytest.raises(IndexError, match="leave a column of 2 rows"):
        take_into([np.zeros(2)] * 2, np.array([0, row]), np.zeros((2, 2)), 0)
