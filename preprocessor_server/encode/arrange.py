"""Places the buffers of a batch in its arena, one after the other, and fills them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.frame import Array, Indices
from preprocessor_server.kernels import Layouts, write_elements

ALIGNMENT = 64


class Section(NamedTuple):
    """The elements of some buffers, a row of a matrix each, and how they are laid out."""

    elements: Array
    layouts: Layouts


class Arranger:
    """Describes buffers in the order in which they lie in the arena; write() fills them all."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._sections: list[tuple[Section, npt.NDArray[np.int64]]] = []
        self._gaps: list[tuple[int, int]] = []

    def add(
        self,
        part: batch_pb2.Part,
        role: batch_pb2.BufferRole,
        scalar: dataset_pb2.ScalarType,
        sections: Sequence[Section],
        order: Indices | None = None,
    ) -> None:
        """Adds a buffer to the part for each row of the sections.

        order has the numbers of the rows, counted through all sections, in the order of buffers.
        """
        rows = [row for section in sections for row in section.layouts.table.tolist()]
        starts = [0] * len(rows)
        for number in range(len(rows)) if order is None else order.tolist():
            layout, width_bits, base, dictionary_size, count, size = rows[number]
            starts[number] = self.size_bytes
            part.buffers.add(
                role=role,
                layout=layout,
                type=scalar,
                offset_bytes=self.size_bytes,
                size_bytes=size,
                element_count=count,
                width_bits=width_bits,
                base=base,
                dictionary_size=dictionary_size,
            )
            end = self.size_bytes + size
            self.size_bytes = -(-end // ALIGNMENT) * ALIGNMENT
            if end < self.size_bytes:
                self._gaps.append((end, self.size_bytes))
        first = 0
        for section in sections:
            last = first + len(section.elements)
            self._sections.append((section, np.array(starts[first:last], np.int64)))
            first = last

    def write(self, arena: npt.NDArray[np.uint8]) -> None:
        """Fills an arena of size_bytes; padding becomes zero."""
        for start, end in self._gaps:
            arena[start:end] = 0
        for section, starts in self._sections:
            write_elements(section.elements, section.layouts, starts, arena)
