"""A plain reference encoder of compact batches, straight from the specification."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2

Cursor = tuple[int, int, int, int]
ALIGNMENT = 64
TYPES = {
    "float32": dataset_pb2.SCALAR_TYPE_FLOAT32,
    "int32": dataset_pb2.SCALAR_TYPE_INT32,
    "int64": dataset_pb2.SCALAR_TYPE_INT64,
}


@dataclass(frozen=True)
class Rows:
    """Rows before encoding: dense and labels by feature, sparse as lists by feature and row."""

    dense: dict[str, Sequence[float]]
    sparse: dict[str, Sequence[Sequence[int]]]
    labels: dict[str, Sequence[float]]


def encode_schema(rows: Rows) -> batch_pb2.BatchSchema:
    schema = batch_pb2.BatchSchema(encoding_version=1)
    for name, kind, dtype, features in (
        ("dense", batch_pb2.BLOCK_KIND_DENSE, "float32", rows.dense),
        ("sparse", batch_pb2.BLOCK_KIND_SPARSE, "int64", rows.sparse),
        ("labels", batch_pb2.BLOCK_KIND_LABEL, "float32", rows.labels),
    ):
        if features:
            schema.blocks.add(name=name, kind=kind, dtype=TYPES[dtype], features=features)
    return schema


def encode_batch(
    rows: Rows,
    *,
    shard: int = 0,
    index: int = 0,
    row_count: int,
    cursor: Cursor = (0, 0, 0, 0),
    next_cursor: Cursor = (0, 0, 0, 1),
    codec: batch_pb2.Codec = batch_pb2.CODEC_ZSTD,
) -> batch_pb2.CompactBatch:
    arena = bytearray()
    blocks = []
    if rows.dense:
        blocks.append([_buffer(arena, "VALUES", np.array([*rows.dense.values()], "<f4"))])
    if rows.sparse:
        lists = [row for feature in rows.sparse.values() for row in feature]
        lengths = np.array([len(row) for row in lists], "<i4")
        values = np.array([value for row in lists for value in row], "<i8")
        blocks.append([_buffer(arena, "LENGTHS", lengths), _buffer(arena, "VALUES", values)])
    if rows.labels:
        blocks.append([_buffer(arena, "VALUES", np.array([*rows.labels.values()], "<f4"))])
    batch = batch_pb2.CompactBatch(
        shard=shard,
        index=index,
        row_count=row_count,
        cursor=_cursor(cursor),
        next_cursor=_cursor(next_cursor),
        blocks=[batch_pb2.Block(buffers=buffers) for buffers in blocks],
        codec=codec,
        uncompressed_size_bytes=len(arena),
        payload_checksum=xxhash.xxh64_intdigest(bytes(arena)),
    )
    data = bytes(arena)
    compress = zstandard.ZstdCompressor(level=1).compress
    batch.payload = compress(data) if codec == batch_pb2.CODEC_ZSTD else data
    seal(batch)
    return batch


def encode_end(
    reason: preprocessor_service_pb2.EndReason, cursor: Cursor
) -> preprocessor_service_pb2.StreamEnd:
    return preprocessor_service_pb2.StreamEnd(
        reason=reason, cursor=_cursor(cursor), checksum=_xxh64([reason, *cursor])
    )


def seal(batch: batch_pb2.CompactBatch) -> None:
    """Sets the header checksum to what the header now says."""
    words: list[int] = [batch.shard, batch.index, batch.row_count]
    for cursor in (batch.cursor, batch.next_cursor):
        words += [cursor.split, cursor.parquet_row, cursor.offset, cursor.batch]
    words += [batch.codec, batch.uncompressed_size_bytes, batch.payload_checksum]
    words.append(len(batch.blocks))
    for block in batch.blocks:
        words.append(len(block.buffers))
        for b in block.buffers:
            words += [b.role, b.layout, b.type, b.offset_bytes, b.size_bytes, b.element_count]
    batch.header_checksum = _xxh64(words)


def _buffer(
    arena: bytearray, role: str, array: npt.NDArray[np.float32 | np.int32 | np.int64]
) -> batch_pb2.Buffer:
    offset = len(arena)
    arena += array.tobytes()
    arena += bytes(-len(arena) % ALIGNMENT)
    return batch_pb2.Buffer(
        role=f"BUFFER_ROLE_{role}",
        layout=batch_pb2.BUFFER_LAYOUT_PLAIN,
        type=TYPES[array.dtype.name],
        offset_bytes=offset,
        size_bytes=array.nbytes,
        element_count=array.size,
    )


def _cursor(cursor: Cursor) -> batch_pb2.Cursor:
    split, parquet_row, offset, batch = cursor
    return batch_pb2.Cursor(split=split, parquet_row=parquet_row, offset=offset, batch=batch)


def _xxh64(words: Sequence[int]) -> int:
    return xxhash.xxh64_intdigest(struct.pack(f"<{len(words)}Q", *words))
