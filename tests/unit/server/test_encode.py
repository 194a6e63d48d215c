"""Batches are a pure function of their rows, byte for byte, and what the specification says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.encode.compress import Compression
from preprocessor_server.frame import Frame
from tests.fakes.encoder import encode_batch
from tests.fakes.features import FORMS, SCHEMA, frames, orders, other_form, rows_of, whole
from tests.fakes.wire import decompressed

AFTER = batch_pb2.Cursor(split=1, parquet_row=2**40, offset=3, batch=8)
BEFORE = batch_pb2.Cursor(split=1, parquet_row=2, batch=7)
ROOM = 1 << 24


def encode(pieces: Sequence[Piece], codec: batch_pb2.Codec = batch_pb2.CODEC_NONE) -> bytes:
    return BatchEncoder(SCHEMA, codec, Compression(1), ROOM).encode(pieces, 5, BEFORE, AFTER)


def reference(frame: Frame, wanted: Sequence[int], codec: batch_pb2.Codec) -> Any:
    return encode_batch(
        rows_of(frame, wanted),
        shard=5,
        index=7,
        row_count=len(wanted),
        cursor=(1, 2, 0, 7),
        next_cursor=(1, 2**40, 3, 8),
        codec=codec,
    )


@given(frames(), st.data())
def test_the_same_rows_give_the_same_bytes(frame: Frame, data: st.DataObject) -> None:
    wanted = np.array(data.draw(orders(frame.row_count)), np.int64)
    expected = encode([Piece(frame, wanted)])
    for form in FORMS:
        assert encode([Piece(other_form(frame, form), wanted)]) == expected, form
    assert encode([whole(frame.take(wanted))]) == expected
    assert encode([whole(frame.expanded().take(wanted))]) == expected
    # Cut anywhere, inside of runs too, each piece from a window that keeps its rows in its own way.
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wanted)), max_size=3)))
    pieces = []
    for start, end in itertools.pairwise([0, *cuts, len(wanted)]):
        form, taken = data.draw(st.tuples(st.sampled_from(FORMS), st.booleans()))
        rows = wanted[start:end]
        if taken:
            pieces.append(whole(other_form(frame.take(rows), form)))
        else:
            pieces.append(Piece(other_form(frame, form), rows))
    assert encode(pieces) == expected


@given(frames(), st.data())
def test_bytes_are_those_of_the_specification(frame: Frame, data: st.DataObject) -> None:
    wanted = data.draw(orders(frame.row_count))
    message = encode([Piece(frame, np.array(wanted))])
    expected = reference(frame, wanted, batch_pb2.CODEC_NONE)
    assert pb.StreamBatchesResponse.FromString(message).batch == expected
    assert message == pb.StreamBatchesResponse(batch=expected).SerializeToString()


@given(frames(), st.data())
def test_a_decoder_gives_the_rows_back(frame: Frame, data: st.DataObject) -> None:
    wanted = data.draw(orders(frame.row_count))
    message = encode([Piece(frame, np.array(wanted))], batch_pb2.CODEC_ZSTD)
    batch = pb.StreamBatchesResponse.FromString(message).batch
    rows = rows_of(frame, wanted)
    found = decode(batch)
    for name, numbers in {**rows.dense, **rows.labels}.items():
        assert found[name].tobytes() == np.asarray(numbers).tobytes()
    for name, lists in rows.sparse.items():
        assert found[name] == lists


def decode(batch: batch_pb2.CompactBatch) -> dict[str, Any]:
    """Every feature by name: float32 numbers, or lists of ids."""
    arena = decompressed(batch.payload)
    found: dict[str, Any] = {}
    for declared, block in zip(SCHEMA.blocks, batch.blocks, strict=True):
        for part in block.parts:
            buffers = [_elements(buffer, arena) for buffer in part.buffers]
            count = part.run_count or batch.row_count
            repeats = buffers.pop(0) if part.run_count else [1] * count
            if declared.kind != batch_pb2.BLOCK_KIND_SPARSE:
                matrix = np.array(buffers[0], np.uint32).view(np.float32).reshape(-1, count)
                found |= zip(declared.features, matrix, strict=True)
                continue
            lengths = buffers.pop(0)
            for place, (number, values) in enumerate(zip(part.features, buffers, strict=True)):
                ends = [0, *itertools.accumulate(lengths[place * count : (place + 1) * count])]
                lists = [values[a:b] for a, b in itertools.pairwise(ends)]
                found[declared.features[number]] = [
                    each for each, times in zip(lists, repeats, strict=True) for _ in range(times)
                ]
    return found


def _elements(buffer: batch_pb2.Buffer, arena: bytes) -> list[int]:
    content = arena[buffer.offset_bytes : buffer.offset_bytes + buffer.size_bytes]
    count, width = buffer.element_count, buffer.width_bits
    if buffer.layout == batch_pb2.BUFFER_LAYOUT_CONSTANT:
        return [buffer.base] * count
    dictionary = np.frombuffer(content[: 8 * buffer.dictionary_size], "<i8").tolist()
    planes, words = content[8 * buffer.dictionary_size :], [0] * count
    for plane in range(width // 8):
        for i in range(count):
            words[i] |= planes[plane * count + i] << 8 * plane
    for i in range(count if width % 8 else 0):
        at, shift = divmod(i * (width % 8), 8)
        bits = planes[width // 8 * count + at] >> shift & (1 << width % 8) - 1
        words[i] |= bits << width // 8 * 8
    if buffer.layout == batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY:
        below = width // 8 * 8
        return [dictionary[word >> below] << below | word % (1 << below) for word in words]
    if dictionary:
        return [dictionary[word] for word in words]
    return [(word + buffer.base + 2**63) % 2**64 - 2**63 for word in words]
