"""Values by their codes, and where values stand in a list of many: a table that is asked often."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out

Hashes: TypeAlias = npt.NDArray[np.int64]
Indices: TypeAlias = npt.NDArray[np.int64]
Table: TypeAlias = npt.NDArray[np.int32]

MAX_LISTED = 1 << 30

_EACH = np.empty(0, np.uint8)

_0 = np.uint64(0)
_1 = np.uint64(1)


@kernel(types.void(array(types.int64), out(types.int32)))
def _fill_table(hashes: Hashes, table: Table) -> None:
    mask = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        place = np.uint64(hashes[i]) & mask
        while table[place] >= 0:
            place = (place + _1) & mask
        table[place] = i


@kernel(
    types.void(
        array(types.int64),
        array(types.uint64),
        array(types.int32),
        array(types.uint64),
        out(types.int64),
    )
)
def _find_words(
    hashes: Hashes,
    words: npt.NDArray[np.uint64],
    table: Table,
    listed: npt.NDArray[np.uint64],
    found: Indices,
) -> None:
    mask = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        place = np.uint64(hashes[i]) & mask
        while table[place] >= 0 and listed[table[place]] != words[i]:
            place = (place + _1) & mask
        found[i] = table[place]


@kernel(
    types.void(
        array(types.int64),
        array(types.int64),
        array(types.uint8),
        array(types.int32),
        array(types.int64),
        array(types.int64),
        array(types.uint8),
        out(types.int64),
    )
)
def _find_strings(
    hashes: Hashes,
    offsets: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    table: Table,
    listed_hashes: Hashes,
    listed_offsets: npt.NDArray[np.int64],
    listed_data: npt.NDArray[np.uint8],
    found: Indices,
) -> None:
    mask = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        start = np.uint64(offsets[i])
        length = np.uint64(offsets[i + 1]) - start
        place = np.uint64(hashes[i]) & mask
        at = table[place]
        while at >= 0:
            first = np.uint64(listed_offsets[at])
            if (
                listed_hashes[at] == hashes[i]
                and np.uint64(listed_offsets[at + 1]) - first == length
            ):
                k = np.uint64(0)
                while k < length and listed_data[first + k] == data[start + k]:
                    k += _1
                if k == length:
                    break
            place = (place + _1) & mask
            at = table[place]
        found[i] = at


@kernel(
    *(
        types.bool_(array(word), array(codes), array(types.uint8), out(word))
        for codes in (types.int32, types.int64)
        for word in (types.uint8, types.uint32, types.uint64)
    )
)
def _look_up(
    values: npt.NDArray[np.unsignedinteger],
    codes: npt.NDArray[np.signedinteger],
    valid: npt.NDArray[np.uint8],
    found: npt.NDArray[np.unsignedinteger],
) -> bool:
    count, size = np.uint64(len(codes)), np.uint64(len(values))
    outside = _0
    if len(valid):
        for i in range(count):
            outside |= np.uint64(valid[i]) & np.uint64(np.uint64(codes[i]) >= size)
    else:
        for i in range(count):
            outside |= np.uint64(np.uint64(codes[i]) >= size)
    if outside:
        return False
    if not len(valid):
        for i in range(count):
            found[i] = values[np.uint64(codes[i])]
    elif size:
        for i in range(count):
            # A mask, not a branch: where nulls are anywhere, that is mispredicted.
            there = _0 - (np.uint64(valid[i]) & _1)
            found[i] = values[np.uint64(codes[i]) & there] & there
    else:
        found[:] = _0
    return True


def look_up(
    values: npt.NDArray[Any],
    codes: npt.NDArray[np.integer[Any]],
    valid: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[Any]:
    """The value of each code [n]: values[code], 0 where valid [n] is false, whatever stands there.

    values are of a dtype of 1, 4 or 8 bytes; where valid is None, all codes are. Raises IndexError
    for a code that no value has.
    """
    if valid is not None and len(valid) != len(codes):
        raise IndexError(f"{len(valid)} marks for {len(codes)} codes")
    narrow = codes.dtype.itemsize < 4 or codes.dtype == np.int32
    word, found = np.dtype(f"u{values.dtype.itemsize}"), np.empty(len(codes), values.dtype)
    if not _look_up(
        np.ascontiguousarray(values).view(word),
        np.ascontiguousarray(codes, np.int32 if narrow else np.int64),
        _EACH if valid is None else np.ascontiguousarray(valid).view(np.uint8),
        found.view(word),
    ):
        raise IndexError(f"a code is none of {len(values)} values")
    return found


def make_table(hashes: Hashes) -> Table:
    """A table of listed values, int32 [a power of two, at least twice as many], for find_words.

    hashes are int64 [n] from 0, of values of which no two are equal; n is at most 2^30.
    """
    if len(hashes) > MAX_LISTED:
        raise ValueError(f"{len(hashes):,} values are listed; at most {MAX_LISTED:,} can be")
    table = np.full(2 << max(len(hashes) - 1, 0).bit_length(), -1, np.int32)
    _fill_table(np.ascontiguousarray(hashes), table)
    return table


def find_words(
    hashes: Hashes,
    words: npt.NDArray[np.uint64],
    table: Table,
    listed: npt.NDArray[np.uint64],
) -> Indices:
    """Where each word stands among the listed ones, int64 [n]; -1 if it does not.

    hashes [n] are those of the words, by the function that the table was made with. Raises
    IndexError if there are not as many hashes as words, or the table is that of more values.
    """
    _check(len(hashes) == len(words), table, len(listed))
    found = np.empty(len(words), np.int64)
    _find_words(
        np.ascontiguousarray(hashes),
        np.ascontiguousarray(words),
        table,
        np.ascontiguousarray(listed),
        found,
    )
    return found


def find_strings(
    hashes: Hashes,
    offsets: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    table: Table,
    listed_hashes: Hashes,
    listed_offsets: npt.NDArray[np.int64],
    listed_data: npt.NDArray[np.uint8],
) -> Indices:
    """Where each byte range stands among the listed ones, int64 [n]; -1 if it does not.

    Ranges are data[offsets[i]:offsets[i + 1]], offsets int64 [n + 1] that never decrease; so are
    the listed ones. hashes are those of the ranges, as in find_words. Raises IndexError if offsets
    leave data.
    """
    _check(len(hashes) == len(offsets) - 1, table, len(listed_hashes))
    for ends, size in ((offsets, len(data)), (listed_offsets, len(listed_data))):
        if ends[0] < 0 or np.any(ends[1:] < ends[:-1]) or ends[-1] > size:
            raise IndexError(f"offsets leave the {size} bytes of data")
    found = np.empty(len(hashes), np.int64)
    _find_strings(
        np.ascontiguousarray(hashes),
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(data),
        table,
        np.ascontiguousarray(listed_hashes),
        np.ascontiguousarray(listed_offsets),
        np.ascontiguousarray(listed_data),
        found,
    )
    return found


def _check(alike: bool, table: Table, listed: int) -> None:
    if not alike or (len(table) and int(table.max()) >= listed):
        raise IndexError("hashes, values and table do not belong together")
