"""Compact batches to tensors: one decompression into one arena, and views of it.

docs/compact_batch.md specifies the bytes. Nothing in a message is used before the header checksum
holds, and nothing in the arena is handed out before the payload checksum holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
import xxhash
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2
from trainer_client.batch import ArenaLayout, Batch, JaggedLayout, MatrixLayout
from trainer_client.cursor import Cursor
from trainer_client.errors import CorruptBatchError, DeploymentError

ENCODING_VERSION = 1
ACCEPTED_CODECS = (batch_pb2.CODEC_ZSTD, batch_pb2.CODEC_NONE)
ALIGNMENT = 64
# Far above any sane batch: a header that asks for more is wrong, whatever its checksum says.
MAX_ARENA_BYTES = 16 << 30
MAX_ZSTD_WINDOW_BYTES = 1 << 27

_FLOAT32, _INT32, _INT64 = (
    dataset_pb2.SCALAR_TYPE_FLOAT32,
    dataset_pb2.SCALAR_TYPE_INT32,
    dataset_pb2.SCALAR_TYPE_INT64,
)
_VALUES, _LENGTHS = batch_pb2.BUFFER_ROLE_VALUES, batch_pb2.BUFFER_ROLE_LENGTHS
_ITEM_BYTES: dict[int, int] = {_FLOAT32: 4, _INT32: 4, _INT64: 8}
_DTYPE: dict[int, int] = {
    batch_pb2.BLOCK_KIND_DENSE: _FLOAT32,
    batch_pb2.BLOCK_KIND_SPARSE: _INT64,
    batch_pb2.BLOCK_KIND_LABEL: _FLOAT32,
}


def header_checksum(message: batch_pb2.CompactBatch) -> int:
    """XXH64, seed 0, of the header fields as 64-bit words in the order of the specification."""
    return _checksum_words(_header_words(message))


def end_checksum(message: preprocessor_service_pb2.StreamEnd) -> int:
    """XXH64, seed 0, of reason and cursor."""
    return _checksum_words((message.reason, *_cursor_words(message.cursor)))


def check_version(version: int, who: str) -> None:
    """Raises DeploymentError if this encoding version cannot be decoded here."""
    if version != ENCODING_VERSION:
        raise DeploymentError(
            f"{who} encoding version {version}, this client decodes version {ENCODING_VERSION}: "
            "upgrade the older of the two"
        )


def check_schema(schema: batch_pb2.BatchSchema) -> None:
    """Raises DeploymentError if batches of this schema cannot be decoded here."""
    check_version(schema.encoding_version, "the server sends")
    kinds = []
    for block in schema.blocks:
        if block.kind not in _DTYPE:
            _unknown(f"block {block.name!r}", "kind", block.kind)
        if block.dtype != _DTYPE[block.kind]:
            _unknown(f"block {block.name!r}", "dtype", block.dtype)
        if not block.features:
            raise DeploymentError(f"block {block.name!r} of the server's schema has no features")
        kinds.append(block.kind)
    if not kinds or len(set(kinds)) != len(kinds):
        raise DeploymentError(
            f"the server's schema has {len(kinds)} blocks of {len(set(kinds))} kinds; this client "
            "takes one of each kind: upgrade it"
        )


def decode(
    message: batch_pb2.CompactBatch, schema: batch_pb2.BatchSchema, *, pin_memory: bool = False
) -> Batch:
    """The batch of a message.

    pin_memory decompresses straight into page-locked memory. Raises CorruptBatchError if the
    bytes are not those that were sent, DeploymentError if a newer server made them.
    """
    if header_checksum(message) != message.header_checksum:
        _corrupt(message, "the header does not match its checksum")
    layout = _layout(message, schema)
    arena = _arena(message, pin_memory=pin_memory)
    if layout.sparse is not None:
        _check_lengths(message, layout.sparse, layout.row_count, arena)
    return Batch(
        arena=arena,
        layout=layout,
        shard=message.shard,
        index=message.index,
        cursor=Cursor.from_proto(message.cursor),
        next_cursor=Cursor.from_proto(message.next_cursor),
    )


def _layout(message: batch_pb2.CompactBatch, schema: batch_pb2.BatchSchema) -> ArenaLayout:
    """The layout that the header describes, every bound checked."""
    rows = message.row_count
    if rows < 1:
        _corrupt(message, "it has no rows")
    size = message.uncompressed_size_bytes
    if size % ALIGNMENT or size > MAX_ARENA_BYTES:
        _corrupt(message, f"an arena of {size} bytes is not possible")
    if len(message.blocks) != len(schema.blocks):
        _corrupt(message, f"{len(message.blocks)} blocks for a schema of {len(schema.blocks)}")
    end = 0
    dense = sparse = labels = None
    for block, block_schema in zip(message.blocks, schema.blocks, strict=True):
        features = tuple(block_schema.features)
        cells = len(features) * rows
        jagged = block_schema.kind == batch_pb2.BLOCK_KIND_SPARSE
        expected = (
            ((_LENGTHS, _INT32, cells), (_VALUES, _INT64, None))
            if jagged
            else ((_VALUES, _FLOAT32, cells),)
        )
        if len(block.buffers) != len(expected):
            _corrupt(message, f"block {block_schema.name!r} has {len(block.buffers)} buffers")
        for buffer, (role, scalar_type, count) in zip(block.buffers, expected, strict=True):
            end = _check_buffer(message, buffer, role, scalar_type, count, end)
        starts = [buffer.offset_bytes for buffer in block.buffers]
        if jagged:
            sparse = JaggedLayout(features, starts[0], starts[1], block.buffers[1].element_count)
        elif block_schema.kind == batch_pb2.BLOCK_KIND_DENSE:
            dense = MatrixLayout(features, starts[0])
        else:
            labels = MatrixLayout(features, starts[0])
    return ArenaLayout(rows, dense, sparse, labels)


def _check_buffer(
    message: batch_pb2.CompactBatch,
    buffer: batch_pb2.Buffer,
    role: int,
    scalar_type: int,
    count: int | None,
    start: int,
) -> int:
    """Where the buffer ends; count is None where the data decides it."""
    if buffer.layout != batch_pb2.BUFFER_LAYOUT_PLAIN:
        _unknown("a buffer", "layout", buffer.layout)
    if buffer.role not in (_VALUES, _LENGTHS):
        _unknown("a buffer", "role", buffer.role)
    if buffer.type not in _ITEM_BYTES:
        _unknown("a buffer", "type", buffer.type)
    end = buffer.offset_bytes + buffer.size_bytes
    if (
        (buffer.role, buffer.type) != (role, scalar_type)
        or (count is not None and buffer.element_count != count)
        or buffer.size_bytes != buffer.element_count * _ITEM_BYTES[scalar_type]
        or buffer.offset_bytes % ALIGNMENT
        or buffer.offset_bytes < start
        or end > message.uncompressed_size_bytes
    ):
        described = str(buffer).replace("\n", " ").strip()
        _corrupt(message, f"a buffer does not fit its block or the arena ({described})")
    return end


def _bytes_of(arena: torch.Tensor) -> memoryview:
    array: npt.NDArray[np.uint8] = arena.numpy()
    return array.data


def _arena(message: batch_pb2.CompactBatch, *, pin_memory: bool) -> torch.Tensor:
    """The uncompressed arena, uint8 [uncompressed_size_bytes], its checksum verified."""
    if message.codec not in ACCEPTED_CODECS:
        _unknown("a batch", "codec", message.codec)
    size = message.uncompressed_size_bytes
    arena = torch.empty(size, dtype=torch.uint8, pin_memory=pin_memory)
    target = _bytes_of(arena)
    # Taken once: each look at a bytes field of a message copies it.
    payload = message.payload
    if message.codec == batch_pb2.CODEC_NONE:
        if len(payload) != size:
            _corrupt(message, f"{len(payload)} bytes for an arena of {size}")
        target[:] = payload
    else:
        _decompress(message, payload, target)
    if xxhash.xxh64_intdigest(target) != message.payload_checksum:
        _corrupt(message, "the payload does not match its checksum")
    return arena


def _decompress(message: batch_pb2.CompactBatch, payload: bytes, target: memoryview) -> None:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    filled = 0
    try:
        with decompressor.stream_reader(payload) as reader:
            while filled < len(target) and (count := reader.readinto(target[filled:])):
                filled += count
            surplus = reader.read(1)
    except zstandard.ZstdError as error:
        _corrupt(message, f"the payload does not decompress ({error})", error)
    if filled < len(target) or surplus:
        _corrupt(message, f"the payload does not decompress to the {len(target)} bytes announced")


def _check_lengths(
    message: batch_pb2.CompactBatch, layout: JaggedLayout, rows: int, arena: torch.Tensor
) -> None:
    lengths = np.frombuffer(
        _bytes_of(arena),
        dtype="<i4",
        count=len(layout.features) * rows,
        offset=layout.lengths_offset_bytes,
    )
    if lengths.min() < 0 or int(lengths.sum(dtype=np.int64)) != layout.value_count:
        _corrupt(message, f"list lengths do not add up to {layout.value_count} values")


def _header_words(message: batch_pb2.CompactBatch) -> Iterator[int]:
    yield from (message.shard, message.index, message.row_count)
    yield from _cursor_words(message.cursor)
    yield from _cursor_words(message.next_cursor)
    yield from (message.codec, message.uncompressed_size_bytes, message.payload_checksum)
    yield len(message.blocks)
    for block in message.blocks:
        yield len(block.buffers)
        for b in block.buffers:
            yield from (b.role, b.layout, b.type, b.offset_bytes, b.size_bytes, b.element_count)


def _cursor_words(cursor: batch_pb2.Cursor) -> tuple[int, int, int, int]:
    return cursor.split, cursor.parquet_row, cursor.offset, cursor.batch


def _checksum_words(words: Iterable[int]) -> int:
    # An enum from a damaged message can be negative: 64-bit two's complement, like the rest.
    unsigned = [word & 0xFFFF_FFFF_FFFF_FFFF for word in words]
    return xxhash.xxh64_intdigest(struct.pack(f"<{len(unsigned)}Q", *unsigned))


def _corrupt(
    message: batch_pb2.CompactBatch, problem: str, cause: Exception | None = None
) -> NoReturn:
    raise CorruptBatchError(
        f"batch {message.index} of shard {message.shard} arrived damaged: {problem}"
    ) from cause


def _unknown(thing: str, what: str, value: int) -> NoReturn:
    raise DeploymentError(
        f"{thing} has {what} {value}, which this client does not know: it was made by a newer "
        "server; upgrade headrace in the trainer"
    )
