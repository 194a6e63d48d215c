"""Places the buffers of a batch in its arena, one after the other, describes and fills them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.encode.parts import PartRows
from preprocessor_server.frame import Array
from preprocessor_server.kernels import (
    FLOATS,
    HALVES,
    IDS,
    LENGTHS,
    Buffers,
    Layouts,
    lay_out,
    ones,
    write_buffers,
)

MAX_LENGTH = 2**31 - 1

Dtype: TypeAlias = dataset_pb2.ScalarType
Title: TypeAlias = tuple[batch_pb2.Part, batch_pb2.BufferRole, Dtype]

_VALUES = batch_pb2.BUFFER_ROLE_VALUES


class Arranger:
    """Takes the parts of a batch in the order in which they lie in its arena."""

    def __init__(self) -> None:
        self._buffers = Buffers()
        # Of each buffer: its part, its role and the type of its elements.
        self._titles: list[Title] = []
        self._layouts: Layouts | None = None

    def add_matrix(self, part: batch_pb2.Part, numbers: Array, dtype: Dtype) -> None:
        """The part of a dense or label block: numbers [features, B], as the transform gives them.

        Those of a block of 16 bits are float32 that equal one of its dtype.
        """
        part.features.extend(range(len(numbers)))
        kind = FLOATS
        if dtype == dataset_pb2.SCALAR_TYPE_FLOAT16:
            kind, numbers = HALVES, numbers.astype(np.float16).view(np.uint16).astype(np.uint32)
        elif dtype == dataset_pb2.SCALAR_TYPE_BFLOAT16:
            kind, numbers = HALVES, numbers.view(np.uint32) >> np.uint32(16)
        elif dtype == dataset_pb2.SCALAR_TYPE_FLOAT64:
            with np.errstate(all="ignore"):
                narrow = numbers.astype(np.float32)
            if np.array_equal(narrow.astype(np.float64).view(np.int64), numbers.view(np.int64)):
                numbers, dtype = narrow, dataset_pb2.SCALAR_TYPE_FLOAT32
        self._buffers.add(self._buffers.rows(numbers.reshape(1, -1), kind))
        self._titles.append((part, _VALUES, dtype))

    def add_columns(self, part: batch_pb2.Part, numbers: npt.NDArray[np.int64]) -> None:
        """The part of a meta block: numbers [features, B]."""
        part.features.extend(range(len(numbers)))
        self._buffers.add(self._buffers.rows(numbers, IDS))
        self._titles += [(part, _VALUES, dataset_pb2.SCALAR_TYPE_INT64)] * len(numbers)

    def add_lists(self, part: batch_pb2.Part, rows: PartRows, dtype: Dtype) -> None:
        """A part of a sparse block; for INT32 all ids are int32."""
        buffers = self._buffers
        features = sorted((*rows.singles, *rows.lists))
        part.features.extend(features)
        int32 = dataset_pb2.SCALAR_TYPE_INT32
        if rows.run_lengths is not None:
            part.run_count = rows.size
            buffers.add(buffers.rows(rows.run_lengths.reshape(1, -1), LENGTHS))
            self._titles.append((part, batch_pb2.BUFFER_ROLE_RUN_LENGTHS, int32))
        if rows.lists:
            lengths = np.ones((len(features), rows.size), np.int32)
            for feature, (offsets, _) in rows.lists.items():
                lengths[features.index(feature)] = _lengths(offsets)
            buffers.add(buffers.rows(lengths.reshape(1, -1), LENGTHS))
        else:
            buffers.add([ones(len(features) * rows.size)])
        self._titles.append((part, batch_pb2.BUFFER_ROLE_LENGTHS, int32))
        values = dict(zip(rows.singles, buffers.rows(rows.ids, IDS), strict=True))
        for feature, (_, elements) in rows.lists.items():
            (values[feature],) = buffers.rows(elements.reshape(1, -1), IDS)
        buffers.add([values[feature] for feature in features])
        self._titles += [(part, _VALUES, dtype)] * len(features)
        if rows.weights:
            weights = np.concatenate([rows.weights[feature] for feature in features])
            buffers.add(buffers.rows(weights.reshape(1, -1), FLOATS))
            float32 = dataset_pb2.SCALAR_TYPE_FLOAT32
            self._titles.append((part, batch_pb2.BUFFER_ROLE_WEIGHTS, float32))

    def describe(self) -> int:
        """Lays everything out, adds the buffers to their parts, and returns the arena's bytes."""
        layouts = self._layouts = lay_out(self._buffers)
        for (part, role, scalar), entry in zip(self._titles, layouts.table.tolist(), strict=True):
            layout, offset, size, count, width_bits, base, dictionary_size = entry
            part.buffers.add(
                role=role,
                layout=layout,
                type=scalar,
                offset_bytes=offset,
                size_bytes=size,
                element_count=count,
                width_bits=width_bits,
                base=base,
                dictionary_size=dictionary_size,
            )
        return layouts.size_bytes

    def write(self, arena: npt.NDArray[np.uint8]) -> None:
        """Fills an arena of as many bytes; padding becomes zero."""
        assert self._layouts is not None
        write_buffers(self._buffers, self._layouts, arena)


def _lengths(offsets: Array) -> Array:
    lengths: Array = offsets[1:] - offsets[:-1]
    if lengths.max() > MAX_LENGTH:
        raise OverflowError("a list has more than 2^31 - 1 elements; cut it with Tail")
    return lengths
