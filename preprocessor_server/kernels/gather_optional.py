"""Lists of at most one id, of some rows, gathered from a matrix that has a row's ids side by side.

Rows are taken in random order. Column by column each would cost a cache line or two for offsets and
one for a value; side by side, one or two for all columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, kernel, out, out2d
from preprocessor_server.kernels._memory import addresses_of, carray, pointer, prefetch
from preprocessor_server.kernels.changes import row_outside

_DONE = 0
_ROW_OUTSIDE = -1
# Stands for an empty list; ids in the matrix are not negative.
_NO_ID = -1
# Differs from any id, and from none.
_BEFORE_FIRST = -2
# Rows that go from columns to rows, or back, at once: all their ids stay in the nearest cache.
_TILE = 64

_0 = np.uint64(0)
_1 = np.uint64(1)
# So far ahead a row is brought near.
_AHEAD = np.uint64(8)
_LINE_BYTES = np.uint64(64)


@kernel(
    types.void(
        array(types.int64),
        array(types.int64),
        out2d(types.int32),
        out(types.bool_),
    )
)
def _pack_optional(
    offset_addresses: npt.NDArray[np.int64],
    value_addresses: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    fits: npt.NDArray[np.bool_],
) -> None:
    count, columns = np.uint64(ids.shape[0]), np.uint64(ids.shape[1])
    fits[:] = True
    for start in range(_0, count, np.uint64(_TILE)):
        end = min(count, start + np.uint64(_TILE))
        for f in range(columns):
            source = carray(pointer(offset_addresses[f]), ids.shape[0] + 1, np.int64)
            there = source[count]
            values = carray(pointer(value_addresses[f]), there, np.int32)
            good = True
            for i in range(start, end):
                at, length = source[i], source[i + _1] - source[i]
                found = np.int32(_NO_ID)
                if length == 1 and at >= 0 and at < there:
                    found = values[np.uint64(at)]
                    good &= found >= 0
                else:
                    good &= length == 0
                ids[i, f] = found
            fits[f] &= good


@kernel(
    types.int64(
        array2d(types.int32),
        array(types.int64),
        out2d(types.int64),
        out2d(types.int32),
        out(types.int64),
        out2d(types.bool_),
    )
)
def _gather_optional(
    ids: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
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
    offsets[:, 0] = 0
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
            filled, last, total = offsets[f, start], before[f], 0
            for j in range(taken):
                found = tile[j, f]
                # Written in any case: what is no id, the next one is written over.
                values[f, np.uint64(filled)] = found
                filled += found >= 0
                offsets[f, start + j + _1] = filled
                differs = found != last
                changes[f, start + j] = differs
                total += differs
                last = found
            before[f] = last
            changed[f] += total
    return _DONE


@dataclass(frozen=True, slots=True)
class OptionalColumns:
    """Columns of lists of at most one id: ids int32 [count, columns], negative where there is none.

    members are the columns' places among those that they were packed from.
    """

    members: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]

    @classmethod
    def pack(
        cls,
        offsets: list[npt.NDArray[np.int64]],
        values: list[npt.NDArray[Any]],
    ) -> OptionalColumns:
        """Those of some columns of lists that can be packed: int32, none negative, one at most."""
        count = len(offsets[0]) - 1
        wanted = [
            f
            for f, column in enumerate(values)
            if column.dtype == np.int32 and len(column) <= count
        ]
        ids = np.empty((count, len(wanted)), np.int32)
        fits = np.empty(len(wanted), np.bool_)
        if wanted:
            _pack_optional(
                addresses_of([offsets[f] for f in wanted]),
                addresses_of([values[f] for f in wanted]),
                ids,
                fits,
            )
        members = np.array(wanted, np.int64)
        return cls(members[fits], ids if fits.all() else np.ascontiguousarray(ids[:, fits]))

    def gather(
        self,
        rows: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        changed: npt.NDArray[np.int64],
        changes: npt.NDArray[np.bool_],
    ) -> list[npt.NDArray[np.int32]]:
        """The ids of each column for the given rows [k], laid end to end.

        Fills offsets [columns, k + 1], changed [columns] and changes [columns, k]; IndexError for
        a row that does not exist.
        """
        values = np.empty((len(self.members), len(rows)), np.int32)
        if _gather_optional(self.ids, rows, offsets, values, changed, changes) != _DONE:
            raise row_outside(rows, len(self.ids))
        ends = offsets[:, -1].tolist()
        return [ids[:end] for ids, end in zip(values, ends, strict=True)]
