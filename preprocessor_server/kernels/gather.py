"""Rows of many columns, gathered in one call, and rows of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out, out2d
from preprocessor_server.kernels._memory import addresses_of, carray, copy_bytes, pointer
from preprocessor_server.kernels.changes import check_lists, row_outside

_DONE = 0
_ROW_OUTSIDE = -1

_0 = np.uint64(0)
_1 = np.uint64(1)
# Words compared before it is looked at whether one differs.
_STEP = np.uint64(16)
_WORD_BYTES = np.uint64(4)


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
        array(types.int64),
        types.int64,
        array(types.int64),
        out2d(types.int64),
        out(types.int64),
    )
)
def _list_offsets(
    offset_addresses: npt.NDArray[np.int64],
    count: int,
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    longest: npt.NDArray[np.int64],
) -> int:
    above = np.uint64(count)
    for i in range(np.uint64(len(rows))):
        if np.uint64(rows[i]) >= above:
            return _ROW_OUTSIDE
    for f in range(len(offset_addresses)):
        source = carray(pointer(offset_addresses[f]), count + 1, np.int64)
        total = most = 0
        offsets[f, 0] = 0
        for i in range(np.uint64(len(rows))):
            row = np.uint64(rows[i])
            length = source[row + _1] - source[row]
            most = max(most, length)
            total += length
            offsets[f, i + _1] = total
        longest[f] = most
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
def _gather_optional(
    source: npt.NDArray[np.int64],
    values: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    gathered: npt.NDArray[np.unsignedinteger],
    changes: npt.NDArray[np.bool_],
) -> int:
    """Gathers lists of at most one value, without a branch that depends on them."""
    last_value, last = np.uint64(len(values) - 1), np.uint64(len(gathered) - 1)
    total = 0
    length_before, before = np.int64(-1), values.dtype.type(0)
    for i in range(np.uint64(len(rows))):
        length = offsets[i + _1] - offsets[i]
        at = min(np.uint64(offsets[i]), last)
        found = values[min(np.uint64(source[np.uint64(rows[i])]), last_value)]
        value = found if length else values.dtype.type(0)
        gathered[at] = found if length else gathered[at]
        differs = (length != length_before) | (value != before)
        changes[i] = differs
        total += differs
        length_before, before = length, value
    return total


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
        array(types.int64),
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
    longest: npt.NDArray[np.int64],
    changed: npt.NDArray[np.int64],
    changes: npt.NDArray[np.bool_],
) -> None:
    for f in range(len(offset_addresses)):
        source = carray(pointer(offset_addresses[f]), count + 1, np.int64)
        there, taken, words = source[count], offsets[f, len(rows)], widths[f] // 4
        from_, to = pointer(value_addresses[f]), pointer(to_addresses[f])
        if longest[f] == 1 and words == 1:
            changed[f] = _gather_optional(
                source,
                carray(from_, there, np.uint32),
                rows,
                offsets[f],
                carray(to, taken, np.uint32),
                changes[f],
            )
        else:
            changed[f] = _gather_lists(
                source,
                carray(from_, there * words, np.uint32),
                np.uint64(words),
                rows,
                offsets[f],
                carray(to, taken * words, np.uint32),
                changes[f],
            )


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
class Columns:
    """Columns of count values each, of one dtype of 4 or 8 bytes, as gather takes them."""

    count: int
    dtype: np.dtype[Any]
    addresses: npt.NDArray[np.int64]
    # Kept for as long as the addresses are.
    held: tuple[npt.NDArray[Any], ...]

    def __init__(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Columns narrower than the widest are widened. ValueError: of several lengths, or none."""
        if len({len(column) for column in columns}) != 1:
            raise ValueError("columns of several lengths")
        dtype = max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)
        held = [np.ascontiguousarray(column, dtype) for column in columns]
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
        widths = np.array([values.itemsize for values in values_held])
        object.__setattr__(self, "count", len(offsets_held[0]) - 1)
        object.__setattr__(self, "dtypes", tuple(values.dtype for values in values_held))
        object.__setattr__(self, "offset_addresses", addresses_of(offsets_held))
        object.__setattr__(self, "value_addresses", addresses_of(values_held))
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "held", (*offsets_held, *values_held))

    def gather(self, rows: npt.NDArray[np.int64]) -> GatheredLists:
        """The lists of the given rows [k], in that order.

        Raises IndexError for a row that does not exist.
        """
        rows = np.ascontiguousarray(rows)
        offsets = np.empty((len(self.widths), len(rows) + 1), np.int64)
        longest = np.empty(len(self.widths), np.int64)
        if _list_offsets(self.offset_addresses, self.count, rows, offsets, longest) != _DONE:
            raise row_outside(rows, self.count)
        values = [
            np.empty(size, dtype)
            for size, dtype in zip(offsets[:, -1].tolist(), self.dtypes, strict=True)
        ]
        changed = np.empty(len(values), np.int64)
        changes = np.empty((len(values), len(rows)), np.bool_)
        _gather_values(
            self.offset_addresses,
            self.value_addresses,
            self.widths,
            self.count,
            rows,
            addresses_of(values),
            offsets,
            longest,
            changed,
            changes,
        )
        return GatheredLists(offsets, values, changed, changes)


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
