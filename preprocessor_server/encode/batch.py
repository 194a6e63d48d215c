"""Rows of feature Frames to one compact batch: one arena, filled once, compressed once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.encode.checksum import header_checksum
from preprocessor_server.encode.layout import Arranger, Layout, float_layout, integer_layout
from preprocessor_server.encode.message import batch_response
from preprocessor_server.encode.parts import PartRows, sparse_parts
from preprocessor_server.errors import DeploymentError
from preprocessor_server.frame import Flat, Frame, Indices, as_slice, concat_frames
from preprocessor_server.kernels import (
    Measures,
    ids_planes,
    list_planes,
    measure_ids,
    measure_lists,
    word_planes,
)

# What checksums, and the tags and lengths of message and payload, take up at most.
_ENVELOPE_BYTES = 64

Arena = npt.NDArray[np.uint8]
_NOT_COUNTED: npt.NDArray[np.int64] = np.empty(0, np.int64)
# Writes the elements of buffers into their ranges of the arena.
Fill = Callable[[Arena], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a feature Frame, in the order in which they go into the batch."""

    frame: Frame
    rows: Indices


class _Worker(threading.local):
    """What a worker thread uses again for every batch."""

    def __init__(self) -> None:
        self.arena = np.empty(0, np.uint8)
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}

    def take_arena(self, size: int) -> Arena:
        if len(self.arena) < size:
            self.arena = np.empty(size + size // 8, np.uint8)
        return self.arena[:size]

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self.compressors:
            self.compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return self.compressors[level]


_worker = _Worker()


class BatchEncoder:
    """Encodes batches of one schema; the same rows give the same arena, always."""

    def __init__(
        self,
        schema: batch_pb2.BatchSchema,
        codec: batch_pb2.Codec,
        zstd_level: int,
        max_message_bytes: int,
    ) -> None:
        self._schema = schema
        self._codec = codec
        self._level = zstd_level
        self._max_message_bytes = max_message_bytes

    def encode(
        self,
        pieces: Sequence[Piece],
        shard: int,
        cursor: batch_pb2.Cursor,
        next_cursor: batch_pb2.Cursor,
    ) -> bytes:
        """The serialised StreamBatchesResponse of the pieces' rows, one piece after the other.

        Raises DeploymentError (BATCH_TOO_LARGE) if it cannot fit a message.
        """
        frame, rows = _merge(pieces)
        batch = batch_pb2.CompactBatch(
            shard=shard,
            index=cursor.batch,
            row_count=len(rows),
            cursor=cursor,
            next_cursor=next_cursor,
            codec=self._codec,
        )
        arranger = Arranger()
        fills: list[Fill] = []
        for schema in self._schema.blocks:
            block = batch.blocks.add()
            if schema.kind == batch_pb2.BLOCK_KIND_SPARSE:
                for part in sparse_parts(frame, rows, schema.features):
                    fills += _add_lists(block, arranger, part)
            else:
                fills.append(_add_matrix(block, arranger, frame, rows, schema.features))
        batch.uncompressed_size_bytes = arranger.size_bytes
        self._check_size(batch)
        arena = _fill(batch, fills)
        batch.payload_checksum = xxhash.xxh64_intdigest(arena.data)
        batch.header_checksum = header_checksum(batch)
        return batch_response(batch, self._compress(arena))

    def _check_size(self, batch: batch_pb2.CompactBatch) -> None:
        """Before the work is done, as if nothing could be compressed: the same for every codec."""
        size = batch.ByteSize() + _ENVELOPE_BYTES + _compress_bound(batch.uncompressed_size_bytes)
        if size > self._max_message_bytes:
            raise DeploymentError(
                "BATCH_TOO_LARGE",
                f"a batch of {batch.row_count:,} rows takes up to {size:,} bytes, more than a "
                f"message may hold ({self._max_message_bytes:,}, --max-message-bytes); use a "
                "smaller batch_size or raise the setting",
                field="identity.batch_size",
            )

    def _compress(self, arena: Arena) -> bytes | memoryview:
        if self._codec == batch_pb2.CODEC_NONE:
            return arena.data
        return _worker.compressor(self._level).compress(arena.data)


def _compress_bound(size: int) -> int:
    """What ZSTD makes of so many bytes at most: ZSTD_COMPRESSBOUND of its manual."""
    return size + size // 256 + max(0, 2**17 - size) // 2**11


def _merge(pieces: Sequence[Piece]) -> tuple[Frame, Indices]:
    """One frame that has the rows of all pieces, and their numbers in it."""
    if len(pieces) == 1:
        frame, rows = pieces[0].frame, pieces[0].rows
        # A slice of rows that are not there would be a shorter one.
        if not 0 <= rows.min() <= rows.max() < frame.row_count:
            raise IndexError(f"rows up to {rows.max()} leave a frame of {frame.row_count} rows")
        return frame, rows
    frame = concat_frames([piece.frame.take(piece.rows) for piece in pieces])
    return frame, np.arange(frame.row_count)


def _add_matrix(
    block: batch_pb2.Block,
    arranger: Arranger,
    frame: Frame,
    rows: Indices,
    names: Sequence[str],
) -> Fill:
    """Describes the matrix of a dense or label block; returns what fills it."""
    columns = []
    wanted = as_slice(rows)
    for name in names:
        column, inverse = frame.column(name)
        assert isinstance(column, Flat)
        columns.append(column.values[wanted if inverse is None else inverse[wanted]])
    matrix = np.stack(columns).ravel()
    layout = float_layout(len(matrix))
    part = block.parts.add(features=range(len(names)))
    values = batch_pb2.BUFFER_ROLE_VALUES
    start, end = arranger.add(part, values, dataset_pb2.SCALAR_TYPE_FLOAT32, layout)
    return lambda arena: word_planes(matrix, layout.base, layout.width_bits, arena[start:end])


def _add_lists(block: batch_pb2.Block, arranger: Arranger, rows: PartRows) -> list[Fill]:
    """Describes a part of a sparse block; returns what fills its buffers."""
    features = rows.features
    run_count = 0 if rows.run_lengths is None else rows.size
    part = block.parts.add(features=features, run_count=run_count)
    layouts = dict(zip(rows.singles, map(integer_layout, measure_ids(rows.ids)), strict=True))
    lengths = np.ones((len(features), rows.size), np.int32)
    for feature, lists in rows.lists.items():
        row = lengths[features.index(feature)]
        measures = measure_lists(lists.column.offsets, lists.values, lists.rows, row)
        layouts[feature] = integer_layout(measures)
    fills = []
    if rows.run_lengths is not None:
        role = batch_pb2.BUFFER_ROLE_RUN_LENGTHS
        fills.append(_add_words(part, arranger, role, rows.run_lengths))
    fills.append(_add_words(part, arranger, batch_pb2.BUFFER_ROLE_LENGTHS, lengths.ravel()))
    values, int64 = batch_pb2.BUFFER_ROLE_VALUES, dataset_pb2.SCALAR_TYPE_INT64
    places = {f: arranger.add(part, values, int64, layouts[f]) for f in features}
    fills.append(lambda arena: _fill_values(rows, layouts, places, arena))
    return fills


def _add_words(
    part: batch_pb2.Part,
    arranger: Arranger,
    role: batch_pb2.BufferRole,
    words: npt.NDArray[np.int32],
) -> Fill:
    low, high = int(words.min()), int(words.max())
    layout = integer_layout(Measures(len(words), low, high, _NOT_COUNTED))
    start, end = arranger.add(part, role, dataset_pb2.SCALAR_TYPE_INT32, layout)
    return lambda arena: word_planes(words, layout.base, layout.width_bits, arena[start:end])


def _fill_values(
    rows: PartRows, layouts: dict[int, Layout], places: dict[int, tuple[int, int]], arena: Arena
) -> None:
    starts = {}
    for feature, (start, _) in places.items():
        dictionary = layouts[feature].dictionary
        starts[feature] = start + dictionary.nbytes
        arena[start : starts[feature]] = dictionary.view(np.uint8)
    if rows.singles:
        of_singles = [(layouts[f], starts[f]) for f in rows.singles]
        buffers = [(at, one.width_bits, one.base, one.dictionary) for one, at in of_singles]
        ids_planes(rows.ids, buffers, arena)
    for feature, lists in rows.lists.items():
        layout = layouts[feature]
        if layout.width_bits:
            list_planes(
                lists.column.offsets,
                lists.values,
                lists.rows,
                layout.count,
                layout.base,
                layout.width_bits,
                layout.dictionary,
                arena[starts[feature] : places[feature][1]],
            )


def _fill(batch: batch_pb2.CompactBatch, fills: Sequence[Fill]) -> Arena:
    """The arena of a batch; the thread's own, overwritten by the next batch."""
    arena = _worker.take_arena(batch.uncompressed_size_bytes)
    end = 0
    for block in batch.blocks:
        for part in block.parts:
            for buffer in part.buffers:
                arena[end : buffer.offset_bytes] = 0
                end = buffer.offset_bytes + buffer.size_bytes
    arena[end:] = 0
    for fill in fills:
        fill(arena)
    return arena
