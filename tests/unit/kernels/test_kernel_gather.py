"""Rows of columns and of runs against numpy and plain Python."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from preprocessor_server.kernels import gather_columns, run_rows

OUTSIDE = [-1, 2, 2**63 - 1, -(2**63)]

rows_of_ten = st.lists(st.integers(0, 9), max_size=30)


def bits(values: npt.NDArray[Any]) -> list[bytes]:
    return [row.tobytes() for row in values]


@given(
    st.sampled_from([["i4"], ["i8"], ["f4"], ["i4", "i8"]]),
    st.integers(1, 5),
    rows_of_ten,
    st.data(),
)
def test_columns_are_gathered_bit_by_bit(
    codes: list[str], count: int, rows: list[int], data: st.DataObject
) -> None:
    columns = [
        data.draw(hnp.arrays(data.draw(st.sampled_from(codes)), 10), label="column")
        for _ in range(count)
    ]
    for column in columns:
        column.flags.writeable = False
    gathered = gather_columns(columns, np.array(rows, np.int64))
    widest = max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)
    assert gathered.dtype == widest
    assert gathered.shape == (count, len(rows))
    assert bits(gathered) == bits(np.array([column.astype(widest)[rows] for column in columns]))


def test_narrow_columns_keep_their_sign() -> None:
    narrow = np.array([-(2**31), -1, 2**31 - 1], np.int32)
    wide = np.array([-(2**63), 2**63 - 1, 0])
    for columns in ([narrow, wide], [wide, narrow], [narrow, wide, narrow]):
        gathered = gather_columns(columns, np.array([2, 0, 1, 0]))
        assert gathered.dtype == np.int64
        assert gathered.tolist() == [column[[2, 0, 1, 0]].tolist() for column in columns]


def test_columns_and_rows_of_any_strides() -> None:
    values, rows = np.arange(20, dtype=np.int32), np.arange(10)
    gathered = gather_columns([values[::2], values[::-2]], rows[::-3])
    assert gathered.tolist() == [[18, 12, 6, 0], [1, 7, 13, 19]]


@pytest.mark.parametrize("code", ["i4", "i8", "f4"])
def test_no_rows(code: str) -> None:
    none = np.empty(0, np.int64)
    for size in (0, 2):
        assert gather_columns([np.zeros(size, code)] * 3, none).shape == (3, 0)
    with pytest.raises(IndexError, match="leave a column of 0 rows"):
        gather_columns([np.empty(0, code)], np.array([0]))


@pytest.mark.parametrize("row", OUTSIDE)
@pytest.mark.parametrize("code", ["i4", "i8", "f4"])
def test_rows_that_no_column_has_are_refused(code: str, row: int) -> None:
    columns = [np.zeros(2, code), np.ones(2, code)]
    for rows in ([row], [0, 1, row], [row, 0]):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            gather_columns(columns, np.array(rows))


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (3, 3, 0)])
def test_columns_of_several_lengths_are_refused(sizes: tuple[int, ...]) -> None:
    columns = [np.zeros(size, np.int32) for size in sizes]
    with pytest.raises(ValueError, match="several lengths"):
        gather_columns(columns, np.array([0]))


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
