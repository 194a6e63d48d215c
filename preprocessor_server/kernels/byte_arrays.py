"""Strings of Parquet pages, taken apart.

apache/parquet-format, Encodings.md, "Plain": of a BYTE_ARRAY its length in 4 bytes, little-endian,
then its bytes. Nothing outside the given bytes is read, whatever they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels._memory import copy_bytes, load_word, store_word

_LENGTH_BYTES = 4
_WORD_BYTES = 8

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_8 = np.uint64(8)
_16 = np.uint64(16)
_24 = np.uint64(24)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
# That of SplitMix64's finaliser.
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)


@kernel(
    types.bool_(array(types.uint8), types.int64, out(types.int64), out(types.uint8)),
)
def _split_strings(
    page: npt.NDArray[np.uint8],
    start: int,
    offsets: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
) -> bool:
    """There is room in data for a word more than what the page can hold beside count lengths."""
    at, end, total = np.uint64(start), np.uint64(len(page)), _0
    room = np.uint64(len(data)) - _8
    from_, to = np.uint64(page.ctypes.data), np.uint64(data.ctypes.data)
    offsets[0] = 0
    for i in range(np.uint64(len(offsets) - 1)):
        if end - at < _4:
            return False
        length = np.uint64(page[at]) | np.uint64(page[at + _1]) << _8
        length |= np.uint64(page[at + _2]) << _16 | np.uint64(page[at + _3]) << _24
        at += _4
        # What does not fit in leaves too little for the lengths that are still to come.
        if length > end - at or length > room - total:
            return False
        if length <= _8 and end - at >= _8:
            # Most are as short: no call, no loop.
            store_word(to + total, load_word(from_ + at))
        else:
            copy_bytes(to + total, from_ + at, length)
        at += length
        total += length
        offsets[i + _1] = total
    return True


@inner
def _hash(data: npt.NDArray[np.uint8], start: np.uint64, end: np.uint64) -> np.uint64:
    """Of bytes start to end, for a table that is thrown away."""
    h, at, from_ = (end - start) * _FACTOR, start, np.uint64(data.ctypes.data)
    while end - at >= _8:
        h = (h ^ load_word(from_ + at)) * _FACTOR
        h ^= h >> _32
        at += _8
    while at < end:
        h = (h ^ np.uint64(data[at])) * _FACTOR
        h ^= h >> _32
        at += _1
    # What the last bytes change at the top only is to change the bottom too.
    h *= _FACTOR
    return h ^ h >> _32


@kernel(types.bool_(array(types.int64), array(types.uint8), out(types.uint64)))
def _all_distinct(
    offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8], table: npt.NDArray[np.uint64]
) -> bool:
    """Of the table, what is not 0 is half of a string's hash and, below, its number plus one."""
    mask = np.uint64(len(table) - 1)
    for i in range(np.uint64(len(offsets) - 1)):
        start, end = np.uint64(offsets[i]), np.uint64(offsets[i + _1])
        h = _hash(data, start, end)
        place = h & mask
        while table[place]:
            if table[place] >> _32 == h >> _32:
                other = (table[place] & _LOW) - _1
                k = np.uint64(offsets[other])
                if np.uint64(offsets[other + _1]) - k == end - start:
                    at = start
                    while at < end and data[at] == data[k]:
                        at += _1
                        k += _1
                    if at == end:
                        return False
            place = (place + _1) & mask
        table[place] = h >> _32 << _32 | i + _1
    return True


def split_strings(
    page: npt.NDArray[np.uint8], start: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The strings that a page uint8 [n] has from start on: data[offsets[i]:offsets[i + 1]].

    offsets are int64 [count + 1], data uint8 [offsets[count]]. Raises ValueError if there are fewer
    than count.
    """
    size = len(page) - start - _LENGTH_BYTES * count
    if min(start, count, size) >= 0:
        offsets = np.empty(count + 1, np.int64)
        data = np.empty(size + _WORD_BYTES, np.uint8)
        if _split_strings(page, start, offsets, data):
            return offsets, data[: offsets[-1]]
    raise ValueError(f"its {count} strings end early")


def all_distinct(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> bool:
    """Whether no two of the strings that split_strings() found are equal, of fewer than 2^31."""
    table = np.zeros(2 << (len(offsets) - 1).bit_length(), np.uint64)
    return _all_distinct(offsets, data, table)
