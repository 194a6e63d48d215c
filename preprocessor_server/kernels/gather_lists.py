"""Lists of many columns, of some rows, gathered in two calls: their lengths, then their values."""

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
from preprocessor_server.kernels.changes import check_lists, row_outside

_DONE = 0
_ROW_OUTSIDE = -1
_OFFSETS_WRONG = -2

_0 = np.uint64(0)
_1 = np.uint64(1)
# Words compared before it is looked at whether one differs.
_STEP = np.uint64(16)
_WORD_BYTES = np.uint64(4)
# So far ahead a list is brought near, and so much of it; what is longer comes by itself.
_AHEAD = np.uint64(8)
_LINE_BYTES = np.uint64(64)
_NEAR_BYTES = np.uint64(256)


@kernel(
    types.int64(
        array(types.int64),
        types.int64,
        array(types.int64),
        out2d(types.int64),
    )
)
def _list_offsets(
    offset_addresses: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
) -> int:
    above = np.uint64(count)
    for i in range(np.uint64(len(rows))):
        if np.uint64(rows[i]) >= above:
            return _ROW_OUTSIDE
    for f in range(len(offset_addresses)):
        source = carray(pointer(offset_addresses[f]), count + 1, np.int64)
        total = 0
        offsets[f, 0] = 0
        for i in range(np.uint64(len(rows))):
            row = np.uint64(rows[i])
            length = source[row + _1] - source[row]
            if source[row] < 0 or length < 0 or source[row + _1] > source[count]:
                return _OFFSETS_WRONG
            total += length
            offsets[f, i + _1] = total
    return _DONE


@inner
def _equal(words: npt.NDArray[np.uint32], a: np.uint64, b: np.uint64, n: np.uint64) -> bool:
    j = _0
    while j + _STEP <= n:
        different = words[a + j] ^ words[b + j]
        for k in range(_1, _STEP):
            different |= words[a + j + k] ^ words[b + j + k]
        if different != 0:
            return False
        j += _STEP
    while j < n:
        if words[a + j] != words[b + j]:
            return False
        j += _1
    return True


@inner
def _gather_lists(
    source: npt.NDArray[np.int64],
    values: npt.NDArray[np.uint32],
    each: np.uint64,
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    gathered: npt.NDArray[np.uint32],
    changes: npt.NDArray[np.bool_],
) -> int:
    """Gathers lists of any length, in words of 32 bits, each of which takes one element or half."""
    size = np.uint64(len(rows))
    from_, to = np.uint64(values.ctypes.data), np.uint64(gathered.ctypes.data)
    i = _0
    while i < size:
        # Rows that follow each other in the source too are copied as one block.
        first = np.uint64(rows[i])
        if i + _AHEAD < size:
            ahead = from_ + _WORD_BYTES * each * np.uint64(source[np.uint64(rows[i + _AHEAD])])
            for line in range(_0, _NEAR_BYTES, _LINE_BYTES):
                prefetch(ahead + line)
        at = each * np.uint64(offsets[i])
        last = first + _1
        i += _1
        while i < size and np.uint64(rows[i]) == last:
            last += _1
            i += _1
        start = np.uint64(source[first])
        length = each * (np.uint64(source[last]) - start)
        copy_bytes(to + _WORD_BYTES * at, from_ + _WORD_BYTES * each * start, _WORD_BYTES * length)
    total = 0
    before: Any = _0
    length_before: Any = _0
    for k in range(size):
        begin = each * np.uint64(offsets[k])
        length = each * np.uint64(offsets[k + _1]) - begin
        differs = k == _0 or length != length_before or not _equal(gathered, before, begin, length)
        changes[k] = differs
        total += differs
        before, length_before = begin, length
    return total


@kernel(
    types.void(
        array(types.int64),
        array(types.int64),
        array(types.int64),
        types.int64,
        array(types.int64),
        array(types.int64),
        array2d(types.int64),
        out(types.int64),
        out2d(types.bool_),
    )
)
def _gather_values(
    offset_addresses: npt.NDArray[np.int64],
    value_addresses: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    to_addresses: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    changed: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> None:
    for f in range(len(offset_addresses)):
        source = carray(pointer(offset_addresses[f]), count + 1, np.int64)
        there, taken, words = source[count], offsets[f, len(rows)], widths[f] // 4
        from_, to = pointer(value_addresses[f]), pointer(to_addresses[f])
        changed[f] = _gather_lists(
            source,
            carray(from_, there * words, np.uint32),
            np.uint64(words),
            rows,
            offsets[f],
            carray(to, taken * words, np.uint32),
            changes[f],
        )


class GatheredLists(NamedTuple):
    """Lists of some rows, laid end to end, and where they differ from that of the row before.

    Those of column f are values[f][offsets[f, i]:offsets[f, i + 1]], offsets int64
    [columns, k + 1]. changed and changes are as in Gathered, changes of all columns.
    """

    offsets: npt.NDArray[np.int64]
    values: list[npt.NDArray[Any]]
    changed: npt.NDArray[np.int64]
    changes: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, init=False)
class ListColumns:
    """Columns of count lists each, of elements of 4 or 8 bytes, as gather takes them."""

    count: int
    dtypes: tuple[np.dtype[Any], ...]
    offset_addresses: npt.NDArray[np.int64]
    value_addresses: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]
    # Kept for as long as the addresses are.
    held: tuple[npt.NDArray[Any], ...]

    def __init__(self, columns: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]) -> None:
        """Each column is the lists values[offsets[i]:offsets[i + 1]].

        Raises ValueError for columns of several lengths or none, IndexError if offsets leave the
        values.
        """
        if len({len(offsets) for offsets, _ in columns}) != 1:
            raise ValueError("columns of several lengths")
        for offsets, values in columns:
            check_lists(offsets, len(values))
        offsets_held = [np.ascontiguousarray(offsets) for offsets, _ in columns]
        values_held = [np.ascontiguousarray(values) for _, values in columns]
        widths = np.array([values.itemsize for values in values_held], np.int64)
        object.__setattr__(self, "count", len(columns[0][0]) - 1)
        object.__setattr__(self, "dtypes", tuple(values.dtype for values in values_held))
        object.__setattr__(self, "offset_addresses", addresses_of(offsets_held))
        object.__setattr__(self, "value_addresses", addresses_of(values_held))
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "held", (*offsets_held, *values_held))

    def gather(self, rows: npt.NDArray[np.int64]) -> GatheredLists:
        """The lists of the given rows [k], in that order.

        Raises IndexError for a row that does not exist.
        """
        rows, columns = np.ascontiguousarray(rows), len(self.dtypes)
        offsets = np.empty((columns, len(rows) + 1), np.int64)
        changed = np.empty(columns, np.int64)
        changes = np.empty((columns, len(rows)), np.bool_)
        status = _list_offsets(self.offset_addresses, self.count, rows, offsets)
        if status == _OFFSETS_WRONG:
            raise IndexError("offsets of lists that decrease, or leave their values")
        if status != _DONE:
            raise row_outside(rows, self.count)
        values = [
            np.empty(size, dtype)
            for size, dtype in zip(offsets[:, -1].tolist(), self.dtypes, strict=True)
        ]
        _gather_values(
            self.offset_addresses,
            self.value_addresses,
            self.widths,
            self.count,
            rows,
            addresses_of(values),
            offsets,
            changed,
            changes,
        )
        return GatheredLists(offsets, values, changed, changes)
