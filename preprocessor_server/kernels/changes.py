"""Where lists differ from that of the row before.

Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
LLVM from vectorising them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out

_ROW_OUTSIDE = -1

_0 = np.uint64(0)
_1 = np.uint64(1)
# Words compared before it is looked at whether one differs.
_STEP = np.uint64(16)


@inner
def _equal(
    values: npt.NDArray[np.unsignedinteger], a: np.uint64, b: np.uint64, n: np.uint64
) -> bool:
    j = _0
    while j + _STEP <= n:
        different = values[a + j] ^ values[b + j]
        for k in range(_1, _STEP):
            different |= values[a + j + k] ^ values[b + j + k]
        if different != 0:
            return False
        j += _STEP
    while j < n:
        if values[a + j] != values[b + j]:
            return False
        j += _1
    return True


@kernel(
    *(
        types.int64(array(types.int64), array(word), array(types.int64), out(types.bool_))
        for word in (types.uint8, types.uint16, types.uint32, types.uint64)
    )
)
def _list_changes(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> int:
    count = np.uint64(len(offsets) - 1)
    total = 0
    before = _0
    before_length = _0
    for i in range(np.uint64(len(rows))):
        row = np.uint64(rows[i])
        if row >= count:
            return _ROW_OUTSIDE
        start = np.uint64(offsets[row])
        length = np.uint64(offsets[row + _1]) - start
        changed = i == _0 or length != before_length
        if not changed and start != before:
            changed = not _equal(values, before, start, length)
        changes[i] = changed
        total += changed
        before, before_length = start, length
    return total


def list_changes(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.generic],
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Whether each of the rows' lists differs from the one before it, bool [k]; the first: True.

    The lists are values[offsets[i]:offsets[i + 1]], of a dtype of 1, 2, 4 or 8 bytes, compared bit
    by bit; rows is int64 [k] in any order, None stands for all of them. Raises IndexError for a row
    that does not exist.
    """
    check_lists(offsets, len(values))
    if rows is None:
        rows = np.arange(len(offsets) - 1)
    changes = np.empty(len(rows), np.bool_)
    words = np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))
    rows = np.ascontiguousarray(rows)
    if _list_changes(np.ascontiguousarray(offsets), words, rows, changes) < 0:
        raise row_outside(rows, len(offsets) - 1)
    return changes


def check_lists(offsets: npt.NDArray[np.int64], size: int) -> None:
    """Raises IndexError if offsets leave an array of values."""
    if offsets[0] < 0 or offsets[-1] > size:
        raise IndexError(f"offsets from {offsets[0]} to {offsets[-1]} leave {size} values")


def row_outside(rows: npt.NDArray[np.int64], count: int) -> IndexError:
    """The error for rows that a column does not have."""
    return IndexError(f"rows from {rows.min()} to {rows.max()} leave a column of {count} rows")
