"""How the elements of a batch's buffers are laid out, and writing them so.

docs/compact_batch.md defines the layouts and which one follows from which elements. Elements are
taken apart in blocks that stay in the first cache, and each matrix of them in one call.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out, out2d

Integers: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]

MAX_DISTINCT = 256

# The numbers of headrace.v1.BufferLayout.
BYTE_PLANES, CONSTANT, DICTIONARY = 1, 2, 3

# The columns of a table of layouts.
_LAYOUT, _WIDTH_BITS, _BASE, _DICTIONARY_SIZE, _COUNT, _SIZE_BYTES = range(6)

_0 = np.uint64(0)
_1 = np.uint64(1)
# A multiple of 8, so that packed bits of a block start at a byte.
_BLOCK = 1024

# A hash table that is at most a quarter full.
_SLOT_BITS = 10
_SLOTS = 1 << _SLOT_BITS
_SLOT_MASK = np.uint64(_SLOTS - 1)
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

_DONE = 0
_UNKNOWN_VALUE = -1
_ARENA_LEFT = -2
_COUNT_WRONG = -3


class Layouts(NamedTuple):
    """The layouts of the rows of a matrix of elements.

    table int64 [rows, 6]: layout, width_bits, base, dictionary_size, element_count, size_bytes.
    dictionaries int64 [rows, 256]: the distinct elements of those that have one, ascending.
    """

    table: npt.NDArray[np.int64]
    dictionaries: npt.NDArray[np.int64]


@inner
def _width(span: np.uint64) -> int:
    """The bits in which words from 0 to span are laid out: whole bytes and 0, 1, 2 or 4 more."""
    bits = 0
    while span != _0:
        span >>= _1
        bits += 1
    rest = bits % 8
    if rest == 3:
        return bits + 1
    return bits - rest + 8 if rest > 4 else bits


@inner
def _find_distinct(
    elements: npt.NDArray[np.signedinteger],
    used: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
) -> int:
    """The number of distinct elements, which go to distinct; MAX_DISTINCT + 1 for more."""
    used[:] = False
    count = 0
    for j in range(np.uint64(len(elements))):
        element = np.int64(elements[j])
        slot = (np.uint64(element) * _SPREAD) >> _SLOT_SHIFT
        while used[slot] and slots[slot] != element:
            slot = (slot + _1) & _SLOT_MASK
        if not used[slot]:
            if count == MAX_DISTINCT:
                return MAX_DISTINCT + 1
            used[slot] = True
            slots[slot] = element
            distinct[count] = element
            count += 1
    return count


@inner
def _sort(values: npt.NDArray[np.int64]) -> None:
    for i in range(1, len(values)):
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@kernel(
    *(
        types.void(array2d(word), types.bool_, out2d(types.int64), out2d(types.int64))
        for word in (types.int32, types.int64)
    )
)
def _lay_out(
    elements: npt.NDArray[np.signedinteger],
    with_dictionaries: bool,
    table: npt.NDArray[np.int64],
    dictionaries: npt.NDArray[np.int64],
) -> None:
    used = np.empty(_SLOTS, np.bool_)
    slots = np.empty(_SLOTS, np.int64)
    count = elements.shape[1]
    for f in range(len(elements)):
        row = elements[f]
        low = high = row[0] if count else row.dtype.type(0)
        for j in range(np.uint64(count)):
            low = min(low, row[j])
            high = max(high, row[j])
        layout, base, known = BYTE_PLANES, np.int64(low), 0
        width = _width(np.uint64(np.int64(high)) - np.uint64(np.int64(low)))
        if width == 0:
            layout = CONSTANT
        # Only where a word takes more than a byte can codes be smaller.
        elif width > 8 and with_dictionaries:
            found = _find_distinct(row, used, slots, dictionaries[f])
            if found <= MAX_DISTINCT and 4 * found <= count:
                _sort(dictionaries[f, :found])
                layout, base, known = DICTIONARY, np.int64(0), found
                width = _width(np.uint64(found - 1))
        table[f, _LAYOUT] = layout
        table[f, _WIDTH_BITS] = width
        table[f, _BASE] = base
        table[f, _DICTIONARY_SIZE] = known
        table[f, _COUNT] = count
        table[f, _SIZE_BYTES] = 8 * known + width // 8 * count + (width % 8 * count + 7) // 8


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
    # The most frequent width has a loop of its own, which is unrolled.
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
def _fill_codes(
    dictionary: npt.NDArray[np.int64],
    words: npt.NDArray[np.unsignedinteger],
    codes: npt.NDArray[np.int16],
) -> None:
    """Makes a table of codes, -1 where a slot is empty, and of the dictionary's words."""
    codes[:] = -1
    for code in range(len(dictionary)):
        word = words.dtype.type(dictionary[code])
        slot = (np.uint64(word) * _SPREAD) >> _SLOT_SHIFT
        while codes[slot] >= 0:
            slot = (slot + _1) & _SLOT_MASK
        words[slot] = word
        codes[slot] = code


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
            array2d(word),
            array2d(types.int64),
            array2d(types.int64),
            array(types.int64),
            out(types.uint8),
        )
        for word in (types.uint32, types.uint64)
    )
)
def _write(
    words: npt.NDArray[np.unsignedinteger],
    table: npt.NDArray[np.int64],
    dictionaries: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    arena: npt.NDArray[np.uint8],
) -> int:
    block = np.empty(_BLOCK, words.dtype)
    known = np.zeros(_SLOTS, words.dtype)
    codes = np.empty(_SLOTS, np.int16)
    count = words.shape[1]
    for f in range(len(words)):
        if not 0 <= starts[f] <= len(arena) - table[f, _SIZE_BYTES]:
            return _ARENA_LEFT
        if table[f, _COUNT] != count:
            return _COUNT_WRONG
    for f in range(len(words)):
        width_bits, size = table[f, _WIDTH_BITS], table[f, _DICTIONARY_SIZE]
        if width_bits == 0:
            continue
        for code in range(size):
            for k in range(8):
                byte = dictionaries[f, code] >> (8 * k)
                arena[starts[f] + 8 * code + k] = np.uint8(byte & 0xFF)
        planes = arena[starts[f] + 8 * size :]
        if size:
            _fill_codes(dictionaries[f, :size], known, codes)
        base = words.dtype.type(table[f, _BASE])
        for start in range(0, count, _BLOCK):
            taken = min(_BLOCK, count - start)
            for i in range(np.uint64(taken)):
                block[i] = words[f, np.uint64(start) + i] - base
            if size and not _encode(block, taken, known, codes):
                return _UNKNOWN_VALUE
            _take_apart(block, taken, start, count, width_bits, planes)
    return _DONE


