"""Rows of feature Frames to one compact batch: one arena, filled once, compressed once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.encode.checksum import header_checksum
from preprocessor_server.errors import DeploymentError
from preprocessor_server.frame import Array, Flat, Frame, Indices, Jagged
from preprocessor_server.kernels import gather_flat, gather_jagged, jagged_total

ALIGNMENT = 64
# What a batch's descriptors, cursors and checksums take up at most, beside schema and payload.
HEADER_BYTES = 4096

_compressors = threading.local()


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a feature Frame, in the order in which they go into the batch."""

    frame: Frame
    rows: Indices


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
    ) -> batch_pb2.CompactBatch:
        """The batch of the pieces' rows, one piece after the other.

        Raises DeploymentError (BATCH_TOO_LARGE) if it cannot fit a message.
        """
        rows = sum(len(piece.rows) for piece in pieces)
        batch = batch_pb2.CompactBatch(
            shard=shard,
            index=cursor.batch,
            row_count=rows,
            cursor=cursor,
            next_cursor=next_cursor,
            codec=self._codec,
        )
        totals = self._lay_out(batch, pieces, rows)
        if batch.uncompressed_size_bytes + HEADER_BYTES > self._max_message_bytes:
            raise DeploymentError(
                "BATCH_TOO_LARGE",
                f"a batch of {rows:,} rows encodes to {batch.uncompressed_size_bytes:,} bytes, "
                f"more than a message may hold ({self._max_message_bytes:,}, "
                "--max-message-bytes); use a smaller batch_size or raise the setting",
                field="identity.batch_size",
            )
        arena = np.zeros(batch.uncompressed_size_bytes, np.uint8)
        for schema, block in zip(self._schema.blocks, batch.blocks, strict=True):
            views = [_view(arena, buffer) for buffer in block.buffers]
            if schema.kind == batch_pb2.BLOCK_KIND_SPARSE:
                _fill_sparse(schema, views[0], views[1], pieces, totals)
            else:
                _fill_matrix(schema, views[0], pieces)
        batch.payload_checksum = xxhash.xxh64_intdigest(arena.data)
        batch.header_checksum = header_checksum(batch)
        batch.payload = self._compress(arena)
        return batch

    def _lay_out(
        self, batch: batch_pb2.CompactBatch, pieces: Sequence[Piece], rows: int
    ) -> dict[str, list[int]]:
        """Describes every block's buffers; returns each sparse feature's values, by piece."""
        totals: dict[str, list[int]] = {}
        end = 0
        for schema in self._schema.blocks:
            block = batch.blocks.add()
            cells = len(schema.features) * rows
            if schema.kind == batch_pb2.BLOCK_KIND_SPARSE:
                for name in schema.features:
                    totals[name] = [_total(piece, name) for piece in pieces]
                values = sum(map(sum, totals.values()))
                end = _add_buffer(
                    block, end, batch_pb2.BUFFER_ROLE_LENGTHS, dataset_pb2.SCALAR_TYPE_INT32, cells
                )
                end = _add_buffer(block, end, batch_pb2.BUFFER_ROLE_VALUES, schema.dtype, values)
            else:
                end = _add_buffer(block, end, batch_pb2.BUFFER_ROLE_VALUES, schema.dtype, cells)
        batch.uncompressed_size_bytes = end
        return totals

    def _compress(self, arena: npt.NDArray[np.uint8]) -> bytes:
        if self._codec == batch_pb2.CODEC_NONE:
            return arena.tobytes()
        compressor: zstandard.ZstdCompressor | None = getattr(_compressors, str(self._level), None)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(level=self._level, write_content_size=True)
            setattr(_compressors, str(self._level), compressor)
        return compressor.compress(arena.data)


_DTYPES: dict[int, np.dtype[np.generic]] = {
    dataset_pb2.SCALAR_TYPE_INT32: np.dtype("<i4"),
    dataset_pb2.SCALAR_TYPE_INT64: np.dtype("<i8"),
    dataset_pb2.SCALAR_TYPE_FLOAT32: np.dtype("<f4"),
    dataset_pb2.SCALAR_TYPE_FLOAT64: np.dtype("<f8"),
}


def _add_buffer(
    block: batch_pb2.Block,
    offset: int,
    role: batch_pb2.BufferRole,
    scalar: dataset_pb2.ScalarType,
    count: int,
) -> int:
    """Adds a buffer at an offset; returns where the next one may start."""
    size = count * _DTYPES[scalar].itemsize
    block.buffers.add(
        role=role,
        layout=batch_pb2.BUFFER_LAYOUT_PLAIN,
        type=scalar,
        offset_bytes=offset,
        size_bytes=size,
        element_count=count,
    )
    return -(-(offset + size) // ALIGNMENT) * ALIGNMENT


def _view(arena: npt.NDArray[np.uint8], buffer: batch_pb2.Buffer) -> Array:
    end = buffer.offset_bytes + buffer.size_bytes
    return arena[buffer.offset_bytes : end].view(_DTYPES[buffer.type])


def _column_rows(piece: Piece, name: str) -> tuple[Flat | Jagged, Indices]:
    """A feature's column and the column's rows that the piece wants."""
    column, inverse = piece.frame.column(name)
    assert isinstance(column, Flat | Jagged)
    rows = piece.rows if inverse is None else inverse[piece.rows].astype(np.int64)
    return column, rows


def _total(piece: Piece, name: str) -> int:
    column, rows = _column_rows(piece, name)
    assert isinstance(column, Jagged)
    return jagged_total(column.offsets, rows)


def _fill_matrix(schema: batch_pb2.BlockSchema, out: Array, pieces: Sequence[Piece]) -> None:
    position = 0
    for name in schema.features:
        for piece in pieces:
            column, rows = _column_rows(piece, name)
            assert isinstance(column, Flat)
            gather_flat(column.values, rows, out[position : position + len(rows)])
            position += len(rows)


def _fill_sparse(
    schema: batch_pb2.BlockSchema,
    lengths: Array,
    values: Array,
    pieces: Sequence[Piece],
    totals: dict[str, list[int]],
) -> None:
    row, position = 0, 0
    for name in schema.features:
        for piece, total in zip(pieces, totals[name], strict=True):
            column, rows = _column_rows(piece, name)
            assert isinstance(column, Jagged)
            assert isinstance(column.values, Flat)
            gather_jagged(
                column.offsets,
                column.values.values,
                rows,
                lengths[row : row + len(rows)],
                values[position : position + total],
            )
            row += len(rows)
            position += total
