"""The copy kernels against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.kernels import (
    copy_tails,
    gather_flat,
    gather_jagged,
    jagged_total,
    tail,
)

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


@pytest.mark.parametrize("code", ["?", "i1", "u2", "f2", "i4", "f4", "u8", "f8"])
def test_tails_of_every_width(code: str) -> None:
    offsets, values = jagged([[1, 0, 1], [], [1], [0, 1]], code)
    tails = copy_tails(offsets, values, tail(offsets, 2))
    assert tails.dtype == values.dtype
    assert tails.tolist() == np.array([0, 1, 1, 0, 1], code).tolist()


@given(lists_of_lists.filter(bool), st.data())
def test_gather_jagged_copies_lists(lists: list[list[int]], data: st.DataObject) -> None:
    row = st.integers(0, len(lists) - 1)
    # Stretches of consecutive rows, which the kernel copies as blocks, among single ones.
    stretches = st.tuples(row, row).map(lambda pair: list(range(min(pair), max(pair) + 1)))
    drawn = data.draw(st.lists(stretches, max_size=4))
    rows = np.array([row for stretch in drawn for row in stretch], np.int64)
    offsets, values = jagged(lists)
    expected = [lists[i] for i in rows]
    total = jagged_total(offsets, rows)
    assert total == sum(map(len, expected))
    lengths_out = np.full(len(rows), -1, np.int32)
    values_out = np.zeros(total, np.int64)
    gather_jagged(offsets, values, rows, lengths_out, values_out)
    assert lengths_out.tolist() == [len(values) for values in expected]
    assert values_out.tolist() == [value for values in expected for value in values]


def test_gather_jagged_takes_read_only_arrays() -> None:
    offsets, values = jagged([[1, 2], [3]])
    rows = np.array([1, 0])
    for array in (offsets, values, rows):
        array.flags.writeable = False
    lengths_out, values_out = np.zeros(2, np.int32), np.zeros(3, np.int64)
    gather_jagged(offsets, values, rows, lengths_out, values_out)
    assert values_out.tolist() == [3, 1, 2]


@pytest.mark.parametrize("row", [-1, 2, 2**63 - 1, -(2**63)])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    offsets, values = jagged([[1, 2], [3]])
    for rows in (np.array([row]), np.array([0, 1, row])):
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            jagged_total(offsets, rows)
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            gather_jagged(offsets, values, rows, np.zeros(len(rows), np.int32), np.zeros(9, "i8"))
        with pytest.raises(IndexError, match="leave a column of 2 rows"):
            gather_flat(np.zeros(2, np.float32), rows, np.zeros(len(rows), np.float32))


@pytest.mark.parametrize("size", [0, 2, 4])
def test_outputs_of_another_size_are_refused(size: int) -> None:
    offsets, values = jagged([[1, 2], [3]])
    rows = np.array([0, 1])
    with pytest.raises(ValueError, match="do not hold"):
        gather_jagged(offsets, values, rows, np.zeros(2, np.int32), np.zeros(size, np.int64))
    with pytest.raises(ValueError, match="lengths for 2 rows"):
        gather_jagged(offsets, values, rows, np.zeros(3, np.int32), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="2 rows"):
        gather_flat(np.zeros(2, np.float32), rows, np.zeros(size + 1, np.float32)[: size - 1])


def test_a_list_longer_than_int32_is_refused() -> None:
    offsets = np.array([0, 2**31])
    # Pages of zeros that nothing touches: the kernel refuses before it copies.
    values = np.zeros(2**31, np.int64)
    with pytest.raises(OverflowError, match="Tail"):
        gather_jagged(offsets, values, np.array([0]), np.zeros(1, np.int32), np.zeros(1, "i8"))


@given(st.lists(st.floats(width=32), min_size=1), st.data())
def test_gather_flat_copies_values(values: list[float], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1)))
    source = np.array(values, np.float32)
    out = np.zeros(len(rows), np.float32)
    gather_flat(source, np.array(rows, np.int64), out)
    assert out.tobytes() == source[np.array(rows, np.int64)].tobytes()
