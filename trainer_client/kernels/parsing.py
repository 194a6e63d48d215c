"""The header of a compact batch, from its protobuf encoding to numbers and to checksummed words.

https://protobuf.dev/programming-guides/encoding describes the bytes, proto/headrace/v1/batch.proto
the fields. Groups, which the contract does not have, are refused; unknown fields are skipped.
What is read is worth nothing before the checksum of the words holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_client.kernels._jit import BYTES_IN, INT64, NUMBERS_OUT, TABLE, inner, kernel

# Places in the array of numbers. The first 14 are the first words of the header, in their order.
SHARD, INDEX, ROW_COUNT, CURSOR, NEXT_CURSOR, CODEC, UNCOMPRESSED_SIZE = 0, 1, 2, 3, 7, 11, 12
PAYLOAD_CHECKSUM, HEADER_CHECKSUM, PAYLOAD_START, PAYLOAD_END = 13, 14, 15, 16
# How many there were of each; features and buffers are numbered through the whole batch.
BLOCKS, PARTS, FEATURES, BUFFERS = 17, 18, 19, 20
NUMBER_COUNT = 21

# Where the fields with one number go, by the number of the field.
_PLACES = (
    -1, SHARD, INDEX, ROW_COUNT, -1, -1, -1, CODEC, UNCOMPRESSED_SIZE, PAYLOAD_CHECKSUM,
    HEADER_CHECKSUM,
)  # fmt: skip

# A row of the table of parts. What differs between batches of the same parts comes last.
PART_BLOCK, FIRST_FEATURE, FEATURE_COUNT, FIRST_BUFFER, BUFFER_COUNT, RUN_COUNT = range(6)
PART_COLUMNS = 6
# A row of the table of buffers starts with these many words, in the order of both the fields and
# the words of the header.
BUFFER_WORDS = 9
_BASE = 7

MALFORMED, TOO_MANY = -1, -2

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_u64: Any = np.uint64
_0, _8 = _u64(0), _u64(8)

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@inner
def _varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """A variable-length integer and where it ends, 0 if it does not."""
    value, shift = _0, _0
    while at < end and shift < 70:
        byte = _u64(data[at])
        at += _u64(1)
        if shift < 64:
            value |= (byte & _u64(127)) << shift
        if byte < 128:
            return value, at
        shift += _u64(7)
    return _0, _0


@inner
def _field(data: Bytes, at: int, end: int) -> tuple[int, int, int, int]:
    """(tag, number or size, where the content starts, where it ends: 0 if it is malformed)."""
    tag, start = _varint(data, at, end)
    value, size = _0, _0
    if start == 0 or tag < 8 or tag >> _u64(32) > 0:
        return tag, _0, _0, _0
    kind = tag & _u64(7)
    if kind == _VARINT:
        value, stop = _varint(data, start, end)
        return tag, value, start, stop
    if kind == _LENGTH_DELIMITED:
        size, start = _varint(data, start, end)
        value = size
    elif kind == _FIXED64:
        size = _8
    elif kind == _FIXED32:
        size = _u64(4)
    else:
        return tag, _0, _0, _0
    if start == 0 or size > end - start:
        return tag, _0, _0, _0
    if kind == _FIXED64:
        for k in range(_8):
            value |= _u64(data[start + k]) << (_8 * k)
    return tag, value, start, start + size


@inner
def _read_varints(data: Bytes, at: int, end: int, out: Numbers, count: int) -> bool:
    """A message of integers: field n becomes out[n - 1]."""
    while at < end:
        tag, value, _, stop = _field(data, at, end)
        if stop == 0:
            return False
        place = (tag >> _u64(3)) - _u64(1)
        if tag & _u64(7) == _VARINT and place < count:
            if place == _BASE:
                # Of the buffer; a cursor has no such field. It alone is signed: zigzag.
                value = (value >> _u64(1)) ^ (_0 - (value & _u64(1)))
            out[place] = value
        at = stop
    return True


@inner
def _read_features(data: Bytes, at: int, end: int, numbers: Numbers, features: Numbers) -> int:
    """Packed integers; 0, or what is wrong."""
    while at < end:
        value, at = _varint(data, at, end)
        if at == 0:
            return MALFORMED
        if numbers[FEATURES] == len(features):
            return TOO_MANY
        features[numbers[FEATURES]] = value
        numbers[FEATURES] += 1
    return 0


@inner
def _read_part(
    data: Bytes, at: int, end: int, numbers: Numbers, parts: Numbers, features: Numbers,
    buffers: Numbers,
) -> int:  # fmt: skip
    """A part of the block that is being read; 0, or what is wrong."""
    row = numbers[PARTS]
    if row == len(parts):
        return TOO_MANY
    numbers[PARTS] += 1
    parts[row, PART_BLOCK] = numbers[BLOCKS] - 1
    parts[row, FIRST_FEATURE], parts[row, FIRST_BUFFER] = numbers[FEATURES], numbers[BUFFERS]
    parts[row, RUN_COUNT] = 0
    while at < end:
        tag, value, start, stop = _field(data, at, end)
        fault = 0 if stop > 0 else MALFORMED
        if (tag == 1 << 3 | _LENGTH_DELIMITED or tag == 1 << 3 | _VARINT) and fault == 0:
            # Where they are not packed, each is a field that reads as a packed one of one number.
            fault = _read_features(data, start, stop, numbers, features)
        elif tag == 2 << 3 | _VARINT:
            parts[row, RUN_COUNT] = value
        elif tag == 3 << 3 | _LENGTH_DELIMITED and fault == 0:
            if numbers[BUFFERS] == len(buffers):
                return TOO_MANY
            buffer = buffers[numbers[BUFFERS]]
            for i in range(BUFFER_WORDS):
                buffer[i] = 0
            numbers[BUFFERS] += 1
            if not _read_varints(data, start, stop, buffer, BUFFER_WORDS):
                return MALFORMED
        if fault != 0:
            return fault
        at = stop
    parts[row, FEATURE_COUNT] = numbers[FEATURES] - parts[row, FIRST_FEATURE]
    parts[row, BUFFER_COUNT] = numbers[BUFFERS] - parts[row, FIRST_BUFFER]
    return 0


@inner
def _read_block(
    data: Bytes, at: int, end: int, numbers: Numbers, parts: Numbers, features: Numbers,
    buffers: Numbers,
) -> int:  # fmt: skip
    """0, or what is wrong."""
    numbers[BLOCKS] += 1
    while at < end:
        tag, _, start, stop = _field(data, at, end)
        fault = 0 if stop > 0 else MALFORMED
        if tag == 1 << 3 | _LENGTH_DELIMITED and fault == 0:
            fault = _read_part(data, start, stop, numbers, parts, features, buffers)
        if fault != 0:
            return fault
        at = stop
    return 0


@inner
def _read_batch(
    data: Bytes, numbers: Numbers, parts: Numbers, features: Numbers, buffers: Numbers
) -> int:
    """0, or what is wrong."""
    at, end, fault = _0, _u64(len(data)), 0
    while at < end and fault == 0:
        tag, value, start, stop = _field(data, at, end)
        if stop == 0:
            return MALFORMED
        number, kind = tag >> _u64(3), tag & _u64(7)
        if number <= 10 and kind == (_FIXED64 if number > 8 else _VARINT):
            if _PLACES[number] >= 0:
                numbers[_PLACES[number]] = value
        elif kind == _LENGTH_DELIMITED and (number == 4 or number == 5):  # noqa: PLR1714 - numba
            first = CURSOR if number == 4 else NEXT_CURSOR
            if not _read_varints(data, start, stop, numbers[first:], 4):
                fault = MALFORMED
        elif kind == _LENGTH_DELIMITED and number == 6:
            fault = _read_block(data, start, stop, numbers, parts, features, buffers)
        elif kind == _LENGTH_DELIMITED and number == 11:
            numbers[PAYLOAD_START], numbers[PAYLOAD_END] = start, stop
        at = stop
    return fault


@kernel(INT64(BYTES_IN, NUMBERS_OUT, TABLE, NUMBERS_OUT, TABLE, NUMBERS_OUT), nogil=False)
def read_header(
    data: Bytes, numbers: Numbers, parts: Numbers, features: Numbers, buffers: Numbers,
    words: Numbers,
) -> int:  # fmt: skip
    """Reads a CompactBatch; the number of its header's words, or what is wrong (below 0).

    numbers is int64 [NUMBER_COUNT], parts int64 [p, PART_COLUMNS], buffers int64 [b, at least
    BUFFER_WORDS], features int64 [f]; words, int64, has room for all of them: NUMBER_COUNT +
    4 p + f + BUFFER_WORDS b. Unsigned numbers are stored by their bits.
    """
    for i in range(NUMBER_COUNT):
        numbers[i] = 0
    fault = _read_batch(data, numbers, parts, features, buffers)
    if fault != 0:
        return fault
    if numbers[BLOCKS] > len(parts):
        return TOO_MANY
    for i in range(HEADER_CHECKSUM):
        words[i] = numbers[i]
    words[HEADER_CHECKSUM] = numbers[BLOCKS]
    count, part = HEADER_CHECKSUM + 1, 0
    for block in range(numbers[BLOCKS]):
        parts_at = count
        words[parts_at] = 0
        count += 1
        while part < numbers[PARTS] and parts[part, PART_BLOCK] == block:
            words[parts_at] += 1
            words[count] = parts[part, FEATURE_COUNT]
            count += 1
            for f in range(parts[part, FEATURE_COUNT]):
                words[count] = features[parts[part, FIRST_FEATURE] + f]
                count += 1
            words[count] = parts[part, RUN_COUNT]
            words[count + 1] = parts[part, BUFFER_COUNT]
            count += 2
            for b in range(parts[part, BUFFER_COUNT]):
                for i in range(BUFFER_WORDS):
                    words[count] = buffers[parts[part, FIRST_BUFFER] + b, i]
                    count += 1
            part += 1
    return count
