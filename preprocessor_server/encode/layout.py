"""How the elements of a buffer are laid out: a pure function of the elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.kernels import Measures, planes_bytes

ALIGNMENT = 64

_NO_WORDS: npt.NDArray[np.int64] = np.empty(0, np.int64)
# The least width that holds 0 to 8 bits: whole bytes, or 1, 2 or 4 bits.
_WIDTHS = (0, 1, 2, 4, 4, 8, 8, 8, 8)


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of count integers; dictionary int64 [n] is empty where there is none."""

    layout: batch_pb2.BufferLayout
    count: int
    width_bits: int
    base: int
    dictionary: npt.NDArray[np.int64]

    @property
    def size_bytes(self) -> int:
        """What they take up in the arena, in bytes."""
        return 8 * len(self.dictionary) + planes_bytes(self.count, self.width_bits)


def integer_layout(measures: Measures) -> Layout:
    """The layout of integers; docs/compact_batch.md has the rule."""
    count, low, high, distinct = measures
    if low == high:
        return Layout(batch_pb2.BUFFER_LAYOUT_CONSTANT, count, 0, low, _NO_WORDS)
    width = width_of(high - low)
    if width > 8 and 0 < 4 * len(distinct) <= count:
        code_bits = _WIDTHS[(len(distinct) - 1).bit_length()]
        return Layout(batch_pb2.BUFFER_LAYOUT_DICTIONARY, count, code_bits, 0, distinct)
    return Layout(batch_pb2.BUFFER_LAYOUT_BYTE_PLANES, count, width, low, _NO_WORDS)


def float_layout(count: int) -> Layout:
    """The layout of float32 numbers."""
    return Layout(batch_pb2.BUFFER_LAYOUT_BYTE_PLANES, count, 32, 0, _NO_WORDS)


def width_of(span: int) -> int:
    """The bits in which words from 0 to span are laid out: whole bytes and 0, 1, 2 or 4 more."""
    whole, bits = divmod(span.bit_length(), 8)
    return 8 * whole + _WIDTHS[bits]


class Arranger:
    """Places buffers in an arena, one after the other."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def add(
        self,
        part: batch_pb2.Part,
        role: batch_pb2.BufferRole,
        scalar: dataset_pb2.ScalarType,
        layout: Layout,
    ) -> tuple[int, int]:
        """Describes the next buffer of a part; returns where it starts and ends, in bytes."""
        size = layout.size_bytes
        part.buffers.add(
            role=role,
            layout=layout.layout,
            type=scalar,
            offset_bytes=self.size_bytes,
            size_bytes=size,
            element_count=layout.count,
            width_bits=layout.width_bits,
            base=layout.base,
            dictionary_size=len(layout.dictionary),
        )
        start, end = self.size_bytes, self.size_bytes + size
        self.size_bytes = -(-end // ALIGNMENT) * ALIGNMENT
        return start, end
