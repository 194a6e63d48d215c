"""The checksums of docs/compact_batch.md: XXH64, seed 0, of little-endian 64-bit words."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import xxhash

from headrace.v1 import batch_pb2, preprocessor_service_pb2

_WORD = 0xFFFF_FFFF_FFFF_FFFF


def header_checksum(batch: batch_pb2.CompactBatch) -> int:
    """The checksum of a batch's row count, cursors and descriptors."""
    words = [batch.shard, batch.index, batch.row_count]
    words += _cursor_words(batch.cursor)
    words += _cursor_words(batch.next_cursor)
    words += [batch.codec, batch.uncompressed_size_bytes, batch.payload_checksum]
    words.append(len(batch.blocks))
    for block in batch.blocks:
        words.append(len(block.parts))
        for part in block.parts:
            words += [len(part.features), *part.features, part.run_count, len(part.buffers)]
            for buffer in part.buffers:
                words += [buffer.role, buffer.layout, buffer.type]
                words += [buffer.offset_bytes, buffer.size_bytes, buffer.element_count]
                words += [buffer.width_bits, buffer.base & _WORD, buffer.dictionary_size]
    return _checksum(words)


def end_checksum(end: preprocessor_service_pb2.StreamEnd) -> int:
    """The checksum of a stream's end."""
    return _checksum([end.reason, *_cursor_words(end.cursor)])


def _cursor_words(cursor: batch_pb2.Cursor) -> list[int]:
    return [cursor.split, cursor.parquet_row, cursor.offset, cursor.batch]


def _checksum(words: Iterable[int]) -> int:
    values = list(words)
    return xxhash.xxh64_intdigest(struct.pack(f"<{len(values)}Q", *values))
