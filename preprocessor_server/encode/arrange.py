"""Places the buffers of a batch in its arena, one after the other, describes and fills them."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

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
    Descriptors,
    Layouts,
    lay_out,
    ones,
    write_buffers,
)

Dtype: TypeAlias = dataset_pb2.ScalarType
# A buffer's role, and the type of its elements.
Title: TypeAlias = tuple[batch_pb2.BufferRole, Dtype]

_VALUES = batch_pb2.BUFFER_ROLE_VALUES
_INT32, _FLOAT32 = dataset_pb2.SCALAR_TYPE_INT32, dataset_pb2.SCALAR_TYPE_FLOAT32
_LENGTHS: Title = batch_pb2.BUFFER_ROLE_LENGTHS, _INT32
_RUN_LENGTHS: Title = batch_pb2.BUFFER_ROLE_RUN_LENGTHS, _INT32
_WEIGHTS: Title = batch_pb2.BUFFER_ROLE_WEIGHTS, _FLOAT32


class Described(NamedTuple):
    """The bytes of an arena, the field `blocks` of its batch, and their words of its checksum.

    planes says where in the arena planes begin and end, as kernels.Layouts does.
    """

    size_bytes: int
    planes: npt.NDArray[np.int64]
    blocks: bytes
    words: bytes


class Arranger:
    """Takes the parts of a batch in the order in which they lie in its arena."""

    def __init__(self) -> None:
        self._buffers = Buffers()
        self._descriptors = Descriptors()
        self._layouts: Layouts | None = None

    def add_block(self) -> None:
        """Begins the next block, whose parts follow."""
        self._descriptors.add_block()

    def add_matrix(self, numbers: Array, dtype: Dtype) -> None:
        """The part of a dense or label block: numbers [features, B], as the transform gives them.

        Those of a block of 16 bits are float32 that equal one of its dtype.
        """
        kind = FLOATS
        if dtype == dataset_pb2.SCALAR_TYPE_FLOAT16:
            kind, numbers = HALVES, numbers.astype(np.float16).view(np.uint16).astype(np.uint32)
        elif dtype == dataset_pb2.SCALAR_TYPE_BFLOAT16:
            kind, numbers = HALVES, numbers.view(np.uint32) >> np.uint32(16)
        elif dtype == dataset_pb2.SCALAR_TYPE_FLOAT64:
            with np.errstate(all="ignore"):
                narrow = numbers.astype(np.float32)
            if np.array_equal(narrow.astype(np.float64).view(np.int64), numbers.view(np.int64)):
                numbers, dtype = narrow, _FLOAT32
        self._buffers.add(self._buffers.rows(numbers.reshape(1, -1), kind))
        self._descriptors.add_part(range(len(numbers)), [(_VALUES, dtype)])

    def add_columns(self, numbers: npt.NDArray[np.int64]) -> None:
        """The part of a meta block: numbers [features, B]."""
        self._buffers.add(self._buffers.rows(numbers, IDS))
        titles = [(_VALUES, dataset_pb2.SCALAR_TYPE_INT64)] * len(numbers)
        self._descriptors.add_part(range(len(numbers)), titles)

    def add_lists(self, rows: PartRows, dtype: Dtype) -> None:
        """A part of a sparse block; for INT32 all ids are int32."""
        buffers = self._buffers
        features = sorted((*rows.singles, *rows.lists))
        titles: list[Title] = []
        if rows.run_lengths is not None:
            buffers.add(buffers.rows(rows.run_lengths.reshape(1, -1), LENGTHS))
            titles.append(_RUN_LENGTHS)
        if rows.lists:
            lengths = rows.lengths
            if [*rows.lists] != features:
                lengths = np.ones((len(features), rows.size), np.int32)
                lengths[[features.index(feature) for feature in rows.lists]] = rows.lengths
            buffers.add(buffers.rows(lengths.reshape(1, -1), LENGTHS))
        else:
            buffers.add([ones(len(features) * rows.size)])
        titles.append(_LENGTHS)
        values = dict(zip(rows.singles, buffers.rows(rows.ids, IDS), strict=True))
        for feature, elements in rows.lists.items():
            (values[feature],) = buffers.rows(elements.reshape(1, -1), IDS)
        buffers.add([values[feature] for feature in features])
        titles += [(_VALUES, dtype)] * len(features)
        if rows.weights:
            weights = np.concatenate([rows.weights[feature] for feature in features])
            buffers.add(buffers.rows(weights.reshape(1, -1), FLOATS))
            titles.append(_WEIGHTS)
        run_count = 0 if rows.run_lengths is None else rows.size
        self._descriptors.add_part(features, titles, run_count)

    def describe(self) -> Described:
        """Lays everything out and describes it."""
        layouts = self._layouts = lay_out(self._buffers)
        blocks, words = self._descriptors.describe(layouts)
        return Described(layouts.size_bytes, layouts.planes, blocks, words)

    def write(self, arena: npt.NDArray[np.uint8]) -> None:
        """Fills an arena of as many bytes; padding becomes zero."""
        assert self._layouts is not None
        write_buffers(self._buffers, self._layouts, arena)
