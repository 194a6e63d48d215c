"""Rows of many columns, gathered in one call, and rows of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out, out2d
from preprocessor_server.kernels._memory import (
    addresses_of,
    carray,
    copy_bytes,
    pointer,
    prefetch,
)
from preprocessor_server.kernels.changes import row_outside

_DONE = 0
_ROW_OUTSIDE = -1
# Rows are scattered, and many columns: their values should lie side by side.
_SCATTERED = 1
_MANY = 4
# Rows that go from columns to rows, or back, at once: all their values stay in the nearest cache.
_TILE = 64

_0 = np.uint64(0)
_1 = np.uint64(1)
# So far ahead a row is brought near: a copy of unknown length lets no processor look past it.
_AHEAD = np.uint64(8)
_LINE_BYTES = np.uint64(64)


@inner
def _changes(
    values: npt.NDArray[np.unsignedinteger], limit: int, changes: npt.NDArray[np.bool_]
) -> int:
    """How many values differ from the one before; which ones, if they are at most limit."""
    size = np.uint64(len(values))
    total = min(1, len(values))
    for i in range(_1, size):
        total += values[i] != values[i - _1]
    if size and total <= limit:
        changes[0] = True
        for i in range(_1, size):
            changes[i] = values[i] != values[i - _1]
    return total


@kernel(*(types.void(array(types.int64), out2d(word)) for word in (types.uint32, types.uint64)))
def pack(addresses: npt.NDArray[np.int64], packed: npt.NDArray[np.unsignedinteger]) -> None:
    """Has the values of a row of all columns side by side, packed [count, columns]."""
    count, step = np.uint64(len(packed)), np.uint64(_TILE)
    for start in range(_0, count, step):
        end = min(count, start + step)
        for f in range(np.uint64(len(addresses))):
            column = carray(pointer(addresses[f]), len(packed), packed.dtype)
            for i in range(start, end):
                packed[i, f] = column[i]


@inner
def _unpack(
    packed: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    gathered: npt.NDArray[np.unsignedinteger],
) -> None:
    size, columns, step = np.uint64(len(rows)), np.uint64(packed.shape[1]), np.uint64(_TILE)
    tile = np.empty((_TILE, packed.shape[1]), packed.dtype)
    from_, row_bytes = np.uint64(packed.ctypes.data), np.uint64(packed.itemsize) * columns
    for start in range(_0, size, step):
        taken = min(size - start, step)
        for j in range(taken):
            row = np.uint64(rows[start + j])
            if start + j + _AHEAD < size:
                ahead = from_ + row_bytes * np.uint64(rows[start + j + _AHEAD])
                for line in range(_0, row_bytes, _LINE_BYTES):
                    prefetch(ahead + line)
                prefetch(ahead + row_bytes - _1)
            for c in range(columns):
                tile[j, c] = packed[row, c]
        for c in range(columns):
            column = gathered[places[c]]
            for j in range(taken):
                column[start + j] = tile[j, c]


@inner
def _blocks(
    rows: npt.NDArray[np.int64],
    above: np.uint64,
    firsts: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.uint64],
) -> int:
    """How many stretches of rows follow each other: [start, end) from first on."""
    size = np.uint64(len(rows))
    blocks = 0
    for i in range(size):
        row = np.uint64(rows[i])
        if row >= above:
            return _ROW_OUTSIDE
        if i == _0 or row != np.uint64(rows[i - _1]) + _1:
            firsts[blocks] = row
            starts[blocks] = i
            blocks += 1
    starts[blocks] = size
    return blocks


@kernel(
    *(
        types.int64(
            array(types.int64),
            types.int64,
            array2d(word),
            array(types.int64),
            types.int64,
            array(types.int64),
            out2d(word),
            out(types.int64),
            out2d(types.bool_),
        )
        for word in (types.uint32, types.uint64)
    )
)
def _gather(
    addresses: npt.NDArray[np.int64],
    count: int,
    packed: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    limit: int,
    places: npt.NDArray[np.int64],
    gathered: npt.NDArray[np.unsignedinteger],
    changed: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> int:
    # Stretches of rows that follow each other are copied as blocks.
    firsts = np.empty(len(rows), np.uint64)
    starts = np.empty(len(rows) + 1, np.uint64)
    size = np.uint64(len(rows))
    blocks = _blocks(rows, np.uint64(count), firsts, starts)
    if blocks == _ROW_OUTSIDE:
        return _ROW_OUTSIDE
    scattered = 4 * blocks > len(rows)
    if scattered and len(packed):
        _unpack(packed, rows, places, gathered)
    elif scattered and len(addresses) >= _MANY:
        return _SCATTERED
    width = np.uint64(gathered.itemsize)
    for f in range(len(addresses)):
        values = gathered[places[f]]
        from_, to = np.uint64(addresses[f]), np.uint64(values.ctypes.data)
        column = carray(pointer(addresses[f]), count, gathered.dtype)
        if not scattered:
            for b in range(np.uint64(blocks)):
                if b + _AHEAD < np.uint64(blocks):
                    ahead = from_ + width * firsts[b + _AHEAD]
                    prefetch(ahead)
                    prefetch(ahead + _LINE_BYTES - _1)
                copy_bytes(
                    to + width * starts[b],
                    from_ + width * firsts[b],
                    width * (starts[b + _1] - starts[b]),
                )
        elif not len(packed):
            for i in range(size):
                values[i] = column[np.uint64(rows[i])]
        if limit >= 0:
            changed[f] = _changes(values, limit, changes[f])
    return _DONE


@kernel(
    *(
        types.int64(array(types.int64), types.int64, array(types.int64), types.int64, out2d(word))
        for word in (types.uint32, types.uint64)
    )
)
def _take_into(
    addresses: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    first: int,
    taken: npt.NDArray[np.unsignedinteger],
) -> int:
    size = np.uint64(len(rows))
    for i in range(size):
        if np.uint64(rows[i]) >= np.uint64(count):
            return _ROW_OUTSIDE
    for f in range(len(addresses)):
        column = carray(pointer(addresses[f]), count, taken.dtype)
        values = taken[f][first:]
        for i in range(size):
            values[i] = column[np.uint64(rows[i])]
    return _DONE


@kernel(
    types.int64(
        array(types.int32),
        array(types.int64),
        out(types.int64),
        out(types.int64),
        out(types.int64),
    )
)
def _run_rows(
    inverse: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    runs: npt.NDArray[np.int64],
    firsts: npt.NDArray[np.int64],
    run_of_row: npt.NDArray[np.int64],
) -> int:
    limit = np.uint64(len(inverse))
    count = 0
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= limit:
            return _ROW_OUTSIDE
        run = np.int64(inverse[row])
        if count == 0 or run != runs[count - 1]:
            runs[count] = run
            firsts[count] = i
            count += 1
        run_of_row[i] = count - 1
    return count


class RunRows(NamedTuple):
    """The runs of some rows, int64: the runs' numbers and first rows [k], and each row's place."""

    runs: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    run_of_row: npt.NDArray[np.int64]


class Gathered(NamedTuple):
    """Values of some rows [columns, k], and where they differ from those of the row before.

    changed int64 [columns] counts the rows whose value differs, with the first one. changes bool
    [columns, k] says which they are; it is unspecified for columns where they are too many.
    """

    values: npt.NDArray[Any]
    changed: npt.NDArray[np.int64]
    changes: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, init=False)
class Columns:
    """Columns of count values each, of one dtype of 4 or 8 bytes, as gather takes them.

    Where scattered rows are taken of many columns, packed [count, columns] comes to have a row's
    values side by side: one cache line or two for all of them, not one for each.
    """

    count: int
    dtype: np.dtype[Any]
    packed: npt.NDArray[Any]
    addresses: npt.NDArray[np.int64]
    # Kept for as long as the addresses are.
    held: tuple[npt.NDArray[Any], ...]

    def __init__(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Raises ValueError for columns of several lengths or dtypes, or none."""
        if len({(len(column), column.dtype) for column in columns}) != 1:
            raise ValueError("columns of several lengths or dtypes")
        dtype = columns[0].dtype
        held = [np.ascontiguousarray(column) for column in columns]
        object.__setattr__(self, "count", len(held[0]))
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "packed", np.empty((0, 0), f"u{dtype.itemsize}"))
        object.__setattr__(self, "addresses", addresses_of(held))
        object.__setattr__(self, "held", tuple(held))

    def gather(self, rows: npt.NDArray[np.int64], limit: int = -1) -> Gathered:
        """The values of the given rows [k], in that order.

        changes is filled for columns with at most limit of them; a negative limit leaves changed
        out too. Raises IndexError for a row that does not exist.
        """
        count = len(self.addresses)
        values = np.empty((count, len(rows)), self.dtype)
        changed = np.empty(count, np.int64)
        changes = np.empty(values.shape if limit >= 0 else (0, 0), np.bool_)
        self._gather(rows, limit, np.arange(count), values, changed, changes)
        return Gathered(values, changed, changes)

    def gather_into(
        self, rows: npt.NDArray[np.int64], matrix: npt.NDArray[Any], places: Sequence[int]
    ) -> None:
        """Writes the values of the given rows [k] to matrix [n, k]: column f to its row places[f].

        Raises ValueError for a matrix that they do not fit, IndexError for a row that does not
        exist.
        """
        count, below = len(self.addresses), len(matrix)
        fits = matrix.shape[1:] == rows.shape and matrix.dtype == self.dtype
        if not fits or len(places) != count or not all(0 <= place < below for place in places):
            raise ValueError(f"{count} columns of {self.dtype} to {list(places)} of other rows")
        nothing = np.empty(0, np.int64), np.empty((0, 0), np.bool_)
        self._gather(rows, -1, np.array(places, np.int64), matrix, *nothing)

    def _gather(
        self,
        rows: npt.NDArray[np.int64],
        limit: int,
        places: npt.NDArray[np.int64],
        values: npt.NDArray[Any],
        changed: npt.NDArray[np.int64],
        changes: npt.NDArray[np.bool_],
    ) -> None:
        words = values.view(self.packed.dtype)
        rows = np.ascontiguousarray(rows)
        status = _SCATTERED
        while status == _SCATTERED:
            packed, addresses = self.packed, self.addresses
            to = places, words, changed, changes
            status = _gather(addresses, self.count, packed, rows, limit, *to)
            if status == _SCATTERED:
                packed = np.empty((self.count, len(addresses)), packed.dtype)
                pack(addresses, packed)
                object.__setattr__(self, "packed", packed)
        if status != _DONE:
            raise row_outside(rows, self.count)


