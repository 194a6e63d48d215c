"""Copies of rows and of the ends of lists, in one pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out

MAX_LENGTH = 2**31 - 1

_DONE = 0
_ROW_OUTSIDE = -1
_LENGTH_OVERFLOW = -2
_TOTAL_WRONG = -3


@kernel(types.void(array(types.int64), types.int64, out(types.int64)))
def _tail_offsets(
    offsets: npt.NDArray[np.int64], count: int, tail_offsets: npt.NDArray[np.int64]
) -> None:
    total = 0
    tail_offsets[0] = 0
    for i in range(len(offsets) - 1):
        total += min(offsets[i + 1] - offsets[i], count)
        tail_offsets[i + 1] = total


@kernel(
    *(
        types.void(array(types.int64), array(word), array(types.int64), out(word))
        for word in (types.uint8, types.uint16, types.uint32, types.uint64)
    )
)
def _copy_tails(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.unsignedinteger],
    tail_offsets: npt.NDArray[np.int64],
    tails: npt.NDArray[np.unsignedinteger],
) -> None:
    for i in range(len(offsets) - 1):
        first = tail_offsets[i]
        length = tail_offsets[i + 1] - first
        start = offsets[i + 1] - length
        for j in range(length):
            tails[first + j] = values[start + j]


@kernel(types.int64(array(types.int64), array(types.int64)))
def _jagged_total(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    total = 0
    for i in range(len(rows)):
        row = rows[i]
        if row < 0 or row >= len(offsets) - 1:
            return _ROW_OUTSIDE
        total += offsets[row + 1] - offsets[row]
    return total


@kernel(
    types.int64(
        array(types.int64),
        array(types.int64),
        array(types.int64),
        out(types.int32),
        out(types.int64),
    )
)
def _gather_jagged(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    lengths_out: npt.NDArray[np.int32],
    values_out: npt.NDArray[np.int64],
) -> int:
    position = 0
    i = 0
    while i < len(rows):
        row = rows[i]
        if row < 0 or row >= len(offsets) - 1:
            return _ROW_OUTSIDE
        # Rows that follow each other in the source too are copied as one block.
        stop = i
        while stop < len(rows) and rows[stop] == row + (stop - i) and rows[stop] < len(offsets) - 1:
            length = offsets[rows[stop] + 1] - offsets[rows[stop]]
            if length > MAX_LENGTH:
                return _LENGTH_OVERFLOW
            lengths_out[stop] = length
            stop += 1
        start = offsets[row]
        size = offsets[row + (stop - i)] - start
        if size > len(values_out) - position:
            return _TOTAL_WRONG
        for j in range(size):
            values_out[position + j] = values[start + j]
        position += size
        i = stop
    return _DONE if position == len(values_out) else _TOTAL_WRONG


@kernel(types.int64(array(types.float32), array(types.int64), out(types.float32)))
def _gather_flat(
    values: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], result: npt.NDArray[np.float32]
) -> int:
    for i in range(len(rows)):
        row = rows[i]
        if row < 0 or row >= len(values):
            return _ROW_OUTSIDE
        result[i] = values[row]
    return _DONE


def tail(
    offsets: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """The offsets of lists cut to their last count elements, int64 [n + 1], from 0.

    offsets is int64 [n + 1], non-decreasing.
    """
    tail_offsets = np.empty(len(offsets), np.int64)
    _tail_offsets(np.ascontiguousarray(offsets), count, tail_offsets)
    return tail_offsets


def copy_tails(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.generic],
    tail_offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.generic]:
    """The ends of the lists values[offsets[i]:offsets[i + 1]] that tail() kept; same dtype.

    Any dtype of 1, 2, 4 or 8 bytes. Raises IndexError if the offsets leave values.
    """
    _check_lists(offsets, len(values))
    word = np.dtype(f"u{values.dtype.itemsize}")
    tails = np.empty(tail_offsets[-1], word)
    _copy_tails(
        np.ascontiguousarray(offsets), np.ascontiguousarray(values).view(word), tail_offsets, tails
    )
    return tails.view(values.dtype)


def jagged_total(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    """The summed lengths of the lists of the given rows. Raises IndexError for no such row."""
    total = _jagged_total(np.ascontiguousarray(offsets), np.ascontiguousarray(rows))
    if total < 0:
        raise _row_outside(rows, len(offsets) - 1)
    return total


def gather_jagged(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    lengths_out: npt.NDArray[np.int32],
    values_out: npt.NDArray[np.int64],
) -> None:
    """Copies the lists of the given rows, in their order, into two output arrays.

    offsets is int64 [n + 1], non-decreasing, within values int64; rows is int64 [k] in any order;
    lengths_out is int32 [k], values_out int64 [jagged_total(offsets, rows)]. Raises IndexError
    for a row that does not exist, OverflowError for a list of more than 2^31 - 1 elements,
    ValueError for outputs of another size.
    """
    _check_lists(offsets, len(values))
    if len(lengths_out) != len(rows):
        raise ValueError(f"{len(lengths_out)} lengths for {len(rows)} rows")
    status = _gather_jagged(
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(values),
        np.ascontiguousarray(rows),
        lengths_out,
        values_out,
    )
    if status == _ROW_OUTSIDE:
        raise _row_outside(rows, len(offsets) - 1)
    if status == _LENGTH_OVERFLOW:
        raise OverflowError("a list has more than 2^31 - 1 elements; cut it with Tail")
    if status == _TOTAL_WRONG:
        raise ValueError(f"the rows do not hold {len(values_out)} values")


def gather_flat(
    values: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
) -> None:
    """Copies values [n] at the given rows [k], in any order, into out [k].

    Raises IndexError for a row that does not exist, ValueError if out has another length.
    """
    if len(out) != len(rows):
        raise ValueError(f"room for {len(out)} values, {len(rows)} rows")
    if _gather_flat(np.ascontiguousarray(values), np.ascontiguousarray(rows), out) != _DONE:
        raise _row_outside(rows, len(values))


def _check_lists(offsets: npt.NDArray[np.int64], size: int) -> None:
    if offsets[0] < 0 or offsets[-1] > size:
        raise IndexError(f"offsets from {offsets[0]} to {offsets[-1]} leave {size} values")


def _row_outside(rows: npt.NDArray[np.int64], count: int) -> IndexError:
    return IndexError(f"rows from {rows.min()} to {rows.max()} leave a column of {count} rows")
