"""How the elements of a batch's buffers are laid out, and writing them so.

docs/compact_batch.md defines the layouts and which one follows from which elements. Elements are
taken apart in blocks that stay in the first cache, and all buffers of a batch in one call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array2d, inner, kernel, out, out2d
from preprocessor_server.kernels._memory import address_of, carray, pointer

Elements: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64] | npt.NDArray[np.float32]

# A row of a table of buffers: address, elements, bytes of each, kind.
Entry: TypeAlias = tuple[int, int, int, int]

ALIGNMENT = 64

MAX_DISTINCT = 256
# How many elements there are of each distinct one, at least: of integers, and of numbers.
LEAST_PER_INTEGER = 4
LEAST_PER_NUMBER = 16
# Of numbers: distinct highest bytes, and how many elements there are of each at least.
MAX_TOPS = 16
LEAST_PER_TOP = 64

# The numbers of headrace.v1.BufferLayout.
BYTE_PLANES, CONSTANT, DICTIONARY, TOP_DICTIONARY = 1, 2, 3, 4

# What the elements of a buffer are: float32 or float64 numbers, lengths, lengths that are all 1
# (they lie nowhere), integers that a dictionary is tried for, or words of which 16 bits count.
FLOATS, LENGTHS, ONES, IDS, HALVES = range(5)

# The columns of a table of buffers.
_ADDRESS, _ELEMENTS, _WORD_BYTES, _KIND = range(4)

# The columns of a table of layouts.
_LAYOUT, _OFFSET_BYTES, _SIZE_BYTES, _COUNT, _WIDTH_BITS, _BASE, _DICTIONARY_SIZE = range(7)

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
    """How buffers are laid out in an arena of size_bytes, one after the other.

    table int64 [buffers, 7]: layout, offset_bytes, size_bytes, element_count, width_bits, base,
    dictionary_size. dictionaries int64 [buffers, 256]: the distinct elements, or highest bytes, of
    those that have one, ascending. planes int64 [buffers, 11]: between each two numbers of a row
    lie a buffer's dictionary, its eight planes and the bits above them; what it does not have takes
    no bytes.
    """

    table: npt.NDArray[np.int64]
    dictionaries: npt.NDArray[np.int64]
    planes: npt.NDArray[np.int64]
    size_bytes: int


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
    elements: npt.NDArray[np.integer],
    most: int,
    used: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    distinct: npt.NDArray[np.int64],
) -> int:
    """The number of distinct elements, which go to distinct; 0 if they are more than most."""
    used[:] = False
    count = 0
    for j in range(np.uint64(len(elements))):
        element = np.int64(elements[j])
        slot = (np.uint64(element) * _SPREAD) >> _SLOT_SHIFT
        while used[slot] and slots[slot] != element:
            slot = (slot + _1) & _SLOT_MASK
        if not used[slot]:
            if count == most:
                return 0
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


@inner
def _lay_out_integers(
    elements: npt.NDArray[np.signedinteger],
    with_dictionary: bool,
    used: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    dictionary: npt.NDArray[np.int64],
    entry: npt.NDArray[np.int64],
) -> None:
    count = len(elements)
    low = high = elements[0] if count else elements.dtype.type(0)
    for j in range(np.uint64(count)):
        low = min(low, elements[j])
        high = max(high, elements[j])
    layout, base, known = BYTE_PLANES, np.int64(low), 0
    width = _width(np.uint64(np.int64(high)) - np.uint64(np.int64(low)))
    if width == 0:
        layout = CONSTANT
    # Only where a word takes more than a byte can codes be smaller.
    elif width > 8 and with_dictionary:
        most = min(MAX_DISTINCT, count // LEAST_PER_INTEGER)
        found = _find_distinct(elements, most, used, slots, dictionary)
        if found > 0:
            _sort(dictionary[:found])
            layout, base, known = DICTIONARY, np.int64(0), found
            width = _width(np.uint64(found - 1))
    entry[_LAYOUT] = layout
    entry[_WIDTH_BITS] = width
    entry[_BASE] = base
    entry[_DICTIONARY_SIZE] = known


@inner
def _lay_out_numbers(
    words: npt.NDArray[np.unsignedinteger],
    bits: int,
    used: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    dictionary: npt.NDArray[np.int64],
    entry: npt.NDArray[np.int64],
) -> None:
    """Lays out words of so many bits."""
    count = len(words)
    entry[_BASE] = 0
    most = min(MAX_DISTINCT, count // LEAST_PER_NUMBER)
    found = _find_distinct(words, most, used, slots, dictionary)
    if found > 1:
        _sort(dictionary[:found])
        entry[_LAYOUT], entry[_DICTIONARY_SIZE] = DICTIONARY, found
        entry[_WIDTH_BITS] = _width(np.uint64(found - 1))
        return
    seen, found = used, 0
    shift = words.dtype.type(bits - 8)
    seen[:256] = False
    for j in range(np.uint64(count)):
        seen[(words[j] >> shift) & words.dtype.type(255)] = True
    for top in range(256):
        if seen[top]:
            dictionary[found] = top
            found += 1
    entry[_LAYOUT], entry[_WIDTH_BITS] = BYTE_PLANES, bits
    entry[_DICTIONARY_SIZE] = 0
    if 2 <= found <= MAX_TOPS and count >= LEAST_PER_TOP * found:
        entry[_LAYOUT], entry[_DICTIONARY_SIZE] = TOP_DICTIONARY, found
        entry[_WIDTH_BITS] = bits - 8 + _width(np.uint64(found - 1))


@kernel(
    types.int64(array2d(types.int64), out2d(types.int64), out2d(types.int64), out2d(types.int64))
)
def _lay_out(
    buffers: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    dictionaries: npt.NDArray[np.int64],
    planes: npt.NDArray[np.int64],
) -> int:
    used = np.empty(_SLOTS, np.bool_)
    slots = np.empty(_SLOTS, np.int64)
    end = 0
    for b in range(len(buffers)):
        kind, count = buffers[b, _KIND], buffers[b, _ELEMENTS]
        address = pointer(buffers[b, _ADDRESS])
        entry, dictionary = table[b], dictionaries[b]
        if kind == FLOATS and buffers[b, _WORD_BYTES] == 8:
            doubles = carray(address, count, np.uint64)
            _lay_out_numbers(doubles, 64, used, slots, dictionary, entry)
        elif kind in (FLOATS, HALVES):
            singles = carray(address, count, np.uint32)
            bits = 32 if kind == FLOATS else 16
            _lay_out_numbers(singles, bits, used, slots, dictionary, entry)
        elif kind == ONES:
            entry[_LAYOUT], entry[_WIDTH_BITS] = CONSTANT, 0
            entry[_BASE], entry[_DICTIONARY_SIZE] = min(count, 1), 0
        elif buffers[b, _WORD_BYTES] == 4:
            words = carray(address, count, np.int32)
            _lay_out_integers(words, kind == IDS, used, slots, dictionary, entry)
        else:
            wide = carray(address, count, np.int64)
            _lay_out_integers(wide, kind == IDS, used, slots, dictionary, entry)
        width, at = entry[_WIDTH_BITS], end
        planes[b, 0] = at
        at += 8 * entry[_DICTIONARY_SIZE]
        planes[b, 1] = at
        for plane in range(8):
            at += count if plane < width // 8 else 0
            planes[b, 2 + plane] = at
        at += (width % 8 * count + 7) // 8
        planes[b, 10] = at
        entry[_COUNT] = count
        entry[_SIZE_BYTES] = at - end
        entry[_OFFSET_BYTES] = end
        end = (at + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return end


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


@inner
def _fill_tops(
    dictionary: npt.NDArray[np.int64], shift: int, table: npt.NDArray[np.unsignedinteger]
) -> None:
    """Makes a table of the codes of highest bytes, where they stand in words; all ones for none."""
    table[:256] = ~table.dtype.type(0)
    for code in range(len(dictionary)):
        table[dictionary[code] & 0xFF] = table.dtype.type(code) << table.dtype.type(shift)


@inner
def _encode_tops(
    block: npt.NDArray[np.unsignedinteger],
    size: int,
    shift: int,
    table: npt.NDArray[np.unsignedinteger],
) -> bool:
    """Makes codes of the highest bytes of a block's words; False if the table lacks one."""
    by = block.dtype.type(shift)
    below = (block.dtype.type(1) << by) - block.dtype.type(1)
    used = block.dtype.type(0)
    for i in range(np.uint64(size)):
        code = table[(block[i] >> by) & block.dtype.type(255)]
        used |= code
        block[i] = (block[i] & below) | code
    return bool((used >> by) < MAX_TOPS)


