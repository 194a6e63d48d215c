"""Lists of at most one id: a number a row, negative where there is none.

Rows are taken in random order. Column by column each would cost a cache line for its id; side by
side, one or two for all columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, kernel, out, out2d
from preprocessor_server.kernels._memory import addresses_of, prefetch
from preprocessor_server.kernels.changes import check_lists, row_outside
from preprocessor_server.kernels.gather import pack
from preprocessor_server.kernels.jagged import keep_valid

_INT32 = np.dtype(np.int32)
# Stands for no id.
_NO_ID = -1

_DONE = 0
_ROW_OUTSIDE = -1
# Differs from any id, and from none.
_BEFORE_FIRST = -2
# Rows that go from columns to rows, or back, at once: all their ids stay in the nearest cache.
_TILE = 64

_0 = np.uint64(0)
_1 = np.uint64(1)
# So far ahead a row is brought near.
_AHEAD = np.uint64(8)
_LINE_BYTES = np.uint64(64)


@kernel(types.bool_(array(types.int64), array(types.int32), out(types.int32)))
def _ids_of_lists(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.int32], ids: npt.NDArray[np.int32]
) -> bool:
    there, good = len(values), True
    for i in range(np.uint64(len(ids))):
        at, length = offsets[i], offsets[i + _1] - offsets[i]
        found = np.int32(_NO_ID)
        if length == 1 and 0 <= at < there:
            found = values[np.uint64(at)]
            good &= found >= 0
        elif length != 0:
            return False
        ids[i] = found
    return good


@kernel(types.bool_(array(types.bool_), array(types.int32), out(types.int32)))
def _ids_of_valid(
    valid: npt.NDArray[np.bool_], values: npt.NDArray[np.int32], ids: npt.NDArray[np.int32]
) -> bool:
    good = True
    for i in range(np.uint64(len(ids))):
        found = values[i]
        good &= found >= 0 or not valid[i]
        ids[i] = found if valid[i] else np.int32(_NO_ID)
    return good


@kernel(
    types.int64(
        array2d(types.int32),
        array(types.int64),
        out2d(types.int32),
        out2d(types.int32),
        out(types.int64),
        out(types.int64),
        out2d(types.bool_),
    )
)
def _gather_optional(
    ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int32],
    values: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int64],
    changed: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> int:
    size, columns = np.uint64(len(rows)), np.uint64(ids.shape[1])
    for i in range(size):
        if np.uint64(rows[i]) >= np.uint64(len(ids)):
            return _ROW_OUTSIDE
    tile = np.empty((_TILE, ids.shape[1]), np.int32)
    before = np.full(ids.shape[1], _BEFORE_FIRST, np.int32)
    from_, row_bytes = np.uint64(ids.ctypes.data), np.uint64(ids.itemsize) * columns
    sizes[:] = 0
    changed[:] = 0
    for start in range(_0, size, np.uint64(_TILE)):
        taken = min(size - start, np.uint64(_TILE))
        for j in range(taken):
            row = np.uint64(rows[start + j])
            if start + j + _AHEAD < size:
                ahead = from_ + row_bytes * np.uint64(rows[start + j + _AHEAD])
                for line in range(_0, row_bytes, _LINE_BYTES):
                    prefetch(ahead + line)
                prefetch(ahead + row_bytes - _1)
            for f in range(columns):
                tile[j, f] = ids[row, f]
        for f in range(columns):
            filled, last, total = np.uint64(sizes[f]), before[f], 0
            for j in range(taken):
                found = tile[j, f]
                # Written in any case: what is no id, the next one is written over.
                values[f, filled] = found
                there = found >= 0
                filled += np.uint64(there)
                lengths[f, start + j] = there
                differs = found != last
                changes[f, start + j] = differs
                total += differs
                last = found
            sizes[f], before[f] = filled, last
            changed[f] += total
    return _DONE


def ids_of_lists(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32] | None:
    """The id of each list, -1 of empty ones; None if one has several, or an id is negative.

    The lists are values[offsets[i]:offsets[i + 1]], offsets int64 [n + 1]. Raises IndexError if
    offsets leave the values.
    """
    check_lists(offsets, len(values))
    ids = np.empty(len(offsets) - 1, np.int32)
    fits = _ids_of_lists(np.ascontiguousarray(offsets), np.ascontiguousarray(values), ids)
    return ids if fits else None


def ids_of_valid(
    valid: npt.NDArray[np.bool_], values: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32] | None:
    """Ids int32 [n], -1 where valid [n] is false; None if a valid one is negative."""
    if len(valid) != len(values):
        raise IndexError(f"{len(valid)} marks for {len(values)} values")
    ids = np.empty(len(values), np.int32)
    fits = _ids_of_valid(np.ascontiguousarray(valid), np.ascontiguousarray(values), ids)
    return ids if fits else None


def lists_of_ids(
    ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The lists that ids stand for, a list a row: offsets int64 [n + 1] and values."""
    offsets, values = keep_valid(ids >= 0, ids)
    return offsets, values.astype(np.int32, copy=False)


class GatheredOptional(NamedTuple):
    """Lists of at most one id of some rows, and where they differ from that of the row before.

    Those of column f have lengths[f], int32 [columns, k], and are values[f], one behind the other.
    changed and changes are as in Gathered, changes of all columns.
    """

    lengths: npt.NDArray[np.int32]
    values: list[npt.NDArray[np.int32]]
    changed: npt.NDArray[np.int64]
    changes: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, init=False)
class OptionalColumns:
    """Columns of lists of at most one id: ids int32 [count, columns], -1 where there is none."""

    ids: npt.NDArray[np.int32]

    def __init__(self, columns: Sequence[npt.NDArray[np.int32]]) -> None:
        """Raises ValueError for columns of several lengths, of other dtypes than int32, or none."""
        if {(len(column), column.dtype) for column in columns} != {(len(columns[0]), _INT32)}:
            raise ValueError("columns of several lengths, or not int32")
        held = [np.ascontiguousarray(column) for column in columns]
        ids = np.empty((len(held[0]), len(held)), np.int32)
        pack(addresses_of(held), ids.view(np.uint32))
        object.__setattr__(self, "ids", ids)

    def gather(self, rows: npt.NDArray[np.int64]) -> GatheredOptional:
        """The lists of the given rows [k], in that order.

        Raises IndexError for a row that does not exist.
        """
        columns, rows = self.ids.shape[1], np.ascontiguousarray(rows)
        lengths, values = np.empty((2, columns, len(rows)), np.int32)
        sizes, changed = np.empty((2, columns), np.int64)
        changes = np.empty((columns, len(rows)), np.bool_)
        if _gather_optional(self.ids, rows, lengths, values, sizes, changed, changes) != _DONE:
            raise row_outside(rows, len(self.ids))
        kept = [ids[:size] for ids, size in zip(values, sizes.tolist(), strict=True)]
        return GatheredOptional(lengths, kept, changed, changes)
