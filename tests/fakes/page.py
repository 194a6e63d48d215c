"""A decoder of compact batches, written from docs/compact_batch.md alone."""

from __future__ import annotations

import struct
from typing import Any

import xxhash

from headrace.v1 import batch_pb2
from tests.fakes.wire import decompressed

U64 = (1 << 64) - 1
DENSE, SPARSE, LABEL, META = 1, 2, 3, 4
VALUES, LENGTHS, RUN_LENGTHS, WEIGHTS = 1, 2, 3, 4
BYTE_PLANES, CONSTANT, DICTIONARY, TOP_DICTIONARY = 1, 2, 3, 4
INT32, INT64, FLOAT32, FLOAT64, FLOAT16, BFLOAT16 = 1, 2, 3, 4, 5, 6

Decoded = dict[str, list[float] | list[int] | list[list[int]] | list[list[tuple[int, float]]]]


def header_words(batch: batch_pb2.CompactBatch) -> list[int]:
    words = [batch.shard, batch.index, batch.row_count]
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
                words += [b.element_count, b.width_bits, b.base & U64, b.dictionary_size]
    return words


def xxh64(words: list[int]) -> int:
    return xxhash.xxh64(b"".join(struct.pack("<Q", word) for word in words), seed=0).intdigest()


def planes(content: bytes, count: int, width: int) -> list[int]:
    """The words that are laid out as byte planes, and nothing but them."""
    whole, bits = divmod(width, 8)
    assert bits in {0, 1, 2, 4}
    words = [0] * count
    for k in range(whole):
        for i in range(count):
            words[i] |= content[k * count + i] << (8 * k)
    packed = content[whole * count :]
    assert len(packed) == -(-count * bits // 8)
    if bits:
        per_byte = 8 // bits
        tops = [byte >> (bits * j) & ((1 << bits) - 1) for byte in packed for j in range(per_byte)]
        assert not any(tops[count:])
        words = [word | top << (8 * whole) for word, top in zip(words, tops[:count], strict=True)]
    return words


def elements(b: batch_pb2.Buffer, content: bytes) -> list[float] | list[int]:
    """The elements of a buffer, by its layout and type."""
    count = b.element_count
    if b.layout == CONSTANT:
        assert (b.size_bytes, b.width_bits, b.dictionary_size) == (0, 0, 0)
        words = [b.base & U64] * count
    elif b.layout == DICTIONARY:
        assert b.width_bits in {1, 2, 4, 8}
        assert b.base == 0
        known = struct.unpack_from(f"<{b.dictionary_size}q", content)
        assert list(known) == sorted(set(known))
        codes = planes(content[8 * len(known) :], count, b.width_bits)
        words = [known[code] & U64 for code in codes]
    elif b.layout == TOP_DICTIONARY:
        below = {FLOAT32: 24, FLOAT64: 56}.get(b.type, 8)
        assert b.width_bits - below in {1, 2, 4}
        known = struct.unpack_from(f"<{b.dictionary_size}Q", content)
        assert 2 <= len(known) <= 16
        assert list(known) == sorted(set(known))
        words = planes(content[8 * len(known) :], count, b.width_bits)
        words = [known[word >> below] << below | word & ((1 << below) - 1) for word in words]
    else:
        assert b.layout == BYTE_PLANES
        assert b.dictionary_size == 0
        words = [(b.base + word) & U64 for word in planes(content, count, b.width_bits)]
    if b.type == BFLOAT16:
        words = [word << 16 for word in words]
    if b.type in {FLOAT32, FLOAT64, FLOAT16, BFLOAT16}:
        assert b.layout in {BYTE_PLANES, DICTIONARY, TOP_DICTIONARY}
        assert b.base == 0
        if b.layout == BYTE_PLANES:
            assert b.width_bits == {FLOAT32: 32, FLOAT64: 64}.get(b.type, 16)
        number, word = {FLOAT64: ("d", "Q"), FLOAT16: ("e", "H")}.get(b.type, ("f", "I"))
        return list(struct.unpack(f"<{count}{number}", struct.pack(f"<{count}{word}", *words)))
    bits = {INT32: 32, INT64: 64}[b.type]
    words = [word & ((1 << bits) - 1) for word in words]
    return [word - (1 << bits) if word >> (bits - 1) else word for word in words]


def decode(schema: batch_pb2.BatchSchema, batch: batch_pb2.CompactBatch) -> Decoded:
    """Every feature's values by name: numbers, or lists of ids, one a row.

    In a weighted block lists of ids and weights, in pairs.
    """
    assert xxh64(header_words(batch)) == batch.header_checksum
    arena = batch.payload
    if batch.codec == 2:
        arena = decompressed(arena)
    assert len(arena) == batch.uncompressed_size_bytes
    assert len(arena) % 64 == 0
    assert xxhash.xxh64(arena, seed=0).intdigest() == batch.payload_checksum
    rows, end = batch.row_count, 0
    found: Decoded = {}
    for declared, block in zip(schema.blocks, batch.blocks, strict=True):
        names = [*declared.features]
        places = [place for part in block.parts for place in part.features]
        assert sorted(places) == [*range(len(names))]
        by_run = [part.run_count > 0 for part in block.parts]
        assert by_run == sorted(by_run)
        assert by_run.count(False) <= 1
        firsts = [part.features[0] for part in block.parts if part.run_count]
        assert firsts == sorted(firsts)
        for part in block.parts:
            assert [*part.features] == sorted(part.features)
            buffers = []
            for b in part.buffers:
                assert b.offset_bytes == -(-end // 64) * 64
                assert set(arena[end : b.offset_bytes]) <= {0}
                end = b.offset_bytes + b.size_bytes
                buffers.append((b.role, b.type, elements(b, arena[b.offset_bytes : end])))
            read = {SPARSE: lists, META: integers}.get(declared.kind, numbers)
            if declared.weights_dtype:
                assert (declared.kind, declared.weights_dtype) == (SPARSE, FLOAT32)
                read = weighted_lists
            columns: Any = read(part, buffers, rows, declared.dtype)
            found.update(
                {names[f]: column for f, column in zip(part.features, columns, strict=True)}
            )
    assert set(arena[end:]) <= {0}
    return {name: found[name] for block in schema.blocks for name in block.features}


def numbers(part: batch_pb2.Part, buffers: list[Any], rows: int, dtype: int) -> list[list[float]]:
    assert part.run_count == 0
    ((role, kind, values),) = buffers
    assert (role, len(values)) == (VALUES, len(part.features) * rows)
    assert kind == dtype or (kind, dtype) == (FLOAT32, FLOAT64)
    return [values[f * rows : (f + 1) * rows] for f in range(len(part.features))]


def integers(part: batch_pb2.Part, buffers: list[Any], rows: int, dtype: int) -> list[list[int]]:
    assert part.run_count == 0
    assert dtype == INT64
    columns = []
    for role, kind, values in buffers:
        assert (role, kind, len(values)) == (VALUES, INT64, rows)
        columns.append(values)
    return columns


def weighted_lists(
    part: batch_pb2.Part, buffers: list[Any], rows: int, dtype: int
) -> list[list[list[tuple[int, float]]]]:
    role, kind, weights = buffers.pop()
    values = [values for role, _, values in buffers if role == VALUES]
    assert (role, kind, len(weights)) == (WEIGHTS, FLOAT32, sum(map(len, values)))
    start = 0
    for i, (role, kind, elements) in enumerate(buffers):
        if role == VALUES:
            end = start + len(elements)
            buffers[i] = role, kind, [*zip(elements, weights[start:end], strict=True)]
            start = end
    return lists(part, buffers, rows, dtype)


def lists(part: batch_pb2.Part, buffers: list[Any], rows: int, dtype: int) -> list[list[list[Any]]]:
    run_lengths = [1] * rows
    if part.run_count:
        role, kind, run_lengths = buffers.pop(0)
        assert (role, kind, len(run_lengths)) == (RUN_LENGTHS, INT32, part.run_count)
        assert min(run_lengths) >= 1
        assert sum(run_lengths) == rows
    role, kind, lengths = buffers.pop(0)
    size = len(run_lengths)
    assert (role, kind, len(lengths)) == (LENGTHS, INT32, len(part.features) * size)
    columns = []
    for f, (role, kind, values) in enumerate(buffers):
        assert (role, kind) == (VALUES, dtype)
        column, start = [], 0
        for run, length in enumerate(lengths[f * size : (f + 1) * size]):
            assert length >= 0
            column += [values[start : start + length]] * run_lengths[run]
            start += length
        assert start == len(values)
        columns.append(column)
    return columns
