"""Positions of a window and cursors are each other's inverse, over Parquet rows of any length."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.window import place_of, position_of, rows_in_order

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def starts_of(lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return rows_in_order(np.array(lengths, np.int64), None)[1]


@given(lengths=LENGTHS)
def test_every_position_has_one_cursor_and_every_cursor_one_position(lengths: list[int]) -> None:
    starts = starts_of(lengths)
    places = [place_of(starts, position) for position in range(sum(lengths))]
    assert places == [(row, offset) for row, n in enumerate(lengths) for offset in range(n)]
    assert [position_of(starts, *place) for place in places] == list(range(sum(lengths)))


@given(lengths=LENGTHS)
def test_offsets_beyond_a_parquet_row_have_no_position(lengths: list[int]) -> None:
    starts = starts_of(lengths)
    for row, length in enumerate(lengths):
        assert position_of(starts, row, 0) == sum(lengths[:row])
        for offset in {max(length, 1), length + 1, 1 << 40}:
            assert position_of(starts, row, offset) is None


def test_where_parquet_rows_are_rows_positions_count_them() -> None:
    assert place_of(None, 7) == (7, 0)
    assert position_of(None, 7, 0) == 7


@given(lengths=LENGTHS, data=st.data())
def test_rows_follow_their_parquet_rows(lengths: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(lengths))))
    rows, starts = rows_in_order(np.array(lengths, np.int64), np.array(order, np.int64))
    first = [0, *itertools.accumulate(lengths)]
    assert rows is not None
    assert rows.tolist() == [row for k in order for row in range(first[k], first[k + 1])]
    assert starts.tolist() == [0, *itertools.accumulate(lengths[k] for k in order)]


@pytest.mark.parametrize("lengths", [[0], [0, 0]])
def test_a_window_without_rows(lengths: list[int]) -> None:
    rows, starts = rows_in_order(np.array(lengths), np.arange(len(lengths)))
    assert rows is not None
    assert rows.tolist() == []
    assert starts.tolist() == [0] * (len(lengths) + 1)
