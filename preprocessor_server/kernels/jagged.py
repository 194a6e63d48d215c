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

# Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
# LLVM from copying in blocks.
_0 = np.uint64(0)
_1 = np.uint64(1)


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
        length = np.uint64(tail_offsets[i + 1] - tail_offsets[i])
        first = np.uint64(tail_offsets[i])
        start = np.uint64(offsets[i + 1]) - length
        for j in range(length):
            tails[first + j] = values[start + j]


@kernel(types.int64(array(types.int64), array(types.int64)))
def _jagged_total(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    count = np.uint64(len(offsets) - 1)
    total = 0
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= count:
            return _ROW_OUTSIDE
        total += offsets[row + _1] - offsets[row]
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
    count = np.uint64(len(offsets) - 1)
    row_count = np.uint64(len(rows))
    room = np.uint64(len(values_out))
    position = _0
    i = _0
    while i < row_count:
        # A negative row becomes one far outside.
        first = np.uint64(rows[i])
        last = first
        start = offsets[first] if first < count else 0
        end = start
        # Rows that follow each other in the source too are copied as one block.
        while True:
            if last >= count:
                return _ROW_OUTSIDE
            length = offsets[last + _1] - end
            if length > MAX_LENGTH:
                return _LENGTH_OVERFLOW
            lengths_out[i] = length
            end += length
            last += _1
            i += _1
            if i == row_count or np.uint64(rows[i]) != last:
                break
        size = np.uint64(end - start)
        if size > room - position:
            return _TOTAL_WRONG
        source = np.uint64(start)
        if size == _1:
            values_out[position] = values[source]
        else:
            for j in range(size):
                values_out[position + j] = values[source + j]
        position += size
    return _DONE if position == room else _TOTAL_WRONG


@kernel(types.int64(array(types.float32), array(types.int64), out(types.float32)))
def _gather_flat(
    values: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], result: npt.NDArray[np.float32]
) -> int:
    count = np.uint64(len(values))
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= count:
            return _ROW_OUTSIDE
        result[i] = values[row]
    return _DONE


def tail(offsets: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
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