@inner
def _write_buffer(
    words: npt.NDArray[np.unsignedinteger],
    entry: npt.NDArray[np.int64],
    dictionary: npt.NDArray[np.int64],
    block: npt.NDArray[np.unsignedinteger],
    known: npt.NDArray[np.unsignedinteger],
    codes: npt.NDArray[np.int16],
    arena: npt.NDArray[np.uint8],
) -> bool:
    """Writes the words of a buffer; False if its dictionary lacks one."""
    width_bits, size, start = entry[_WIDTH_BITS], entry[_DICTIONARY_SIZE], entry[_OFFSET_BYTES]
    if width_bits == 0:
        return True
    for code in range(size):
        for k in range(8):
            byte = dictionary[code] >> (8 * k)
            arena[start + 8 * code + k] = np.uint8(byte & 0xFF)
    planes = arena[start + 8 * size :]
    is_top = entry[_LAYOUT] == TOP_DICTIONARY
    if is_top:
        _fill_tops(dictionary[:size], width_bits // 8 * 8, known)
    elif size:
        _fill_codes(dictionary[:size], known, codes)
    base = words.dtype.type(entry[_BASE])
    count = len(words)
    for first in range(0, count, _BLOCK):
        taken = min(_BLOCK, count - first)
        for i in range(np.uint64(taken)):
            block[i] = words[np.uint64(first) + i] - base
        if is_top:
            if not _encode_tops(block, taken, width_bits // 8 * 8, known):
                return False
        elif size and not _encode(block, taken, known, codes):
            return False
        _take_apart(block, taken, first, count, width_bits, planes)
    return True


@kernel(
    types.int64(array2d(types.int64), array2d(types.int64), array2d(types.int64), out(types.uint8))
)
def _write(
    buffers: npt.NDArray[np.int64],
    table: npt.NDArray[np.int64],
    dictionaries: npt.NDArray[np.int64],
    arena: npt.NDArray[np.uint8],
) -> int:
    end = 0
    for b in range(len(buffers)):
        if not end <= table[b, _OFFSET_BYTES] <= len(arena) - table[b, _SIZE_BYTES]:
            return _ARENA_LEFT
        if table[b, _COUNT] != buffers[b, _ELEMENTS]:
            return _COUNT_WRONG
        end = table[b, _OFFSET_BYTES] + table[b, _SIZE_BYTES]
    codes = np.empty(_SLOTS, np.int16)
    narrow_block, narrow_known = np.empty(_BLOCK, np.uint32), np.zeros(_SLOTS, np.uint32)
    wide_block, wide_known = np.empty(_BLOCK, np.uint64), np.zeros(_SLOTS, np.uint64)
    end = 0
    for b in range(len(buffers)):
        entry, count = table[b], buffers[b, _ELEMENTS]
        arena[end : entry[_OFFSET_BYTES]] = 0
        end = entry[_OFFSET_BYTES] + entry[_SIZE_BYTES]
        address = pointer(buffers[b, _ADDRESS])
        if buffers[b, _WORD_BYTES] == 4:
            words = carray(address, count, np.uint32)
            fits = _write_buffer(
                words, entry, dictionaries[b], narrow_block, narrow_known, codes, arena
            )
        else:
            wide = carray(address, count, np.uint64)
            fits = _write_buffer(wide, entry, dictionaries[b], wide_block, wide_known, codes, arena)
        if not fits:
            return _UNKNOWN_VALUE
    arena[end:] = 0
    return _DONE


class Buffers:
    """The elements of a batch's buffers where they lie in memory, in the order of the arena."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        # Kept for as long as their addresses are.
        self._held: list[npt.NDArray[Any]] = []
        self._table = np.empty((0, 4), np.int64)

    def __len__(self) -> int:
        return len(self._entries)

    def rows(self, elements: Elements, kind: int) -> list[Entry]:
        """What stands for each row of elements [rows, n]; add() makes a buffer of it.

        IDS and LENGTHS are int32 or int64, FLOATS float32 or float64, HALVES uint32.
        """
        held = np.ascontiguousarray(elements)
        self._held.append(held)
        first, (rows, count), width = address_of(held), held.shape, held.itemsize
        return [(first + row * count * width, count, width, kind) for row in range(rows)]

    def add(self, entries: Iterable[Entry]) -> None:
        """Adds buffers that rows() has given, or ones()."""
        self._entries += entries

    def table(self) -> npt.NDArray[np.int64]:
        """What kernels take, int64 [buffers, 4]."""
        if len(self._table) != len(self._entries):
            self._table = np.array(self._entries, np.int64).reshape(-1, 4)
        return self._table


def ones(count: int) -> Entry:
    """What stands for as many lengths that are all 1."""
    return 0, count, 4, ONES


def lay_out(buffers: Buffers) -> Layouts:
    """The layout of each buffer, a pure function of its elements, and its place in the arena."""
    table = np.empty((len(buffers), 7), np.int64)
    dictionaries = np.empty((len(buffers), MAX_DISTINCT), np.int64)
    planes = np.empty((len(buffers), 11), np.int64)
    size_bytes = _lay_out(buffers.table(), table, dictionaries, planes)
    return Layouts(table, dictionaries, planes, size_bytes)


def write_buffers(buffers: Buffers, layouts: Layouts, arena: npt.NDArray[np.uint8]) -> None:
    """Writes each buffer as its layout says, to its place in the arena; padding becomes zero.

    Raises ValueError if a buffer leaves the arena or overlaps another, has no layout, is not laid
    out as one of its length, or holds what its dictionary lacks.
    """
    if len(buffers) != len(layouts.table):
        raise ValueError(f"{len(layouts.table)} layouts of {len(buffers)} buffers")
    status = _write(buffers.table(), layouts.table, layouts.dictionaries, arena)
    if status == _ARENA_LEFT:
        raise ValueError(f"buffers leave an arena of {len(arena)} bytes, or overlap")
    if status == _COUNT_WRONG:
        raise ValueError("a buffer is laid out as of another number of elements")
    if status == _UNKNOWN_VALUE:
        raise ValueError("a buffer holds elements that its dictionary lacks")
