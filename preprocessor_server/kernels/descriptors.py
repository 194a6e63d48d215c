"""What a batch says of its buffers: as fields of its message, and as words of its checksum.

The fields are Protobuf's (https://protobuf.dev/programming-guides/encoding/), those of
headrace/v1/batch.proto, in the order of their numbers and without those that are 0, as every
library writes them. docs/compact_batch.md defines the words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, array2d, inner, kernel, out
from preprocessor_server.kernels.layout import Layouts

# The columns of a table of layouts, in the order of their fields, from offset_bytes on.
_LAYOUT, _FIRST = 0, 1
_BUFFER_WORDS, _BASE_FIELD = 9, 8
# Columns of the tables of titles and parts; ends are behind the part's last feature or buffer.
_ROLE, _TYPE = range(2)
_BLOCK, _RUN_COUNT, _FEATURES_END, _BUFFERS_END = range(4)

# Tags: the number of a field, above three bits for how it is written.
_BLOCKS_TAG, _PARTS_TAG, _FEATURES_TAG, _RUN_COUNT_TAG, _BUFFERS_TAG = 0x32, 0x0A, 0x0A, 0x10, 0x1A

# A tag, and a number or a length.
_FIELD_BYTES = 11
_NUMBER_BYTES = 10

_0 = np.uint64(0)
_1 = np.uint64(1)
_7 = np.uint64(7)
_127 = np.uint64(127)
_128 = np.uint64(128)


@inner
def _put(fields: npt.NDArray[np.uint8], end: int, tag: int, number: np.uint64) -> int:
    """Writes a tag and a number, or no tag (0), to where they end at; where they begin."""
    size, rest = 1, number >> _7
    while rest != _0:
        size += 1
        rest >>= _7
    at = end - size
    for k in range(size - 1):
        fields[at + k] = np.uint8(number & _127 | _128)
        number >>= _7
    fields[end - 1] = np.uint8(number)
    if tag:
        at -= 1
        fields[at] = tag
    return at


@inner
def _put_buffer(
    fields: npt.NDArray[np.uint8], end: int, words: npt.NDArray[np.uint64], first: int
) -> int:
    """Writes a buffer whose fields are words, in the order of their numbers."""
    at = end
    for field in range(_BUFFER_WORDS, 0, -1):
        number = words[first + field - 1]
        if field == _BASE_FIELD:
            # sint64: the sign in the lowest bit.
            number = (number << _1) ^ np.uint64(np.int64(number) >> 63)
        if number != _0:
            at = _put(fields, at, field << 3, number)
    return _put(fields, at, _BUFFERS_TAG, np.uint64(end - at))


@kernel(
    types.int64(
        array2d(types.int64),
        array2d(types.int64),
        array2d(types.int64),
        array(types.int64),
        types.int64,
        out(types.uint8),
        out(types.uint64),
    )
)
def _describe(
    layouts: npt.NDArray[np.int64],
    titles: npt.NDArray[np.int64],
    parts: npt.NDArray[np.int64],
    features: npt.NDArray[np.int64],
    blocks: int,
    fields: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint64],
) -> int:
    """Where the fields begin, which end where the array does."""
    w = p = f = b = 0
    for block in range(blocks):
        count_at = w
        words[count_at] = _0
        w += 1
        while p < len(parts) and parts[p, _BLOCK] == block:
            words[count_at] += _1
            words[w] = parts[p, _FEATURES_END] - f
            w += 1
            while f < parts[p, _FEATURES_END]:
                words[w] = features[f]
                w += 1
                f += 1
            words[w] = parts[p, _RUN_COUNT]
            words[w + 1] = parts[p, _BUFFERS_END] - b
            w += 2
            while b < parts[p, _BUFFERS_END]:
                words[w] = titles[b, _ROLE]
                words[w + 1] = layouts[b, _LAYOUT]
                words[w + 2] = titles[b, _TYPE]
                for k in range(_BUFFER_WORDS - 3):
                    words[w + 3 + k] = np.uint64(layouts[b, _FIRST + k])
                w += _BUFFER_WORDS
                b += 1
            p += 1
    # From the end: lengths come before what they are of.
    at = len(fields)
    for block in range(blocks - 1, -1, -1):
        block_end = at
        while p and parts[p - 1, _BLOCK] == block:
            p -= 1
            part_end = at
            while b > (parts[p - 1, _BUFFERS_END] if p else 0):
                b -= 1
                w -= _BUFFER_WORDS
                at = _put_buffer(fields, at, words, w)
            w -= 2
            if words[w] != _0:
                at = _put(fields, at, _RUN_COUNT_TAG, words[w])
            features_end = at
            while f > (parts[p - 1, _FEATURES_END] if p else 0):
                f -= 1
                w -= 1
                at = _put(fields, at, 0, words[w])
            w -= 1
            if at < features_end:
                at = _put(fields, at, _FEATURES_TAG, np.uint64(features_end - at))
            at = _put(fields, at, _PARTS_TAG, np.uint64(part_end - at))
        w -= 1
        at = _put(fields, at, _BLOCKS_TAG, np.uint64(block_end - at))
    return at


class Descriptors:
    """The parts of a batch's blocks, in order, to be described once their buffers are laid out."""

    def __init__(self) -> None:
        self._blocks = 0
        self._parts: list[tuple[int, int, int, int]] = []
        self._features: list[int] = []
        self._titles: list[tuple[int, int]] = []

    def add_block(self) -> None:
        """Begins the next block."""
        self._blocks += 1

    def add_part(
        self, features: Sequence[int], titles: Sequence[tuple[int, int]], run_count: int = 0
    ) -> None:
        """Adds a part to the block: features, and (role, type) of each of its buffers."""
        self._features += features
        self._titles += titles
        ends = len(self._features), len(self._titles)
        self._parts.append((self._blocks - 1, run_count, *ends))

    def describe(self, layouts: Layouts) -> tuple[bytes, bytes]:
        """The field `blocks` of a CompactBatch, and the words of its checksum that are of blocks.

        layouts are those of all buffers. Raises ValueError if they are not as many.
        """
        parts, features, buffers = len(self._parts), len(self._features), len(self._titles)
        if len(layouts.table) != buffers:
            raise ValueError(f"{len(layouts.table)} layouts of {buffers} buffers")
        fields = np.empty(
            _FIELD_BYTES * (self._blocks + 3 * parts + (_BUFFER_WORDS + 1) * buffers)
            + _NUMBER_BYTES * features,
            np.uint8,
        )
        words = np.empty(self._blocks + 3 * parts + features + _BUFFER_WORDS * buffers, np.uint64)
        start = _describe(
            layouts.table,
            np.array(self._titles, np.int64).reshape(-1, 2),
            np.array(self._parts, np.int64).reshape(-1, 4),
            np.array(self._features, np.int64),
            self._blocks,
            fields,
            words,
        )
        return fields[start:].tobytes(), words.tobytes()
