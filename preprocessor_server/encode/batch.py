"""Rows of feature Frames to one compact batch: one arena, filled once and then compressed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from headrace.v1 import batch_pb2
from preprocessor_server.encode.arrange import Arranger
from preprocessor_server.encode.checksum import header_checksum
from preprocessor_server.encode.columns import LevelColumns, levels_of
from preprocessor_server.encode.compress import Compression, compress_bound
from preprocessor_server.encode.message import batch_response
from preprocessor_server.encode.parts import sparse_parts
from preprocessor_server.errors import DeploymentError
from preprocessor_server.frame import Array, Frame, Indices, take_rows

# What checksums, and the tags and lengths of message and payload, take up at most.
_ENVELOPE_BYTES = 64

Arena = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a feature Frame, in the order in which they go into the batch."""

    frame: Frame
    rows: Indices


class _Worker(threading.local):
    """What a worker thread uses again for every batch."""

    def __init__(self) -> None:
        self.arena = np.empty(0, np.uint8)

    def take_arena(self, size: int) -> Arena:
        if len(self.arena) < size:
            self.arena = np.empty(size + size // 8, np.uint8)
        return self.arena[:size]


_worker = _Worker()


class BatchEncoder:
    """Encodes batches of one schema; the same rows give the same arena, always."""

    def __init__(
        self,
        schema: batch_pb2.BatchSchema,
        codec: batch_pb2.Codec,
        compression: Compression,
        max_message_bytes: int,
    ) -> None:
        self._schema = schema
        self._codec = codec
        self._compression = compression
        self._max_message_bytes = max_message_bytes
        self._known: tuple[Callable[[], Frame | None], list[list[LevelColumns]]] = (
            lambda: None,
            [],
        )

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
        head = batch_pb2.CompactBatch(
            shard=shard,
            index=cursor.batch,
            row_count=len(rows),
            cursor=cursor,
            next_cursor=next_cursor,
        )
        arranger = Arranger()
        for schema, levels in zip(self._schema.blocks, self._levels_of(frame), strict=True):
            arranger.add_block()
            if schema.kind == batch_pb2.BLOCK_KIND_SPARSE:
                for part in sparse_parts(levels, rows):
                    arranger.add_lists(part, schema.dtype)
                continue
            matrix = _matrix(levels, len(schema.features), rows)
            if schema.kind == batch_pb2.BLOCK_KIND_META:
                arranger.add_columns(matrix)
            else:
                arranger.add_matrix(matrix, schema.dtype)
        found = arranger.describe()
        tail = batch_pb2.CompactBatch(codec=self._codec, uncompressed_size_bytes=found.size_bytes)
        header_bytes = head.ByteSize() + len(found.blocks) + tail.ByteSize()
        self._check_size(header_bytes + compress_bound(found.size_bytes, found.planes), head)
        arena = _worker.take_arena(found.size_bytes)
        arranger.write(arena)
        tail.payload_checksum = xxhash.xxh64_intdigest(arena.data)
        tail.header_checksum = header_checksum(head, len(self._schema.blocks), found.words, tail)
        payload: Sequence[bytes | memoryview] = [arena.data]
        if self._codec == batch_pb2.CODEC_ZSTD:
            payload = self._compression.compress(arena, found.planes)
        return batch_response(head, found.blocks, tail, payload)

    def _levels_of(self, frame: Frame) -> list[list[LevelColumns]]:
        """The levels of each block, looked up again when the frame is another than last time."""
        known_frame, levels = self._known
        if known_frame() is not frame:
            levels = [levels_of(frame, block.features) for block in self._schema.blocks]
            self._known = weakref.ref(frame, self._forget), levels
        return levels

    def _forget(self, frame: weakref.ref[Frame]) -> None:
        """Lets the arrays of a frame go with it."""
        if self._known[0] is frame:
            self._known = (lambda: None), []

    def _check_size(self, content_bytes: int, head: batch_pb2.CompactBatch) -> None:
        """Before the work is done, as if nothing could be compressed: the same for every codec."""
        size = content_bytes + _ENVELOPE_BYTES
        if size > self._max_message_bytes:
            raise DeploymentError(
                "BATCH_TOO_LARGE",
                f"a batch of {head.row_count:,} rows takes up to {size:,} bytes, more than a "
                f"message may hold ({self._max_message_bytes:,}, --max-message-bytes); use a "
                "smaller batch_size or raise the setting",
                field="identity.batch_size",
            )


def _merge(pieces: Sequence[Piece]) -> tuple[Frame, Indices]:
    """One frame that has the rows of all pieces, and their numbers in it."""
    if len(pieces) == 1:
        return pieces[0].frame, pieces[0].rows
    frame = take_rows([(piece.frame, piece.rows) for piece in pieces])
    return frame, np.arange(frame.row_count)


def _matrix(levels: Sequence[LevelColumns], feature_count: int, rows: Indices) -> Array:
    """The matrix of a dense, label or meta block [features, B], whose columns have one dtype."""
    matrix = np.empty((feature_count, len(rows)), levels[0].flats[0][1].dtype)
    for level in levels:
        wanted = rows if level.runs is None else level.runs.inverse.take(rows).astype(np.int64)
        for features, columns in level.flats:
            columns.gather_into(wanted, matrix, features)
    return matrix
