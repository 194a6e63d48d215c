"""Where values and lists differ from that of the row before.

Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
LLVM from vectorising them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels._memory import address_of, addresses_of, carray, pointer

_ROW_OUTSIDE = -1

_0 = np.uint64(0)
_1 = np.uint64(1)
# Words compared before it is looked at whether one differs.
_STEP = np.uint64(16)


@inner
def _value_changes(
    values: npt.NDArray[np.unsignedinteger],
    valid: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
) -> int:
    total = min(1, len(rows))
    for i in range(_1, np.uint64(len(rows))):
        row, before = np.uint64(rows[i]), np.uint64(rows[i - _1])
        differs = values[row] != values[before]
        if len(valid):
            there = valid[row] != 0
            differs = (differs and there) or there != (valid[before] != 0)
        total += differs
    return total


@kernel(
    types.void(
        array(types.int64),
        array(types.int64),
        array(types.int64),
        types.int64,
        array(types.int64),
        out(types.int64),
    )
)
def _count_changes(
    addresses: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    valid_addresses: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    changed: npt.NDArray[np.int64],
) -> None:
    for f in range(len(addresses)):
        at, width = pointer(addresses[f]), widths[f]
        has_nulls = valid_addresses[f] != 0
        valid = carray(pointer(valid_addresses[f]), count if has_nulls else 0, np.uint8)
        if width == 8:
            changed[f] = _value_changes(carray(at, count, np.uint64), valid, rows)
        elif width == 4:
            changed[f] = _value_changes(carray(at, count, np.uint32), valid, rows)
        elif width == 2:
            changed[f] = _value_changes(carray(at, count, np.uint16), valid, rows)
        else:
            changed[f] = _value_changes(carray(at, count, np.uint8), valid, rows)


def count_changes(
    columns: Sequence[tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]],
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """In how many of the given rows [k] each column's value differs from the row before; the first.

    Columns are values [n], of dtypes of 1, 2, 4 or 8 bytes, compared bit by bit, and which of them
    are not null, None if all are; a null equals a null. Raises IndexError for a row that does not
    exist.
    """
    if len({len(part) for column in columns for part in column if part is not None}) > 1:
        raise ValueError("columns of several lengths")
    count = len(columns[0][0]) if columns else 0
    if columns and len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise row_outside(rows, count)
    held = [np.ascontiguousarray(values) for values, _ in columns]
    masks = [None if valid is None else np.ascontiguousarray(valid) for _, valid in columns]
    changed = np.empty(len(held), np.int64)
    _count_changes(
        addresses_of(held),
        np.array([values.dtype.itemsize for values in held], np.int64),
        np.array([0 if mask is None else address_of(mask) for mask in masks], np.int64),
        count,
        np.ascontiguousarray(rows),
        changed,
    )
    return changed


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
