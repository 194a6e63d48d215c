"""From the arena of the wire to the decoded one: every layout of docs/compact_batch.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_client.kernels._jit import (
    BYTES_IN,
    BYTES_OUT,
    INT64,
    TABLE,
    TABLE_IN,
    UINT64,
    inner,
    kernel,
)

# A row of the table of buffers: the nine header words of a buffer, where it is decoded to, of the
# values of a sparse feature how many there are once runs are expanded to rows, and the type that it
# is decoded to.
ROLE, LAYOUT, TYPE, OFFSET, SIZE, COUNT, WIDTH, BASE, DICTIONARY_SIZE = range(9)
DECODED_OFFSET, EXPANDED_COUNT, DECODED_TYPE = 9, 10, 11
BUFFER_COLUMNS = 12

# A row of the table of parts: the kind of its block, its features, its runs (0: it is sent once a
# row), the batch's rows, which rows of the table of buffers are its own, and the types of its
# block's values and weights (0: it has none).
KIND, FEATURES, RUNS, ROWS, FIRST, END, DTYPE, WEIGHTS_DTYPE = range(8)
PART_COLUMNS = 8

# The contract's numbers; a test compares them with it.
SPARSE, META = 2, 4
VALUES, LENGTHS, RUN_LENGTHS, WEIGHTS = 1, 2, 3, 4
BYTE_PLANES, CONSTANT, DICTIONARY, TOP_DICTIONARY = 1, 2, 3, 4
TYPE_INT32, TYPE_INT64, TYPE_FLOAT32, TYPE_FLOAT64, TYPE_FLOAT16, TYPE_BFLOAT16 = range(1, 7)

ALIGNMENT = 64
# Of elements in a buffer: sums of sizes up to it do not overflow.
MAX_COUNT = 1 << 40

# What is wrong with a buffer, told as -(FAULT_STEP * row + fault).
FAULT_STEP = 64
UNKNOWN_ROLE, UNKNOWN_LAYOUT, UNKNOWN_TYPE, WRONG_KIND, WRONG_COUNT, WRONG_PLACE = range(1, 7)
WRONG_WIDTH, WRONG_SIZE, CODE_OUTSIDE, RUNS_UNEVEN, LENGTHS_UNEVEN, WRONG_CHECKSUM = range(7, 13)
WRONG_LAYOUT, WRONG_BASE, WRONG_DICTIONARY = range(13, 16)

# Elements unpacked at a time, a multiple of 8: what is read and written stays in the L1 cache.
BLOCK = np.uint64(1024)

# Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
# LLVM from vectorising them. Arrays are indexed, not sliced, and inner functions are compiled for
# one type each: what numba spends on either adds up to many seconds where there is no cache.
_u32: Any = np.uint32
_u64: Any = np.uint64

# Of XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
_PRIME_1, _PRIME_2 = _u64(0x9E3779B185EBCA87), _u64(0xC2B2AE3D27D4EB4F)
_PRIME_3, _PRIME_4 = _u64(0x165667B19E3779F9), _u64(0x85EBCA77C2B2AE63)
_PRIME_5 = _u64(0x27D4EB2F165667C5)

Table = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]
Words32 = npt.NDArray[np.uint32]
Words64 = npt.NDArray[np.uint64]
# A byte and a word for each element of a block, the elements of a dictionary, and another byte.
Scratch = tuple[Bytes, Words32, Words64, Bytes]
# The decoded arena as words of 16, 32 and 64 bits, and as float64.
Decoded = tuple[npt.NDArray[np.uint16], Words32, Words64, npt.NDArray[np.float64]]


@inner
def _bytes_of(scalar: int) -> int:
    """The size of an element of a type."""
    if scalar in (TYPE_INT64, TYPE_FLOAT64):
        return 8
    return 2 if scalar >= TYPE_FLOAT16 else 4


@inner
def _kind_fault(buffers: Table, row: int, parts: Table, p: int) -> int:
    """0, or what is wrong with the role, type or count of a buffer in its part.

    The type that it is decoded to is filled in.
    """
    if not VALUES <= buffers[row, ROLE] <= WEIGHTS:
        return UNKNOWN_ROLE
    if not TYPE_INT32 <= buffers[row, TYPE] <= TYPE_BFLOAT16:
        return UNKNOWN_TYPE
    place, runs, count = row - parts[p, FIRST], parts[p, RUNS], buffers[row, COUNT]
    role, kind, expected = VALUES, parts[p, DTYPE], count
    if parts[p, KIND] == META:
        expected = parts[p, ROWS]
    elif parts[p, KIND] != SPARSE:
        expected = parts[p, FEATURES] * parts[p, ROWS]
    elif runs > 0 and place == 0:
        role, kind, expected = RUN_LENGTHS, TYPE_INT32, runs
    elif place == (1 if runs > 0 else 0):
        role, kind = LENGTHS, TYPE_INT32
        expected = parts[p, FEATURES] * (runs if runs > 0 else parts[p, ROWS])
    elif parts[p, WEIGHTS_DTYPE] != 0 and row == parts[p, END] - 1:
        role, kind, expected = WEIGHTS, parts[p, WEIGHTS_DTYPE], 0
        for values in range(row - parts[p, FEATURES], row):
            expected += buffers[values, COUNT]
    buffers[row, DECODED_TYPE] = kind
    # Numbers that are float32 are sent as that.
    is_narrow = kind == TYPE_FLOAT64 and buffers[row, TYPE] == TYPE_FLOAT32
    if buffers[row, ROLE] != role or (buffers[row, TYPE] != kind and not is_narrow):
        return WRONG_KIND
    return 0 if count == expected and 0 <= count <= MAX_COUNT else WRONG_COUNT


@inner
def _layout_fault(buffers: Table, row: int) -> int:
    """0, or what is wrong with the layout of a buffer and what follows from it."""
    layout, count, width = buffers[row, LAYOUT], buffers[row, COUNT], buffers[row, WIDTH]
    distinct, top = buffers[row, DICTIONARY_SIZE], width & 7
    is_number = buffers[row, TYPE] >= TYPE_FLOAT32
    if not BYTE_PLANES <= layout <= TOP_DICTIONARY:
        return UNKNOWN_LAYOUT
    if (layout == CONSTANT and is_number) or (layout == TOP_DICTIONARY and not is_number):
        return WRONG_LAYOUT
    if buffers[row, BASE] != 0 and (is_number or layout >= DICTIONARY):
        return WRONG_BASE
    least = widest = most_distinct = 0
    if layout == BYTE_PLANES:
        least, widest = 1, 8 * _bytes_of(buffers[row, TYPE])
    elif layout == DICTIONARY:
        least, widest, most_distinct = 1, 8, 256
    elif layout == TOP_DICTIONARY:
        widest = 8 * _bytes_of(buffers[row, TYPE]) - 4
        least, most_distinct = widest - 3, 16
    if not least <= width <= widest or top == 3 or top > 4:
        return WRONG_WIDTH
    if not min(most_distinct, 2) <= distinct <= most_distinct:
        return WRONG_WIDTH
    size = 8 * distinct + (width >> 3) * count + (top * count + 7) // 8
    return 0 if buffers[row, SIZE] == size else WRONG_SIZE


@kernel(INT64(TABLE, TABLE_IN, INT64), nogil=False)
def place_buffers(buffers: Table, parts: Table, wire_bytes: int) -> int:
    """Checks the header's buffers, and gives each its place in the decoded arena.

    buffers is int64 [n, BUFFER_COLUMNS], of which DECODED_OFFSET and DECODED_TYPE are written,
    parts int64 [p, PART_COLUMNS]. Returns the decoded arena's size in bytes, or a fault, which is
    negative.
    """
    end = decoded = 0
    for p in range(len(parts)):
        for row in range(parts[p, FIRST], parts[p, END]):
            end = (end + ALIGNMENT - 1) & -ALIGNMENT
            fault = _kind_fault(buffers, row, parts, p)
            if fault == 0:
                fault = _layout_fault(buffers, row)
            # A size that fits its layout and count does not overflow the sum.
            if fault == 0 and (
                buffers[row, OFFSET] != end or end + buffers[row, SIZE] > wire_bytes
            ):
                fault = WRONG_PLACE
            if fault != 0:
                return -int(FAULT_STEP * row + fault)
            end += buffers[row, SIZE]
            # The values of a part follow each other without gaps: one tensor for its features.
            if row == parts[p, FIRST] or buffers[row - 1, ROLE] != buffers[row, ROLE]:
                decoded = (decoded + ALIGNMENT - 1) & -ALIGNMENT
            buffers[row, DECODED_OFFSET] = decoded
            decoded += buffers[row, COUNT] * _bytes_of(buffers[row, DECODED_TYPE])
    if (end + ALIGNMENT - 1) & -ALIGNMENT != wire_bytes:
        return -(FAULT_STEP * (len(buffers) - 1) + WRONG_PLACE)
    return (decoded + ALIGNMENT - 1) & -ALIGNMENT


@inner
def _word(wire: Bytes, at: int) -> Any:
    """Eight bytes, the lowest first."""
    word = _u64(0)
    for k in range(_u64(8)):
        word |= _u64(wire[at + k]) << (_u64(8) * k)
    return word


@inner
def _rotated(word: int, bits: int) -> Any:
    return (word << bits) | (word >> (_u64(64) - bits))


@inner
def _round(lane: int, word: int) -> Any:
    return _rotated(lane + word * _PRIME_2, _u64(31)) * _PRIME_1


@inner
def _checksum(wire: Bytes) -> Any:
    """XXH64, seed 0, of a multiple of 32 bytes."""
    size, total = _u64(len(wire)), _PRIME_5
    if size > 0:
        a, b, c, d = _PRIME_1 + _PRIME_2, _PRIME_2, _u64(0), _u64(0) - _PRIME_1
        for i in range(size // _u64(32)):
            at = _u64(32) * i
            a, b = _round(a, _word(wire, at)), _round(b, _word(wire, at + _u64(8)))
            c = _round(c, _word(wire, at + _u64(16)))
            d = _round(d, _word(wire, at + _u64(24)))
        total = _rotated(a, _u64(1)) + _rotated(b, _u64(7))
        total += _rotated(c, _u64(12)) + _rotated(d, _u64(18))
        for lane in (a, b, c, d):
            total = (total ^ _round(_u64(0), lane)) * _PRIME_1 + _PRIME_4
    total += size
    total = (total ^ (total >> _u64(33))) * _PRIME_2
    total = (total ^ (total >> _u64(29))) * _PRIME_3
    return total ^ (total >> _u64(32))


@inner
def _spread(wire: Bytes, at: int, count: int, bits: int, spread: Bytes) -> None:
    """A byte for each word of 1, 2 or 4 bits, from count packed bytes."""
    if bits == 4:
        for i in range(count):
            packed = wire[at + i]
            spread[_u64(2) * i] = packed & 15
            spread[_u64(2) * i + _u64(1)] = packed >> 4
    elif bits == 2:
        for i in range(count):
            packed = wire[at + i]
            for j in range(_u64(4)):
                spread[_u64(4) * i + j] = (packed >> (_u64(2) * j)) & 3
    else:
        for i in range(count):
            packed = wire[at + i]
            for j in range(_u64(8)):
                spread[_u64(8) * i + j] = (packed >> j) & 1


@inner
def _join(wire: Bytes, at: int, stride: int, planes: int, out: Words, to: int, size: int) -> None:
    """The 32-bit words of up to four byte planes that lie stride bytes apart."""
    b, c, d = at + stride, at + _u64(2) * stride, at + _u64(3) * stride
    if planes == 0:
        for i in range(size):
            out[to + i] = 0
    elif planes == 1:
        for i in range(size):
            out[to + i] = wire[at + i]
    elif planes == 2:
        for i in range(size):
            out[to + i] = _u32(wire[at + i]) | (_u32(wire[b + i]) << _u32(8))
    elif planes == 3:
        for i in range(size):
            low = _u32(wire[at + i]) | (_u32(wire[b + i]) << _u32(8))
            out[to + i] = low | (_u32(wire[c + i]) << _u32(16))
    else:
        for i in range(size):
            low = _u32(wire[at + i]) | (_u32(wire[b + i]) << _u32(8))
            high = _u32(wire[c + i]) | (_u32(wire[d + i]) << _u32(8))
            out[to + i] = low | (high << _u32(16))


@inner
def _look_up(scratch: Scratch, is_long: bool, longs: Words, to: int, size: int) -> int:
    """Writes the dictionary's elements for a block of codes, or replaces the codes by them.

    Returns the largest code.
    """
    _, codes, distinct, _ = scratch
    largest = _u32(0)
    for i in range(size):
        largest = max(largest, codes[i])
        codes[i] &= _u32(255)
    if is_long:
        for i in range(size):
            longs[to + i] = distinct[codes[i]]
    else:
        for i in range(size):
            codes[i] = distinct[codes[i]]
    return int(largest)


@inner
def _look_up_tops(scratch: Scratch, known: int, size: int) -> int:
    """Replaces a block of codes by the highest bytes that they stand for.

    Comparing with every code is quicker than a table, of which no two can be looked up at once.
    Returns the largest code.
    """
    codes, _, distinct, bytes_ = scratch
    largest, byte = np.uint8(0), np.uint8(distinct[0])
    for i in range(size):
        largest = max(largest, codes[i])
        bytes_[i] = byte
    for k in range(1, known):
        code, byte = np.uint8(k), np.uint8(distinct[k])
        for i in range(size):
            bytes_[i] = byte if codes[i] >= code else bytes_[i]
    for i in range(size):
        codes[i] = bytes_[i]
    return int(largest)


@inner
def _store(block: Words32, scalar: int, out: Decoded, to: int, size: int) -> None:
    """Writes a block of words as elements of a type."""
    halves, words, _, doubles = out
    if scalar == TYPE_FLOAT64:
        numbers = block.view(np.float32)
        for i in range(size):
            doubles[to + i] = numbers[i]
    elif scalar >= TYPE_FLOAT16:
        for i in range(size):
            halves[to + i] = block[i]
    else:
        for i in range(size):
            words[to + i] = block[i]


@inner
def _widen(
    scratch: Scratch, wire: Bytes, at: int, stride: int, width: int, base: int, longs: Words,
    to: int, size: int,
) -> None:  # fmt: skip
    """Writes base plus a block of words, of which the lowest four planes are in scratch."""
    top, low, _, _ = scratch
    planes = width >> 3
    for i in range(size):
        longs[to + i] = _u64(low[i]) + base
    for k in range(_u64(4), planes):
        plane = at + k * stride
        for i in range(size):
            longs[to + i] += _u64(wire[plane + i]) << (_u64(8) * k)
    if planes >= 4 and width & 7 > 0:
        for i in range(size):
            longs[to + i] += _u64(top[i]) << (_u64(8) * planes)


@inner
def _read_dictionary(
    wire: Bytes, at: int, distinct: Words64, size: int, bits: int, is_signed: bool
) -> bool:
    """Whether the elements of a dictionary, which are filled in, ascend and have so many bits."""
    for i in range(size):
        distinct[i] = _word(wire, at + _u64(8) * _u64(i))
        if i > 0 and np.int64(distinct[i]) <= np.int64(distinct[i - 1]):
            return False
    if size == 0 or bits == 64:
        return True
    least = -(np.int64(1) << (bits - 1)) if is_signed else np.int64(0)
    most = least + (np.int64(1) << bits) - 1
    return bool(np.int64(distinct[0]) >= least and np.int64(distinct[size - 1]) <= most)


@inner
def _unpack_buffer(wire: Bytes, buffers: Table, row: int, out: Decoded, scratch: Scratch) -> int:
    """Unpacks all elements, to the type that they are decoded to. 0, or what is wrong with them."""
    top, low, distinct, _ = scratch
    _, words, longs, _ = out
    at, count, width = _u64(buffers[row, OFFSET]), _u64(buffers[row, COUNT]), buffers[row, WIDTH]
    layout = buffers[row, LAYOUT]
    scalar, base = buffers[row, DECODED_TYPE], _u64(buffers[row, BASE])
    is_long = _bytes_of(buffers[row, TYPE]) == 8
    to = _u64(buffers[row, DECODED_OFFSET]) // _u64(_bytes_of(scalar))
    size = buffers[row, DICTIONARY_SIZE]
    has_codes, has_tops = layout == DICTIONARY, layout == TOP_DICTIONARY
    known_bits = 8 if has_tops else 8 * _bytes_of(buffers[row, TYPE])
    is_signed = buffers[row, TYPE] <= TYPE_INT64
    if not _read_dictionary(wire, at, distinct, size, known_bits, is_signed):
        return WRONG_DICTIONARY
    at += _u64(8) * _u64(size)
    # Words of 32 bits go straight to where they belong.
    is_straight = _bytes_of(scalar) == 4 and not has_codes
    planes, bits, largest = _u64(width >> 3), _u64(width & 7), 0
    for start in range(_u64(0), count, BLOCK):
        block, first = min(BLOCK, count - start), to + start
        part, part_at = (words, first) if is_straight else (low, _u64(0))
        _join(wire, at + start, count, min(planes, _u64(4)), part, part_at, block)
        if bits > 0:
            packed = at + planes * count + start * bits // _u64(8)
            _spread(wire, packed, (block * bits + _u64(7)) // _u64(8), bits, top)
        if has_tops:
            largest = max(largest, _look_up_tops(scratch, size, block))
        if bits > 0 and planes < 4:
            for i in range(block):
                part[part_at + i] |= _u32(top[i]) << _u32(_u64(8) * planes)
        if has_codes:
            largest = max(largest, _look_up(scratch, is_long, longs, first, block))
        elif is_long:
            _widen(scratch, wire, at + start, count, _u64(width), base, longs, first, block)
        elif base != 0:
            for i in range(block):
                part[part_at + i] += base
        if not is_straight and not is_long:
            _store(low, scalar, out, first, block)
    return 0 if largest < max(size, 1) else CODE_OUTSIDE


@inner
def _lengths_fault(buffers: Table, parts: Table, p: int, words: npt.NDArray[np.int32]) -> int:
    """0, or the fault of a sparse part's lengths; fills in the expanded counts."""
    row, runs, rows = parts[p, FIRST], _u64(parts[p, RUNS]), parts[p, ROWS]
    run_at = _u64(buffers[row, DECODED_OFFSET] // 4)
    if runs > 0:
        total, least = np.int64(0), np.int32(1)
        for i in range(runs):
            total += words[run_at + i]
            least = min(least, words[run_at + i])
        if total != rows or least < 1:
            return -int(FAULT_STEP * row + RUNS_UNEVEN)
        row += 1
    at, lists = _u64(buffers[row, DECODED_OFFSET] // 4), runs if runs > 0 else _u64(rows)
    for _ in range(parts[p, FEATURES]):
        row += 1
        total, signs = np.int64(0), np.int32(0)
        for i in range(lists):
            total += words[at + i]
            signs |= words[at + i]
        if total != buffers[row, COUNT] or signs < 0:
            return -int(FAULT_STEP * row + LENGTHS_UNEVEN)
        if runs > 0:
            total = np.int64(0)
            for i in range(runs):
                total += np.int64(words[at + i]) * np.int64(words[run_at + i])
        buffers[row, EXPANDED_COUNT] = total
        at += lists
    return 0


@kernel(INT64(BYTES_IN, UINT64, TABLE, TABLE_IN, BYTES_OUT))
def unpack(wire: Bytes, checksum: int, buffers: Table, parts: Table, decoded: Bytes) -> int:
    """Unpacks every buffer of the wire's arena into the decoded one, and checks what they hold.

    Nothing is unpacked if the XXH64 of the arena, a multiple of 64 bytes, is another. The tables
    are those that place_buffers passed, of which EXPANDED_COUNT is written; decoded is as large as
    it said and starts at a multiple of 8. Returns 0, or a fault, which is negative.
    """
    if _checksum(wire) != checksum:
        return -WRONG_CHECKSUM
    halves, words = decoded.view(np.uint16), decoded.view(np.uint32)
    out = halves, words, decoded.view(np.uint64), decoded.view(np.float64)
    codes, bytes_ = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    scratch = codes, np.empty(BLOCK, np.uint32), np.empty(256, np.uint64), bytes_
    for p in range(len(parts)):
        for row in range(parts[p, FIRST], parts[p, END]):
            fault = _unpack_buffer(wire, buffers, row, out, scratch)
            if fault != 0:
                return -(FAULT_STEP * row + fault)
        if parts[p, KIND] == SPARSE:
            fault = _lengths_fault(buffers, parts, p, decoded.view(np.int32))
            if fault != 0:
                return fault
    return 0
