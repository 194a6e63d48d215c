"""A plain reference encoder of compact batches, straight from docs/compact_batch.md."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2

Cursor = tuple[int, int, int, int]
Lists = Sequence[Sequence[int]]
ALIGNMENT = 64
U64 = (1 << 64) - 1
TYPES = {
    "float32": dataset_pb2.SCALAR_TYPE_FLOAT32,
    "int32": dataset_pb2.SCALAR_TYPE_INT32,
    "int64": dataset_pb2.SCALAR_TYPE_INT64,
}


@dataclass(frozen=True)
class Rows:
    """Rows before encoding: dense and labels by feature, sparse as lists by feature and row."""

    dense: Mapping[str, Sequence[float]]
    sparse: Mapping[str, Lists]
    labels: Mapping[str, Sequence[float]]


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
    level: int = 1,
) -> batch_pb2.CompactBatch:
    batch = batch_pb2.CompactBatch(
        shard=shard,
        index=index,
        row_count=row_count,
        cursor=_cursor(cursor),
        next_cursor=_cursor(next_cursor),
        codec=codec,
    )
    arena = bytearray()
    if rows.dense:
        _add_matrix(batch.blocks.add(), arena, rows.dense)
    if rows.sparse:
        _add_lists(batch.blocks.add(), arena, [*rows.sparse.values()], row_count)
    if rows.labels:
        _add_matrix(batch.blocks.add(), arena, rows.labels)
    set_arena(batch, bytes(arena), level)
    return batch


def set_arena(batch: batch_pb2.CompactBatch, arena: bytes, level: int = 1) -> None:
    """Makes an arena the payload, with both checksums."""
    batch.uncompressed_size_bytes = len(arena)
    batch.payload_checksum = xxhash.xxh64_intdigest(arena)
    compress = zstandard.ZstdCompressor(level=level).compress
    batch.payload = compress(arena) if batch.codec == batch_pb2.CODEC_ZSTD else arena
    seal(batch)


def edit_arena(message: batch_pb2.CompactBatch, at: int, content: bytes) -> None:
    """Changes bytes of an arena that is sent as it is, with both checksums."""
    arena = bytearray(message.payload)
    arena[at : at + len(content)] = content
    set_arena(message, bytes(arena))


def encode_end(
    reason: preprocessor_service_pb2.EndReason, cursor: Cursor
) -> preprocessor_service_pb2.StreamEnd:
    return preprocessor_service_pb2.StreamEnd(
        reason=reason, cursor=_cursor(cursor), checksum=_xxh64([reason, *cursor])
    )


def seal(batch: batch_pb2.CompactBatch) -> None:
    """Sets the header checksum to what the header now says."""
    batch.header_checksum = _xxh64(header_words(batch))


def header_words(batch: batch_pb2.CompactBatch) -> list[int]:
    """What the header checksum is of."""
    words: list[int] = [batch.shard, batch.index, batch.row_count]
    for cursor in (batch.cursor, batch.next_cursor):
        words += [cursor.split, cursor.parquet_row, cursor.offset, cursor.batch]
    words += [batch.codec, batch.uncompressed_size_bytes, batch.payload_checksum]
    words.append(len(batch.blocks))
    for block in batch.blocks:
        words.append(len(block.parts))
        for part in block.parts:
            words += [len(part.features), *part.features, part.run_count, len(part.buffers)]
            for b in part.buffers:
                words += [b.role, b.layout, b.type, b.offset_bytes, b.size_bytes]
                words += [b.element_count, b.width_bits, b.base, b.dictionary_size]
    return words


def run_starts(lists: Lists) -> set[int]:
    """Row 0, and the rows whose list differs from that of the row before."""
    return {i for i in range(len(lists)) if i == 0 or [*lists[i]] != [*lists[i - 1]]}


def divide(columns: Sequence[Lists], row_count: int) -> list[tuple[list[int], list[int]]]:
    """The parts of a sparse block: (features, rows at which a run starts; none: once a row)."""
    starts = [run_starts(column) for column in columns]
    by_row = [f for f, s in enumerate(starts) if 2 * len(s) > row_count]
    opened: list[tuple[list[int], set[int]]] = []
    others = [f for f in range(len(columns)) if f not in by_row]
    for f in sorted(others, key=lambda f: -len(starts[f])):
        for features, shared in opened:
            if 8 * len(shared | starts[f]) <= 9 * len(starts[f]):
                features.append(f)
                shared.update(starts[f])
                break
        else:
            opened.append(([f], set(starts[f])))
    by_run = sorted((sorted(features), sorted(shared)) for features, shared in opened)
    return ([(by_row, [])] if by_row else []) + by_run


def _add_matrix(
    block: batch_pb2.Block, arena: bytearray, features: Mapping[str, Sequence[float]]
) -> None:
    part = block.parts.add(features=range(len(features)))
    _add_buffer(part, arena, "VALUES", np.array([*features.values()], "<f4").ravel())


def _add_lists(
    block: batch_pb2.Block, arena: bytearray, columns: Sequence[Lists], row_count: int
) -> None:
    for features, starts in divide(columns, row_count):
        part = block.parts.add(features=features, run_count=len(starts))
        if starts:
            _add_buffer(part, arena, "RUN_LENGTHS", np.diff([*starts, row_count]).astype("<i4"))
        rows = starts or range(row_count)
        sent = [[[*columns[f][row]] for row in rows] for f in features]
        lengths = [len(each) for lists in sent for each in lists]
        _add_buffer(part, arena, "LENGTHS", np.array(lengths, "<i4"))
        for lists in sent:
            values = [value for each in lists for value in each]
            _add_buffer(part, arena, "VALUES", np.array(values, "<i8"))


def _add_buffer(
    part: batch_pb2.Part,
    arena: bytearray,
    role: str,
    elements: npt.NDArray[np.float32 | np.int32 | np.int64],
) -> None:
    buffer = part.buffers.add(
        role=f"BUFFER_ROLE_{role}",
        type=TYPES[elements.dtype.name],
        offset_bytes=len(arena),
        element_count=elements.size,
    )
    if elements.dtype == np.float32:
        content = _numbers(buffer, [int(word) for word in elements.view("<u4")])
    else:
        content = _integers(buffer, elements.tolist(), is_values=role == "VALUES")
    buffer.size_bytes = len(content)
    arena += content
    arena += bytes(-len(arena) % ALIGNMENT)


def _numbers(buffer: batch_pb2.Buffer, words: list[int]) -> bytes:
    distinct = sorted(set(words))
    if 2 <= len(distinct) <= 256 and len(words) >= 16 * len(distinct):
        return _dictionary(buffer, words, distinct)
    tops = sorted({word >> 24 for word in words})
    if not 2 <= len(tops) <= 16 or len(words) < 64 * len(tops):
        return _byte_planes(buffer, words, 0, 32)
    code_width = min(bits for bits in (1, 2, 4) if len(tops) - 1 < 1 << bits)
    coded = [tops.index(word >> 24) << 24 | word & 0xFFFFFF for word in words]
    content = _byte_planes(buffer, coded, 0, 24 + code_width)
    buffer.layout = batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY
    buffer.dictionary_size = len(tops)
    return struct.pack(f"<{len(tops)}Q", *tops) + content


def _integers(buffer: batch_pb2.Buffer, elements: list[int], *, is_values: bool) -> bytes:
    distinct = sorted(set(elements))
    if len(distinct) <= 1:
        buffer.layout = batch_pb2.BUFFER_LAYOUT_CONSTANT
        buffer.base = distinct[0] if distinct else 0
        return b""
    least, width = distinct[0], width_of(distinct[-1] - distinct[0])
    few = len(distinct) <= 256 and len(elements) >= 4 * len(distinct)
    if not (is_values and few and width > 8):
        return _byte_planes(buffer, elements, least, width)
    return _dictionary(buffer, elements, distinct)


def _dictionary(buffer: batch_pb2.Buffer, elements: list[int], distinct: list[int]) -> bytes:
    place = {element: i for i, element in enumerate(distinct)}
    code_width = min(bits for bits in (1, 2, 4, 8) if len(distinct) - 1 < 1 << bits)
    codes = _byte_planes(buffer, [place[element] for element in elements], 0, code_width)
    buffer.layout = batch_pb2.BUFFER_LAYOUT_DICTIONARY
    buffer.dictionary_size = len(distinct)
    return struct.pack(f"<{len(distinct)}q", *distinct) + codes


def width_of(largest: int) -> int:
    """The bits in which words up to the largest are laid out: 8 p + 0, 1, 2 or 4."""
    bits = largest.bit_length()
    return next(width for width in range(bits, bits + 4) if width % 8 in {0, 1, 2, 4})


def _byte_planes(buffer: batch_pb2.Buffer, elements: list[int], base: int, width: int) -> bytes:
    buffer.layout = batch_pb2.BUFFER_LAYOUT_BYTE_PLANES
    buffer.base, buffer.width_bits = base, width
    words = np.array([(element - base) & U64 for element in elements], np.uint64)
    plane_count, top_bits = divmod(width, 8)
    planes = [(words >> np.uint64(8 * k)).astype(np.uint8).tobytes() for k in range(plane_count)]
    if top_bits:
        top = words >> np.uint64(8 * plane_count)
        per_byte = 8 // top_bits
        padded = np.append(top, np.zeros(-len(top) % per_byte, np.uint64)).reshape(-1, per_byte)
        shifts = np.arange(per_byte, dtype=np.uint64) * np.uint64(top_bits)
        planes.append((padded << shifts).sum(axis=1).astype(np.uint8).tobytes())
    return b"".join(planes)


def _cursor(cursor: Cursor) -> batch_pb2.Cursor:
    split, parquet_row, offset, batch = cursor
    return batch_pb2.Cursor(split=split, parquet_row=parquet_row, offset=offset, batch=batch)


def _xxh64(words: Sequence[int]) -> int:
    packed = struct.pack(f"<{len(words)}Q", *(word & U64 for word in words))
    return xxhash.xxh64_intdigest(packed)
