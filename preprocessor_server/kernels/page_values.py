"""Values of Parquet pages that are coded by a dictionary, and room for nulls between them.

apache/parquet-format, Encodings.md, "Dictionary Encoding". Nothing outside the given bytes is read,
whatever they are: kernels say False where they end early or hold what cannot be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._hybrid import end_of_packed, head_of_run
from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels._memory import load_word

_MAX_BITS = 32
_WORDS = types.uint16, types.uint32, types.uint64

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_5 = np.uint64(5)
_6 = np.uint64(6)
_7 = np.uint64(7)
_8 = np.uint64(8)


@inner
def _number(data: npt.NDArray[np.uint8], at: np.uint64, end: np.uint64) -> np.uint64:
    """Up to eight bytes, little-endian."""
    number = _0
    for k in range(min(end - at, _8)):
        number |= np.uint64(data[at + k]) << (k << _3)
    return number


@inner
def _look_up_groups(
    from_: np.uint64,
    width: np.uint64,
    groups: np.uint64,
    dictionary: npt.NDArray[np.unsignedinteger[Any]],
    values: npt.NDArray[np.unsignedinteger[Any]],
    first: np.uint64,
) -> bool:
    """Values of bit-packed groups of eight codes at an address, behind which 8 bytes are readable.

    A code of 32 bits lies in the 8 bytes from that in which it begins.
    """
    size = np.uint64(len(dictionary))
    mask = (_1 << width) - _1
    bit_1, bit_2, bit_3, bit_4 = width, width * _2, width * _3, width * _4
    bit_5, bit_6, bit_7 = width * _5, width * _6, width * _7
    for g in range(groups):
        at = from_ + g * width
        code_0 = load_word(at) & mask
        code_1 = (load_word(at + (bit_1 >> _3)) >> (bit_1 & _7)) & mask
        code_2 = (load_word(at + (bit_2 >> _3)) >> (bit_2 & _7)) & mask
        code_3 = (load_word(at + (bit_3 >> _3)) >> (bit_3 & _7)) & mask
        code_4 = (load_word(at + (bit_4 >> _3)) >> (bit_4 & _7)) & mask
        code_5 = (load_word(at + (bit_5 >> _3)) >> (bit_5 & _7)) & mask
        code_6 = (load_word(at + (bit_6 >> _3)) >> (bit_6 & _7)) & mask
        code_7 = (load_word(at + (bit_7 >> _3)) >> (bit_7 & _7)) & mask
        low, high = max(code_0, code_1, code_2, code_3), max(code_4, code_5, code_6, code_7)
        if low >= size or high >= size:
            return False
        i = first + (g << _3)
        values[i] = dictionary[code_0]
        values[i + _1] = dictionary[code_1]
        values[i + _2] = dictionary[code_2]
        values[i + _3] = dictionary[code_3]
        values[i + _4] = dictionary[code_4]
        values[i + _5] = dictionary[code_5]
        values[i + _6] = dictionary[code_6]
        values[i + _7] = dictionary[code_7]
    return True


@inner
def _look_up_packed(
    data: npt.NDArray[np.uint8],
    at: np.uint64,
    end: np.uint64,
    width: np.uint64,
    dictionary: npt.NDArray[np.unsignedinteger[Any]],
    values: npt.NDArray[np.unsignedinteger[Any]],
    first: np.uint64,
    stop: np.uint64,
) -> bool:
    """Values first to stop, whose bit-packed codes begin at a byte and end before end."""
    groups = (stop - first) >> _3
    # Of a group, what its last code is loaded with.
    reach = ((width * _7) >> _3) + _8
    groups = _0 if end - at < reach else min(groups, (end - at - reach) // width + _1)
    address = np.uint64(data.ctypes.data) + at
    if not _look_up_groups(address, width, groups, dictionary, values, first):
        return False
    mask = (_1 << width) - _1
    size = np.uint64(len(dictionary))
    for i in range(groups << _3, stop - first):
        bit = i * width
        code = (_number(data, at + (bit >> _3), end) >> (bit & _7)) & mask
        if code >= size:
            return False
        values[first + i] = dictionary[code]
    return True


@inner
def _look_up(
    data: npt.NDArray[np.uint8],
    start: np.uint64,
    width: np.uint64,
    dictionary: npt.NDArray[np.unsignedinteger[Any]],
    values: npt.NDArray[np.unsignedinteger[Any]],
) -> bool:
    size, count, end = np.uint64(len(dictionary)), np.uint64(len(values)), np.uint64(len(data))
    octets = (width + _7) >> _3
    at, done = start, _0
    while done < count:
        head, at = head_of_run(data, at, end)
        if at == _0:
            return False
        run, left = head >> _1, count - done
        if head & _1:
            run = min(run << _3, left) if run < left else left
            if (run * width + _7) >> _3 > end - at:
                return False
            if width > _0:
                if not _look_up_packed(data, at, end, width, dictionary, values, done, done + run):
                    return False
                at = end_of_packed(at, end, head >> _1, width)
                done += run
                continue
            code = _0
        else:
            run = min(run, left)
            if octets > end - at:
                return False
            code = _number(data, at, at + octets)
            at += octets
        if code >= size:
            return False
        for i in range(done, done + run):
            values[i] = dictionary[code]
        done += run
    return True


@inner
def _move(valid: npt.NDArray[np.uint8], values: npt.NDArray[np.unsignedinteger[Any]]) -> None:
    """As spread() does."""
    from_ = _0
    for i in range(np.uint64(len(valid))):
        from_ += np.uint64(valid[i]) & _1
    # From the end, so that no value is overwritten before it is moved.
    to = np.uint64(len(valid))
    while to > _0:
        to -= _1
        there = np.uint64(valid[to]) & _1
        from_ -= there
        # A mask, not a branch: where nulls are anywhere, that is mispredicted.
        values[to] = values[from_] & (_0 - there)


@kernel(
    *(
        types.bool_(
            array(types.uint8),
            types.int64,
            types.int64,
            array(word),
            types.int64,
            array(types.uint8),
            out(word),
        )
        for word in _WORDS
    )
)
def _read_coded(
    data: npt.NDArray[np.uint8],
    start: int,
    width: int,
    dictionary: npt.NDArray[np.unsignedinteger[Any]],
    count: int,
    valid: npt.NDArray[np.uint8],
    values: npt.NDArray[np.unsignedinteger[Any]],
) -> bool:
    begin, bits = np.uint64(start), np.uint64(width)
    if count and not _look_up(data, begin, bits, dictionary, values[:count]):
        return False
    if len(valid):
        _move(valid, values)
    return True


@kernel(*(types.void(array(types.uint8), out(word)) for word in _WORDS))
def _spread(valid: npt.NDArray[np.uint8], values: npt.NDArray[np.unsignedinteger[Any]]) -> None:
    _move(valid, values)


_EACH = np.empty(0, np.uint8)


def read_coded(
    data: npt.NDArray[np.uint8],
    start: int,
    dictionary: npt.NDArray[Any],
    values: npt.NDArray[Any],
    valid: npt.NDArray[np.uint8] | None = None,
    count: int | None = None,
) -> None:
    """Reads values [n] of a dictionary [k] by their codes, which data uint8 has from start on.

    Both hold words of 2, 4 or 8 bytes. The byte before the codes is their width in bits. Where
    valid uint8 [n] is given, there are codes for the count values for which it is 1; others become
    0. Raises ValueError if there are fewer codes, or one is outside the dictionary.
    """
    there = len(values) if count is None else count
    if (len(values) if valid is None else len(valid)) != len(values) or there > len(values):
        raise IndexError(f"{there} of {len(values)} values")
    width = 0
    if there:
        width = int(data[start]) if 0 <= start < len(data) else -1
    if not 0 <= width <= _MAX_BITS or not _read_coded(
        data,
        start + 1,
        width,
        dictionary,
        there,
        _EACH if valid is None else valid,
        values,
    ):
        raise ValueError(f"its {there} codes end early, or leave their dictionary")


def spread(valid: npt.NDArray[np.uint8], values: npt.NDArray[Any]) -> None:
    """Moves the first of values [n], words, to where valid uint8 [n] is 1, and puts 0 elsewhere."""
    if len(valid) != len(values):
        raise IndexError(f"{len(valid)} of {len(values)} values")
    _spread(valid, values)
