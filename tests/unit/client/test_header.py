from __future__ import annotations

import struct

import pytest
import xxhash
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from tests.fakes.encoder import encode_batch, header_words, seal
from tests.fakes.epochs import rows_of
from trainer_client import CorruptBatchError
from trainer_client.cursor import Cursor
from trainer_client.header import Header, HeaderReader

FEATURES = 12
U64 = (1 << 64) - 1
LONG = st.integers(0, U64) | st.integers(0, 300)
WORD = st.integers(0, (1 << 32) - 1) | st.integers(0, 300)
ENUM = st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(0, 4)
CURSORS = st.builds(batch_pb2.Cursor, split=WORD, parquet_row=LONG, offset=LONG, batch=LONG)


@st.composite
def buffers(draw: st.DrawFn) -> batch_pb2.Buffer:
    buffer = batch_pb2.Buffer(
        offset_bytes=draw(LONG),
        size_bytes=draw(LONG),
        element_count=draw(LONG),
        width_bits=draw(WORD),
        base=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        dictionary_size=draw(WORD),
    )
    for name in ("role", "layout", "type"):
        setattr(buffer, name, draw(ENUM))
    return buffer


PARTS = st.builds(
    batch_pb2.Part,
    features=st.lists(WORD, max_size=3),
    run_count=WORD,
    buffers=st.lists(buffers(), max_size=4),
)
BLOCKS = st.builds(batch_pb2.Block, parts=st.lists(PARTS, max_size=2))
MESSAGES = st.builds(
    batch_pb2.CompactBatch,
    shard=WORD,
    index=LONG,
    row_count=WORD,
    cursor=CURSORS,
    next_cursor=CURSORS,
    blocks=st.lists(BLOCKS, max_size=2),
    codec=st.sampled_from([0, 1, 2, 99]),
    uncompressed_size_bytes=LONG,
    payload_checksum=LONG,
    payload=st.binary(max_size=40),
)


def read(data: bytes) -> Header:
    return HeaderReader(FEATURES).read(data)


def agrees(header: Header, message: batch_pb2.CompactBatch) -> bool:
    """Whether everything that was read is what protobuf reads."""
    parts = [part for block in message.blocks for part in block.parts]
    rows = [
        [
            *(b.role, b.layout, b.type, b.offset_bytes, b.size_bytes, b.element_count),
            *(b.width_bits, b.base & U64, b.dictionary_size),
        ]
        for part in parts
        for b in part.buffers
    ]
    found = [[word & U64 for word in row[:9]] for row in header.buffers.tolist()]
    return (
        (header.shard, header.index, header.row_count)
        == (message.shard, message.index, message.row_count)
        and header.cursor == Cursor.from_proto(message.cursor)
        and header.next_cursor == Cursor.from_proto(message.next_cursor)
        and (header.codec, header.uncompressed_size_bytes, header.payload_checksum)
        == (message.codec, message.uncompressed_size_bytes, message.payload_checksum)
        and header.block_count == len(message.blocks)
        and [part.block for part in header.parts]
        == [i for i, block in enumerate(message.blocks) for _ in block.parts]
        and header.run_counts == [part.run_count for part in parts]
        and [(p.features, p.by_run, p.buffer_end - p.first_buffer) for p in header.parts]
        == [((*part.features,), part.run_count > 0, len(part.buffers)) for part in parts]
        and found == [[word & U64 for word in row] for row in rows]
        and header.payload == message.payload
    )


@settings(max_examples=200)
@given(MESSAGES)
def test_every_message_is_read_as_protobuf_reads_it(message: batch_pb2.CompactBatch) -> None:
    seal(message)
    assert agrees(read(message.SerializeToString()), message)


@given(MESSAGES, st.data())
def test_the_content_checksum_is_of_all_that_fixes_values_and_of_nothing_else(
    message: batch_pb2.CompactBatch, data: st.DataObject
) -> None:
    """Elements that are all equal, or count from a base, are in the header alone."""
    seal(message)
    before = read(message.SerializeToString()).content_checksum
    other = batch_pb2.CompactBatch()
    other.CopyFrom(message)
    zstd = message.codec == batch_pb2.CODEC_ZSTD
    other.codec = batch_pb2.CODEC_NONE if zstd else batch_pb2.CODEC_ZSTD
    other.shard, other.index, other.next_cursor.batch = 77, 78, 79
    seal(other)
    assert read(other.SerializeToString()).content_checksum == before
    found = [b for block in other.blocks for part in block.parts for b in part.buffers]
    if found:
        found[data.draw(st.integers(0, len(found) - 1))].base ^= 1
    else:
        other.payload_checksum ^= 1
    seal(other)
    assert read(other.SerializeToString()).content_checksum != before


