"""Rows of many columns, gathered in one call, and rows of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out, out2d
from preprocessor_server.kernels._memory import addresses_of, carray, copy_bytes, pointer
from preprocessor_server.kernels.changes import row_outside

_DONE = 0
_ROW_OUTSIDE = -1

_0 = np.uint64(0)
_1 = np.uint64(1)


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


@kernel(
    *(
        types.int64(
            array(types.int64),
            types.int64,
            array(types.int64),
            types.int64,
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
    rows: npt.NDArray[np.int64],
    limit: int,
    gathered: npt.NDArray[np.unsignedinteger],
    changed: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> int:
    # Stretches of rows that follow each other are copied as blocks: [start, end) from first on.
    firsts = np.empty(len(rows), np.uint64)
    starts = np.empty(len(rows) + 1, np.uint64)
    above = np.uint64(count)
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
    width = np.uint64(gathered.itemsize)
    for f in range(len(addresses)):
        from_, to = np.uint64(addresses[f]), np.uint64(gathered[f].ctypes.data)
        column = carray(pointer(addresses[f]), count, gathered.dtype)
        if 4 * blocks > len(rows):
            for i in range(size):
                gathered[f, i] = column[np.uint64(rows[i])]
        else:
            for b in range(np.uint64(blocks)):
                copy_bytes(
                    to + width * starts[b],
                    from_ + width * firsts[b],
                    width * (starts[b + _1] - starts[b]),
                )
        if limit >= 0:
            changed[f] = _changes(gathered[f], limit, changes[f])
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
    """Columns of count values each, of one dtype of 4 or 8 bytes, as gather takes them."""

    count: int
    dtype: np.dtype[Any]
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
        object.__setattr__(self, "addresses", addresses_of(held))
        object.__setattr__(self, "held", tuple(held))

    def gather(self, rows: npt.NDArray[np.int64], limit: int = -1) -> Gathered:
        """The values of the given rows [k], in that order.

        changes is filled for columns with at most limit of them; a negative limit leaves changed
        out too. Raises IndexError for a row that does not exist.
        """
        values = np.empty((len(self.addresses), len(rows)), self.dtype)
        changed = np.empty(len(values), np.int64)
        changes = np.empty(values.shape if limit >= 0 else (0, 0), np.bool_)
        words = values.view(np.dtype(f"u{self.dtype.itemsize}"))
        rows = np.ascontiguousarray(rows)
        if _gather(self.addresses, self.count, rows, limit, words, changed, changes) != _DONE:
            raise row_outside(rows, self.count)
        return Gathered(values, changed, changes)


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
