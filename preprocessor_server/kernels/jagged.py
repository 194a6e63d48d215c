"""Copies of lists, and of their ends, in one pass."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out
from preprocessor_server.kernels.changes import check_lists, row_outside

_ROW_OUTSIDE = -1

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


@kernel(types.int64(array(types.int64), array(types.int64), out(types.int64)))
def _take_offsets(
    offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], new_offsets: npt.NDArray[np.int64]
) -> int:
    """The elements of the rows' lists in all."""
    count = np.uint64(len(offsets) - 1)
    total = 0
    new_offsets[0] = 0
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= count:
            return _ROW_OUTSIDE
        total += offsets[row + _1] - offsets[row]
        new_offsets[i + _1] = total
    return total


@kernel(
    *(
        types.void(
            array(types.int64), array(word), array(types.int64), array(types.int64), out(word)
        )
        for word in (types.uint8, types.uint16, types.uint32, types.uint64)
    )
)
def _copy_lists(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    new_offsets: npt.NDArray[np.int64],
    copied: npt.NDArray[np.unsignedinteger],
) -> None:
    i = _0
    count = np.uint64(len(rows))
    while i < count:
        # Rows that follow each other in the source too are copied as one block.
        first = np.uint64(rows[i])
        to = np.uint64(new_offsets[i])
        last = first + _1
        i += _1
        while i < count and np.uint64(rows[i]) == last:
            last += _1
            i += _1
        start = np.uint64(offsets[first])
        for j in range(np.uint64(offsets[last]) - start):
            copied[to + j] = values[start + j]


@kernel(
    *(
        types.void(array(types.bool_), array(word), out(types.int64), out(word))
        for word in (types.uint32, types.uint64)
    )
)
def _keep_valid(
    valid: npt.NDArray[np.bool_],
    values: npt.NDArray[np.unsignedinteger],
    offsets: npt.NDArray[np.int64],
    kept: npt.NDArray[np.unsignedinteger],
) -> None:
    k = _0
    offsets[0] = 0
    for i in range(np.uint64(len(valid))):
        # Whatever it is, the next one that is kept takes its place: no branch to guess.
        kept[k] = values[i]
        k += np.uint64(valid[i])
        offsets[i + _1] = np.int64(k)


def keep_valid(
    valid: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.generic]]:
    """A list a value, empty where it is not valid: offsets int64 [n + 1], and the valid values.

    valid is bool [n], values [n] of a dtype of 4 or 8 bytes. Raises ValueError if they are not as
    many.
    """
    if len(valid) != len(values):
        raise ValueError(f"{len(valid)} marks for {len(values)} values")
    offsets = np.empty(len(valid) + 1, np.int64)
    word = np.dtype(f"u{values.dtype.itemsize}")
    kept = np.empty(len(valid), word)
    _keep_valid(np.ascontiguousarray(valid), np.ascontiguousarray(values).view(word), offsets, kept)
    # A copy, so that what is left out takes up no memory.
    return offsets, kept[: offsets[-1]].copy().view(values.dtype)


def take_lists(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.generic], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.generic]]:
    """The lists of the given rows, in their order: offsets int64 [k + 1] and values.

    The lists are values[offsets[i]:offsets[i + 1]], of a dtype of 1, 2, 4 or 8 bytes; rows is
    int64 [k] in any order. Raises IndexError for a row that does not exist.
    """
    check_lists(offsets, len(values))
    offsets, rows = np.ascontiguousarray(offsets), np.ascontiguousarray(rows)
    new_offsets = np.empty(len(rows) + 1, np.int64)
    size = _take_offsets(offsets, rows, new_offsets)
    if size == _ROW_OUTSIDE:
        raise row_outside(rows, len(offsets) - 1)
    word = np.dtype(f"u{values.dtype.itemsize}")
    copied = np.empty(size, word)
    _copy_lists(offsets, np.ascontiguousarray(values).view(word), rows, new_offsets, copied)
    return new_offsets, copied.view(values.dtype)


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
    check_lists(offsets, len(values))
    word = np.dtype(f"u{values.dtype.itemsize}")
    tails = np.empty(tail_offsets[-1], word)
    _copy_tails(
        np.ascontiguousarray(offsets), np.ascontiguousarray(values).view(word), tail_offsets, tails
    )
    return tails.view(values.dtype)
