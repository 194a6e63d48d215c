"""The checksums of docs/compact_batch.md: XXH64, seed 0, of little-endian 64-bit words."""

from __future__ import annotations

import struct

import xxhash

from headrace.v1 import batch_pb2, preprocessor_service_pb2


def header_checksum(
    head: batch_pb2.CompactBatch, block_count: int, blocks: bytes, tail: batch_pb2.CompactBatch
) -> int:
    """The checksum of a batch's row count, cursors and descriptors.

    blocks are the words of its blocks; head and tail have the fields before and behind these.
    """
    words = [head.shard, head.index, head.row_count]
    words += _cursor_words(head.cursor)
    words += _cursor_words(head.next_cursor)
    words += [tail.codec, tail.uncompressed_size_bytes, tail.payload_checksum, block_count]
    return xxhash.xxh64_intdigest(_octets(words) + blocks)


def end_checksum(end: preprocessor_service_pb2.StreamEnd) -> int:
    """The checksum of a stream's end."""
    return xxhash.xxh64_intdigest(_octets([end.reason, *_cursor_words(end.cursor)]))


def _cursor_words(cursor: batch_pb2.Cursor) -> list[int]:
    return [cursor.split, cursor.parquet_row, cursor.offset, cursor.batch]


def _octets(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)
