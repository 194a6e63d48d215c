"""Writes rows into the arena of a batch as byte planes; docs/compact_batch.md defines the layouts.

Values are gathered into a block that stays in the first cache, and taken apart from there, so each
is copied once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out
from preprocessor_server.kernels.lists import MAX_DISTINCT, check_lists, row_outside

_DONE = 0
_ROW_OUTSIDE = -1
_TOTAL_WRONG = -2
_UNKNOWN_VALUE = -3

_0 = np.uint64(0)
_1 = np.uint64(1)
# A multiple of 8, so that packed bits of a block start at a byte.
_BLOCK = 1024

_SLOT_BITS = 10
_SLOTS = 1 << _SLOT_BITS
_SLOT_MASK = np.uint64(_SLOTS - 1)
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@inner
def _take_apart(
    block: npt.NDArray[np.unsignedinteger],
    size: int,
    position: int,
    count: int,
    width_bits: int,
    planes: npt.NDArray[np.uint8],
) -> None:
    """Writes the words [position, position + size) of count words, from a block."""
    whole = width_bits // 8
    for plane in range(whole):
        shift = block.dtype.type(8 * plane)
        first = np.uint64(plane * count + position)
        for i in range(np.uint64(size)):
            planes[first + i] = np.uint8(block[i] >> shift)
    bits = width_bits - 8 * whole
    if bits == 0:
        return
    shift = block.dtype.type(8 * whole)
    per_byte = 8 // bits
    first = np.uint64(whole * count + position // per_byte)
    full = np.uint64(size // per_byte)
    # One loop for each width, so that each is unrolled.
    if bits == 4:
        for i in range(full):
            at = i * np.uint64(2)
            planes[first + i] = np.uint8(
                (block[at] >> shift) | ((block[at + _1] >> shift) << block.dtype.type(4))
            )
    else:
        for i in range(full):
            packed = 0
            for k in range(per_byte):
                word = block[i * np.uint64(per_byte) + np.uint64(k)] >> shift
                packed |= int(word) << (bits * k)
            planes[first + i] = np.uint8(packed)
    if size % per_byte:
        packed = 0
        for k in range(size % per_byte):
            word = block[full * np.uint64(per_byte) + np.uint64(k)] >> shift
            packed |= int(word) << (bits * k)
        planes[first + full] = np.uint8(packed)


@inner
def _code_table(
    dictionary: npt.NDArray[np.int64], words: npt.NDArray[np.unsignedinteger]
) -> npt.NDArray[np.int16]:
    """The slots of a table of codes, -1 where empty; the dictionary's words go to words."""
    codes = np.full(_SLOTS, -1, np.int16)
    for code in range(len(dictionary)):
        word = words.dtype.type(dictionary[code])
        slot = (np.uint64(word) * _SPREAD) >> _SLOT_SHIFT
        while codes[slot] >= 0:
            slot = (slot + _1) & _SLOT_MASK
        words[slot] = word
        codes[slot] = code
    return codes


@inner
def _encode(
    block: npt.NDArray[np.unsignedinteger],
    size: int,
    words: npt.NDArray[np.unsignedinteger],
    codes: npt.NDArray[np.int16],
) -> bool:
    """Makes codes of a block's words; False if the table lacks one."""
    for i in range(np.uint64(size)):
        slot = (np.uint64(block[i]) * _SPREAD) >> _SLOT_SHIFT
        while words[slot] != block[i] or codes[slot] < 0:
            if codes[slot] < 0:
                return False
            slot = (slot + _1) & _SLOT_MASK
        block[i] = codes[slot]
    return True


@kernel(
    *(
        types.int64(
            array(types.int64),
            array(word),
            array(types.int64),
            types.int64,
            types.int64,
            types.int64,
            array(types.int64),
            out(types.uint8),
        )
        for word in (types.uint32, types.uint64)
    )
)
def _list_planes(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.unsignedinteger],
    rows: npt.NDArray[np.int64],
    count: int,
    base: int,
    width_bits: int,
    dictionary: npt.NDArray[np.int64],
    planes: npt.NDArray[np.uint8],
) -> int:
    list_count = np.uint64(len(offsets) - 1)
    row_count = np.uint64(len(rows))
    block = np.empty(_BLOCK, values.dtype)
    least = values.dtype.type(base)
    known = np.zeros(_SLOTS, values.dtype)
    codes = _code_table(dictionary, known)
    fill = _0
    position = 0
    i = _0
    while i < row_count:
        first = np.uint64(rows[i])
        last = first + _1
        i += _1
        while i < row_count and np.uint64(rows[i]) == last:
            last += _1
            i += _1
        if first >= list_count or last > list_count:
            return _ROW_OUTSIDE
        at = np.uint64(offsets[first])
        end = np.uint64(offsets[last])
        while at < end:
            size = min(end - at, np.uint64(_BLOCK) - fill)
            for j in range(size):
                block[fill + j] = values[at + j] - least
            fill += size
            at += size
            if fill == np.uint64(_BLOCK):
                if position + _BLOCK > count:
                    return _TOTAL_WRONG
                if len(dictionary) and not _encode(block, _BLOCK, known, codes):
                    return _UNKNOWN_VALUE
                _take_apart(block, _BLOCK, position, count, width_bits, planes)
                position += _BLOCK
                fill = _0
    rest = int(fill)
    if position + rest != count:
        return _TOTAL_WRONG
    if len(dictionary) and not _encode(block, rest, known, codes):
        return _UNKNOWN_VALUE
    _take_apart(block, rest, position, count, width_bits, planes)
    return _DONE


