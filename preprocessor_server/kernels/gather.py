"""Rows of many columns, gathered into one matrix, and rows of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from preprocessor_server.kernels._jit import array, kernel, out, out2d
from preprocessor_server.kernels.changes import row_outside

_carray: Any = numba.carray  # type: ignore[attr-defined] # it is in numba's documentation
_DONE = 0
_ROW_OUTSIDE = -1

_0 = np.uint64(0)
_1 = np.uint64(1)


def _to_pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer, for carray."""
    del typing_context

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del context, signature
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


_pointer: Any = intrinsic(_to_pointer)


@kernel(
    types.int64(array(types.int64), types.int64, array(types.int64), out2d(types.uint32)),
    types.int64(array(types.int64), types.int64, array(types.int64), out2d(types.uint64)),
)
def _gather(
    addresses: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    gathered: npt.NDArray[np.unsignedinteger],
) -> int:
    # Stretches of rows that follow each other are copied as blocks: [start, end) from first on.
    firsts = np.empty(len(rows), np.uint64)
    starts = np.empty(len(rows) + 1, np.uint64)
    limit = np.uint64(count)
    blocks = 0
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= limit:
            return _ROW_OUTSIDE
        if i == _0 or row != np.uint64(rows[i - _1]) + _1:
            firsts[blocks] = row
            starts[blocks] = i
            blocks += 1
    starts[blocks] = len(rows)
    for f in range(len(addresses)):
        column = _carray(_pointer(addresses[f]), count, gathered.dtype)
        if 4 * blocks > len(rows):
            for i in range(np.uint64(len(rows))):
                gathered[f, i] = column[np.uint64(rows[i])]
        else:
            for b in range(np.uint64(blocks)):
                first, start = firsts[b], starts[b]
                for i in range(starts[b + _1] - start):
                    gathered[f, start + i] = column[first + i]
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


def gather_columns(
    columns: Sequence[npt.NDArray[Any]], rows: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """The values of columns [n] at the given rows [k], in that order: a matrix [columns, k].

    Columns are of one dtype of 4 or 8 bytes and of one length; some narrower than the widest are
    widened. Raises IndexError for a row that does not exist, ValueError for columns of several
    lengths.
    """
    dtype = max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)
    # Kept until the kernel is done with their addresses.
    held = [np.ascontiguousarray(column, dtype) for column in columns]
    addresses = np.array([column.__array_interface__["data"][0] for column in held])
    gathered = np.empty((len(held), len(rows)), dtype)
    words = gathered.view(np.dtype(f"u{dtype.itemsize}"))
    if any(len(column) != len(held[0]) for column in held):
        raise ValueError("columns of several lengths")
    if _gather(addresses, len(held[0]), np.ascontiguousarray(rows), words) != _DONE:
        raise row_outside(rows, len(held[0]))
    return gathered


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