def lay_out(elements: Integers, *, with_dictionaries: bool) -> Layouts:
    """The layout of each row of elements [rows, n], a pure function of the row."""
    table = np.empty((len(elements), 6), np.int64)
    dictionaries = np.empty((len(elements), MAX_DISTINCT), np.int64)
    _lay_out(np.ascontiguousarray(elements), with_dictionaries, table, dictionaries)
    return Layouts(table, dictionaries)


def float_layout(count: int) -> Layouts:
    """The layout of count float32 numbers, as of a matrix of one row."""
    table = np.array([[BYTE_PLANES, 32, 0, 0, count, 4 * count]], np.int64)
    return Layouts(table, np.empty((1, MAX_DISTINCT), np.int64))


def write_elements(
    elements: Integers | npt.NDArray[np.float32],
    layouts: Layouts,
    starts: npt.NDArray[np.int64],
    arena: npt.NDArray[np.uint8],
) -> None:
    """Writes each row of elements [rows, n] as its layout says, from starts[row] of the arena on.

    Raises ValueError if a row leaves the arena, has no layout or start, is not laid out as one of
    its length, or holds what its dictionary lacks.
    """
    table, dictionaries = layouts
    if not len(elements) == len(table) == len(dictionaries) == len(starts):
        raise ValueError(f"{len(table)} layouts and {len(starts)} starts of {len(elements)} rows")
    words = np.ascontiguousarray(elements).view(np.dtype(f"u{elements.dtype.itemsize}"))
    status = _write(words, table, dictionaries, starts, arena)
    if status == _ARENA_LEFT:
        raise ValueError(f"rows leave an arena of {len(arena)} bytes")
    if status == _COUNT_WRONG:
        raise ValueError(f"rows of {elements.shape[1]} elements are laid out as of another number")
    if status == _UNKNOWN_VALUE:
        raise ValueError("a row holds elements that its dictionary lacks")