@kernel(
    *(
        types.int64(array2d(word), array2d(types.int64), array2d(types.int64), out(types.uint8))
        for word in (types.uint32, types.uint64)
    )
)
def _ids_planes(
    ids: npt.NDArray[np.unsignedinteger],
    table: npt.NDArray[np.int64],
    dictionaries: npt.NDArray[np.int64],
    arena: npt.NDArray[np.uint8],
) -> int:
    block = np.empty(_BLOCK, ids.dtype)
    known = np.zeros(_SLOTS, ids.dtype)
    count = ids.shape[1]
    for f in range(len(ids)):
        width_bits, dictionary_size = table[f, 1], table[f, 3]
        if width_bits == 0:
            continue
        planes = arena[table[f, 0] :]
        codes = _code_table(dictionaries[f, :dictionary_size], known)
        least = ids.dtype.type(table[f, 2])
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            for i in range(np.uint64(size)):
                block[i] = ids[f, np.uint64(start) + i] - least
            if dictionary_size and not _encode(block, size, known, codes):
                return _UNKNOWN_VALUE
            _take_apart(block, size, start, count, width_bits, planes)
    return _DONE


@kernel(
    types.void(array(types.uint32), types.uint32, types.int64, out(types.uint8)),
)
def _word_planes(
    words: npt.NDArray[np.uint32], base: np.uint32, width_bits: int, planes: npt.NDArray[np.uint8]
) -> None:
    block = np.empty(_BLOCK, np.uint32)
    for start in range(0, len(words), _BLOCK):
        size = min(_BLOCK, len(words) - start)
        for i in range(np.uint64(size)):
            block[i] = words[np.uint64(start) + i] - base
        _take_apart(block, size, start, len(words), width_bits, planes)


def list_planes(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.signedinteger],
    rows: npt.NDArray[np.int64],
    count: int,
    base: int,
    width_bits: int,
    dictionary: npt.NDArray[np.int64],
    planes: npt.NDArray[np.uint8],
) -> None:
    """Writes the values of the given rows' lists, count of them, as byte planes.

    values is int32 or int64; rows is int64 [k] in any order. Words are value - base, of no more
    bits than a value; or, where dictionary is not empty and base is 0, the value's place in it
    (1 to 256 distinct values). planes is uint8 [planes_bytes(count, width_bits)]. Raises IndexError
    for a row that does not exist, ValueError if the lists do not hold count values, or one that
    the dictionary lacks, or if dictionary, words or planes have another size.
    """
    check_lists(offsets, len(values))
    _check_room(planes, count, width_bits)
    if len(dictionary) > MAX_DISTINCT or width_bits > 8 * values.dtype.itemsize:
        raise ValueError(
            f"a dictionary of {len(dictionary)} values or words of {width_bits} bits are too large"
        )
    words = np.ascontiguousarray(values).view(np.dtype(f"u{values.dtype.itemsize}"))
    rows = np.ascontiguousarray(rows)
    status = _list_planes(
        np.ascontiguousarray(offsets), words, rows, count, base, width_bits, dictionary, planes
    )
    if status == _ROW_OUTSIDE:
        raise row_outside(rows, len(offsets) - 1)
    if status == _TOTAL_WRONG:
        raise ValueError(f"the rows do not hold {count} values")
    if status == _UNKNOWN_VALUE:
        raise ValueError(f"the rows hold values that a dictionary of {len(dictionary)} lacks")


def ids_planes(
    ids: npt.NDArray[np.signedinteger],
    buffers: Sequence[tuple[int, int, int, npt.NDArray[np.int64]]],
    arena: npt.NDArray[np.uint8],
) -> None:
    """Writes each row of ids [k, n], int32 or int64, as byte planes into the arena.

    buffers [k] give for each row where its planes start, width_bits, base, and the dictionary as in
    list_planes. Raises ValueError if planes would leave the arena, or a dictionary lacks an id.
    """
    table = np.array([(at, bits, base, len(known)) for at, bits, base, known in buffers], np.int64)
    dictionaries = np.zeros((len(buffers), MAX_DISTINCT), np.int64)
    for row, (at, width_bits, _, known) in zip(dictionaries, buffers, strict=True):
        if not 0 <= at <= len(arena) - planes_bytes(ids.shape[1], width_bits):
            raise ValueError(f"{ids.shape[1]} words of {width_bits} bits at {at} leave the arena")
        row[: len(known)] = known
    words = np.ascontiguousarray(ids).view(np.dtype(f"u{ids.dtype.itemsize}"))
    if _ids_planes(words, table, dictionaries, arena) != _DONE:
        raise ValueError("the rows hold ids that their dictionary lacks")


def word_planes(
    values: npt.NDArray[np.int32] | npt.NDArray[np.float32],
    base: int,
    width_bits: int,
    planes: npt.NDArray[np.uint8],
) -> None:
    """Writes values [n], or the bits of floats, less base as byte planes.

    planes is uint8 [planes_bytes(n, width_bits)].
    Raises ValueError if planes has another size.
    """
    _check_room(planes, len(values), width_bits)
    _word_planes(
        np.ascontiguousarray(values).view(np.uint32),
        np.uint32(base & 0xFFFFFFFF),
        width_bits,
        planes,
    )


def planes_bytes(count: int, width_bits: int) -> int:
    """The size of count words of width_bits as byte planes, in bytes."""
    whole, bits = divmod(width_bits, 8)
    return whole * count + -(-count * bits // 8)


def _check_room(planes: npt.NDArray[np.uint8], count: int, width_bits: int) -> None:
    if len(planes) != planes_bytes(count, width_bits):
        raise ValueError(f"{len(planes)} bytes for {count} words of {width_bits} bits")
