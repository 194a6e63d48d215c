"""What the encoder must know of lists before it lays them out: where they change, what they hold.

Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
LLVM from vectorising them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out, out2d

MAX_LENGTH = 2**31 - 1
MAX_DISTINCT = 256

_ROW_OUTSIDE = -1
_LENGTH_OVERFLOW = -2

_0 = np.uint64(0)
_1 = np.uint64(1)
# Words compared before it is looked at whether one differs.
_STEP = np.uint64(16)

# A table of twice as many slots as there are bits in its index, at most a quarter full.
_SLOT_BITS = 10
_SLOTS = 1 << _SLOT_BITS
_SLOT_MASK = np.uint64(_SLOTS - 1)
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


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


@inner
def _add_distinct(
    values: npt.NDArray[np.signedinteger],
    start: np.uint64,
    end: np.uint64,
    used: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
    count: int,
) -> int:
    """Adds values[start:end] to count distinct ones; MAX_DISTINCT + 1 if there are more."""
    for j in range(start, end):
        value = np.int64(values[j])
        slot = (np.uint64(value) * _SPREAD) >> _SLOT_SHIFT
        while used[slot] and slots[slot] != value:
            slot = (slot + _1) & _SLOT_MASK
        if not used[slot]:
            if count == MAX_DISTINCT:
                return MAX_DISTINCT + 1
            used[slot] = True
            slots[slot] = value
            distinct[count] = value
            count += 1
    return count


@inner
def _count_distinct(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.signedinteger],
    rows: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
) -> int:
    used = np.zeros(_SLOTS, np.bool_)
    slots = np.empty(_SLOTS, np.int64)
    count = 0
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        start, end = np.uint64(offsets[row]), np.uint64(offsets[row + _1])
        count = _add_distinct(values, start, end, used, slots, distinct, count)
        if count > MAX_DISTINCT:
            break
    return count


@kernel(
    *(
        types.int64(
            array(types.int64),
            array(word),
            array(types.int64),
            out(types.int32),
            out(types.int64),
            out(types.int64),
        )
        for word in (types.int32, types.int64)
    )
)
def _measure_lists(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.signedinteger],
    rows: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int32],
    measures: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
) -> int:
    count = np.uint64(len(offsets) - 1)
    row_count = np.uint64(len(rows))
    total = 0
    low = values[0] if len(values) else 0
    high = low
    first_seen = True
    i = _0
    while i < row_count:
        # Rows that follow each other in the source too are measured as one block.
        first = np.uint64(rows[i])
        last = first
        start = offsets[first] if first < count else 0
        end = start
        while True:
            if last >= count:
                return _ROW_OUTSIDE
            length = offsets[last + _1] - end
            if length > MAX_LENGTH:
                return _LENGTH_OVERFLOW
            lengths[i] = length
            end += length
            last += _1
            i += _1
            if i == row_count or np.uint64(rows[i]) != last:
                break
        if end > start:
            total += end - start
            if first_seen:
                low = high = values[np.uint64(start)]
                first_seen = False
            for j in range(np.uint64(start), np.uint64(end)):
                low = min(low, values[j])
                high = max(high, values[j])
    measures[0], measures[1], measures[2] = total, low, high
    measures[3] = 0
    # Only where a word takes more than a byte can codes be smaller.
    if total and np.uint64(high) - np.uint64(low) > np.uint64(MAX_DISTINCT - 1):
        measures[3] = _count_distinct(offsets, values, rows, distinct)
    return 0


@kernel(
    *(
        types.void(array2d(word), out2d(types.int64), out2d(types.int64))
        for word in (types.int32, types.int64)
    )
)
def _measure_ids(
    ids: npt.NDArray[np.signedinteger],
    measures: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
) -> None:
    used = np.empty(_SLOTS, np.bool_)
    slots = np.empty(_SLOTS, np.int64)
    for f in range(len(ids)):
        row = ids[f]
        low = high = row[0]
        for j in range(_1, np.uint64(len(row))):
            low = min(low, row[j])
            high = max(high, row[j])
        measures[f, 0], measures[f, 1], measures[f, 2] = low, high, 0
        if np.uint64(high) - np.uint64(low) > np.uint64(MAX_DISTINCT - 1):
            used[:] = False
            end = np.uint64(len(row))
            measures[f, 2] = _add_distinct(row, _0, end, used, slots, distinct[f], 0)


class Measures(NamedTuple):
    """What the values of some lists are: how many, the least and the greatest (0 without values).

    distinct int64 [n] are the distinct values, ascending, where there are at most 256 of them and
    they do not lie within 256 of each other; otherwise empty.
    """

    total: int
    low: int
    high: int
    distinct: npt.NDArray[np.int64]


def list_changes(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.generic], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether each of the rows' lists differs from the one before it, bool [k]; the first: True.

    The lists are values[offsets[i]:offsets[i + 1]], of a dtype of 1, 2, 4 or 8 bytes, compared bit
    by bit; rows is int64 [k] in any order. Raises IndexError for a row that does not exist.
    """
    check_lists(offsets, len(values))
    changes = np.empty(len(rows), np.bool_)
    words = np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))
    rows = np.ascontiguousarray(rows)
    if _list_changes(np.ascontiguousarray(offsets), words, rows, changes) < 0:
        raise row_outside(rows, len(offsets) - 1)
    return changes


def measure_lists(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.signedinteger],
    rows: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int32],
) -> Measures:
    """Measures the lists of the given rows and writes their lengths, int32 [k].

    values is int32 or int64; rows is int64 [k] in any order. Raises IndexError for a row that does
    not exist, OverflowError for a list of more than 2^31 - 1 elements.
    """
    check_lists(offsets, len(values))
    if len(lengths) != len(rows):
        raise ValueError(f"room for {len(lengths)} lengths, {len(rows)} rows")
    measures = np.empty(4, np.int64)
    distinct = np.empty(MAX_DISTINCT, np.int64)
    rows = np.ascontiguousarray(rows)
    status = _measure_lists(
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(values),
        rows,
        lengths,
        measures,
        distinct,
    )
    if status == _ROW_OUTSIDE:
        raise row_outside(rows, len(offsets) - 1)
    if status == _LENGTH_OVERFLOW:
        raise OverflowError("a list has more than 2^31 - 1 elements; cut it with Tail")
    total, low, high, count = measures.tolist()
    if total == 0:
        low = high = 0
    found = distinct[: count if count <= MAX_DISTINCT else 0]
    return Measures(total, low, high, np.sort(found))


def measure_ids(ids: npt.NDArray[np.signedinteger]) -> list[Measures]:
    """Measures each row of ids [k, n], int32 or int64, n > 0."""
    measures = np.empty((len(ids), 3), np.int64)
    distinct = np.empty((len(ids), MAX_DISTINCT), np.int64)
    _measure_ids(np.ascontiguousarray(ids), measures, distinct)
    return [
        Measures(ids.shape[1], low, high, np.sort(found[: count if count <= MAX_DISTINCT else 0]))
        for (low, high, count), found in zip(measures.tolist(), distinct, strict=True)
    ]


def check_lists(offsets: npt.NDArray[np.int64], size: int) -> None:
    """Raises IndexError if offsets leave an array of values."""
    if offsets[0] < 0 or offsets[-1] > size:
        raise IndexError(f"offsets from {offsets[0]} to {offsets[-1]} leave {size} values")


def row_outside(rows: npt.NDArray[np.int64], count: int) -> IndexError:
    """The error for rows that a column does not have."""
    return IndexError(f"rows from {rows.min()} to {rows.max()} leave a column of {count} rows")