def test_a_reader_keeps_nothing_of_the_header_before() -> None:
    reader = HeaderReader(FEATURES)
    first = encode_batch(rows_of([*range(5)]), row_count=5, shard=3, index=9)
    assert agrees(reader.read(first.SerializeToString()), first)
    empty = batch_pb2.CompactBatch()
    seal(empty)
    assert agrees(reader.read(empty.SerializeToString()), empty)
    few = batch_pb2.CompactBatch()
    few.blocks.add().parts.add().buffers.add()
    seal(few)
    assert agrees(reader.read(few.SerializeToString()), few)


def test_unusual_but_legal_encodings_mean_what_protobuf_says() -> None:
    def sealed(tail: bytes) -> bytes:
        """A batch with these bytes before it, its checksum right for what they mean."""
        message = encode_batch(rows_of([1, 2]), row_count=2)
        message.header_checksum = 0
        both = batch_pb2.CompactBatch.FromString(tail + message.SerializeToString())
        words = [word & U64 for word in header_words(both)]
        both_sum = xxhash.xxh64_intdigest(struct.pack(f"<{len(words)}Q", *words))
        checksum = batch_pb2.CompactBatch(header_checksum=both_sum).SerializeToString()
        return tail + message.SerializeToString() + checksum

    unpacked = b"\x32\x06\x0a\x04\x08\x05\x08\x07"
    for tail in (
        # Unknown fields of every type, a known one of another type, numbers that are overwritten,
        # a cursor that is merged, features that are not packed, a number in more bytes than needed.
        b"\xa5\x06abcd\xa9\x06abcdefgh\xa0\x06\xff\x01\xa2\x06\x02xy",
        b"\x0d\x01\x00\x00\x00",
        b"\x08\x63\x10\x07\x5a\x03abc",
        b"\x22\x02\x10\x05",
        unpacked,
        b"\x18\x82\x80\x80\x00",
    ):
        data = sealed(tail)
        assert agrees(read(data), batch_pb2.CompactBatch.FromString(data))


GOOD = encode_batch(rows_of([1, 2, 3, 4]), row_count=4, next_cursor=(1, 1 << 40, 3, 1))


@settings(max_examples=1000)
@given(st.data())
def test_damaged_bytes_are_refused_or_mean_the_same(data: st.DataObject) -> None:
    damaged = bytearray(GOOD.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged)) | st.just(len(damaged))) :]
    try:
        header = read(bytes(damaged))
    except CorruptBatchError:
        return
    try:
        message = batch_pb2.CompactBatch.FromString(bytes(damaged))
    except DecodeError:
        # protobuf is stricter about the fields that it does not know.
        message = GOOD
    # Only the payload is not under this checksum.
    message.payload = bytes(header.payload)
    assert agrees(header, message)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x5a\x05abc",
        b"\x5a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x32\x02\x0a\x05",
        b"\x32\x03\x0a\x01\x0a",
        b"\x22\x01\x08",
        b"\x0b\x0c",
        b"\x07\x00",
        b"\x00\x00",
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptBatchError, match=f"a batch of {len(data)} bytes .*it is no message"):
        read(data)


@pytest.mark.parametrize("what", ["blocks", "parts", "features", "buffers"])
def test_more_than_a_schema_can_have_is_refused(what: str) -> None:
    message = batch_pb2.CompactBatch()
    block = message.blocks.add()
    part = block.parts.add()
    for _ in range(4 * FEATURES + 1):
        match what:
            case "blocks":
                message.blocks.add()
            case "parts":
                block.parts.add()
            case "features":
                part.features.append(1)
            case "buffers":
                part.buffers.add()
    seal(message)
    with pytest.raises(CorruptBatchError, match="beyond its schema"):
        read(message.SerializeToString())