def take_into(
    columns: Sequence[npt.NDArray[Any]],
    rows: npt.NDArray[np.int64],
    taken: npt.NDArray[Any],
    first: int,
) -> None:
    """Writes the values of the given rows [k] of columns to taken [columns, n], from first on.

    All are of one dtype of 4 or 8 bytes. Once and for few rows: nothing is packed. Raises
    ValueError for columns that differ or do not fit, IndexError for a row that does not exist.
    """
    if {(len(column), column.dtype) for column in columns} != {(len(columns[0]), taken.dtype)}:
        raise ValueError("columns of several lengths or dtypes")
    if taken.shape[0] != len(columns) or not 0 <= first <= taken.shape[1] - len(rows):
        raise ValueError(f"{len(rows)} rows of {len(columns)} columns leave {taken.shape}")
    held = [np.ascontiguousarray(column) for column in columns]
    rows, words = np.ascontiguousarray(rows), taken.view(f"u{taken.dtype.itemsize}")
    if _take_into(addresses_of(held), len(held[0]), rows, first, words) != _DONE:
        raise row_outside(rows, len(held[0]))


def run_rows(inverse: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> RunRows:
    """The runs inverse[row] of the given rows [k]; adjacent equal ones are one run.

    Raises IndexError for a row that does not exist.
    """
    runs, firsts, run_of_row = np.empty((3, len(rows)), np.int64)
    rows = np.ascontiguousarray(rows)
    count = _run_rows(np.ascontiguousarray(inverse), rows, runs, firsts, run_of_row)
    if count < 0:
        raise row_outside(rows, len(inverse))
    return RunRows(runs[:count], firsts[:count], run_of_row)
