"""The message of a batch: its fields, its padding, and the limit of its size."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.encode.compress import Compression
from preprocessor_server.encode.parts import _lengths
from preprocessor_server.errors import DeploymentError
from preprocessor_server.frame import Flat, Frame, Jagged, Runs
from tests.fakes.encoder import Rows, encode_batch
from tests.fakes.features import DENSE, IDS, LABELS, SCHEMA, whole
from tests.fakes.wire import decompressed

AFTER = batch_pb2.Cursor(split=1, parquet_row=2**40, offset=3, batch=8)
BEFORE = batch_pb2.Cursor(split=1, parquet_row=2, batch=7)
ROOM = 1 << 24


def encode(*pieces: Piece, codec: batch_pb2.Codec) -> bytes:
    return BatchEncoder(SCHEMA, codec, Compression(1), ROOM).encode(pieces, 5, BEFORE, AFTER)


def example(count: int = 4096) -> Frame:
    """Rows, runs of 16, and values of every layout."""
    rng = np.random.default_rng(1)
    runs = count // 16
    lists = Jagged(np.arange(runs + 1) * 5, Flat(rng.choice(IDS["many"], runs * 5)))
    return Frame(
        count,
        {
            **{name: Flat(rng.integers(0, 50, count).astype(np.float32)) for name in DENSE},
            **{name: Flat(8 * rng.random(count, np.float32)) for name in LABELS},
            "s0": Flat(rng.choice(IDS["few"], count)),
            "s1": Flat(rng.integers(-(2**63), 2**63 - 1, count)),
            "s2": Flat(np.zeros(count, np.int32)),
        },
        (
            Runs(
                np.repeat(np.arange(runs, dtype=np.int32), 16),
                {"s3": lists, "s4": Flat(rng.integers(0, 99, runs))},
            ),
        ),
    )


def test_both_codecs_hold_the_same_arena() -> None:
    messages = {
        codec: pb.StreamBatchesResponse.FromString(encode(whole(example()), codec=codec)).batch
        for codec in (batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD)
    }
    plain, compressed = messages.values()
    arena = decompressed(compressed.payload)
    assert arena == plain.payload
    assert len(compressed.payload) < len(arena) == plain.uncompressed_size_bytes
    assert zstandard.frame_content_size(compressed.payload) == len(arena)
    assert plain.payload_checksum == compressed.payload_checksum
    assert plain.blocks == compressed.blocks
    layouts = {b.layout for block in plain.blocks for part in block.parts for b in part.buffers}
    assert layouts == {
        batch_pb2.BUFFER_LAYOUT_BYTE_PLANES,
        batch_pb2.BUFFER_LAYOUT_CONSTANT,
        batch_pb2.BUFFER_LAYOUT_DICTIONARY,
        batch_pb2.BUFFER_LAYOUT_TOP_DICTIONARY,
    }
    assert [part.run_count for part in plain.blocks[1].parts] == [0, 1, 256]


def test_frames_of_several_levels_hold_the_same_arena() -> None:
    rng = np.random.default_rng(1)
    ids = {f"s{i}": Flat(1000 * rng.geometric(0.01, 30_000)) for i in range(5)}
    numbers = {name: Flat(rng.random(30_000, np.float32)) for name in (*DENSE, *LABELS)}
    piece = whole(Frame(30_000, ids | numbers))
    codecs = (batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD)
    plain, compressed = (
        pb.StreamBatchesResponse.FromString(
            BatchEncoder(SCHEMA, codec, Compression("auto"), ROOM).encode([piece], 5, BEFORE, AFTER)
        ).batch
        for codec in codecs
    )
    assert 0 < zstandard.frame_content_size(compressed.payload) < len(plain.payload)
    assert decompressed(compressed.payload) == plain.payload


@pytest.mark.parametrize("codec", [batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD])
def test_padding_is_zero_in_an_arena_that_is_used_again(codec: batch_pb2.Codec) -> None:
    # What a larger batch of the same thread leaves behind, no byte of it zero.
    noise = Frame(4096, {"d0": Flat(np.full(4096, 0x01010101, np.uint32).view(np.float32))})
    schema = batch_pb2.BatchSchema(encoding_version=1)
    schema.blocks.add(kind=batch_pb2.BLOCK_KIND_DENSE, features=["d0"])
    BatchEncoder(schema, codec, Compression(1), ROOM).encode([whole(noise)], 0, BEFORE, AFTER)
    for count in (1, 3, 17, 100):
        message = encode(Piece(example(), np.arange(count)), codec=codec)
        batch = pb.StreamBatchesResponse.FromString(message).batch
        arena = batch.payload
        if codec == batch_pb2.CODEC_ZSTD:
            arena = decompressed(arena)
        end = 0
        for buffer in (b for block in batch.blocks for part in block.parts for b in part.buffers):
            assert buffer.offset_bytes % 64 == 0
            assert not any(arena[end : buffer.offset_bytes])
            end = buffer.offset_bytes + buffer.size_bytes
        assert not any(arena[end:])
        assert len(arena) == batch.uncompressed_size_bytes == -(-end // 64) * 64


@pytest.mark.parametrize("codec", [batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD])
def test_an_arena_may_be_empty(codec: batch_pb2.Codec) -> None:
    schema = batch_pb2.BatchSchema(encoding_version=1)
    int64 = dataset_pb2.SCALAR_TYPE_INT64
    schema.blocks.add(kind=batch_pb2.BLOCK_KIND_SPARSE, dtype=int64, features=["x", "y"])
    frame = Frame(3, {"x": Flat(np.full(3, 9)), "y": Flat(np.full(3, -(2**63)))})
    message = BatchEncoder(schema, codec, Compression(1), ROOM).encode(
        [whole(frame)], 0, BEFORE, AFTER
    )
    batch = pb.StreamBatchesResponse.FromString(message).batch
    expected = encode_batch(
        Rows({}, {"x": [[9]] * 3, "y": [[-(2**63)]] * 3}, {}),
        index=7,
        row_count=3,
        cursor=(1, 2, 0, 7),
        next_cursor=(1, 2**40, 3, 8),
        codec=codec,
    )
    assert batch.uncompressed_size_bytes == 0
    assert batch.blocks == expected.blocks
    assert batch.header_checksum == expected.header_checksum
    if codec == batch_pb2.CODEC_ZSTD:
        assert decompressed(batch.payload) == b""
        assert zstandard.frame_content_size(batch.payload) == 0
    else:
        assert batch.payload == b""


def wide_frame(features: int, parts: int, count: int) -> tuple[batch_pb2.BatchSchema, Frame]:
    """Features of ids that nothing compresses, two to a part, the runs of each part its own."""
    rng = np.random.default_rng(3)
    runs = []
    for part in range(parts):
        starts = np.zeros(count, np.int32)
        starts[np.sort(rng.choice(np.arange(1, count), count // 3, replace=False))] = 1
        size = count // 3 + 1
        offsets = np.append(0, np.cumsum(rng.integers(0, 3, size)))
        names = range(part, features, parts)
        held = {
            f"s{f}": Jagged(offsets, Flat(rng.integers(-(2**63), 2**63 - 1, offsets[-1])))
            for f in names
        }
        runs.append(Runs(np.cumsum(starts, dtype=np.int32), held))
    schema = batch_pb2.BatchSchema(encoding_version=1)
    schema.blocks.add(kind=batch_pb2.BLOCK_KIND_SPARSE, features=[f"s{f}" for f in range(features)])
    return schema, Frame(count, {}, tuple(runs))


@pytest.mark.parametrize("codec", [batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD])
@pytest.mark.parametrize("parts", [1, 150, 300])
def test_a_message_never_outgrows_its_limit(codec: batch_pb2.Codec, parts: int) -> None:
    schema, frame = wide_frame(300, parts, 60)

    def message(limit: int) -> bytes:
        return BatchEncoder(schema, codec, Compression(1), limit).encode(
            [whole(frame)], 2**31, BEFORE, AFTER
        )

    made = message(ROOM)
    batch = pb.StreamBatchesResponse.FromString(made).batch
    assert len(batch.blocks[0].parts) == parts
    # Where the limit lies below the message, it is refused; it is let through near the limit.
    for limit in (len(made) // 2, len(made) - 1):
        with pytest.raises(DeploymentError) as caught:
            message(limit)
        assert caught.value.reason == "BATCH_TOO_LARGE"
        assert caught.value.field == "identity.batch_size"
        assert "a batch of 60 rows" in caught.value.message
        assert f"({limit:,}, --max-message-bytes)" in caught.value.message
    size = batch.uncompressed_size_bytes + len(made) - len(batch.payload)
    assert message(size + size // 100 + 256) == made


def test_rows_that_the_frame_does_not_have_are_refused() -> None:
    for rows in ([0, 1, 100], [98, 99, 100], [-1], [-1, 0, 1]):
        with pytest.raises(IndexError, match="a column of 100 rows"):
            encode(
                Piece(example().take(np.arange(100)), np.array(rows)), codec=batch_pb2.CODEC_NONE
            )


def test_a_list_too_long_for_its_length_is_refused() -> None:
    with pytest.raises(OverflowError, match="cut it with Tail"):
        _lengths(np.array([[0, 3, 2**31 + 3], [0, 1, 2]]))
    assert _lengths(np.array([[0, 2**31 - 1, 2**32 - 2]])).tolist() == [[2**31 - 1] * 2]


def test_a_run_of_the_frame_that_no_change_starts_at() -> None:
    # Nine runs of which the second repeats the first, beside a feature that changes nine times
    # elsewhere: both are sent in the same nine runs, which are not the frame's.
    starts = [0, 5, *range(10, 80, 10)]
    own = np.repeat(np.arange(9, dtype=np.int32), np.diff([*starts, 80]))
    others = np.repeat(np.arange(9, dtype=np.int32), [10, 10, 10, 10, 10, 10, 10, 5, 5])
    frame = Frame(
        80,
        {
            **{name: Flat(np.zeros(80, np.float32)) for name in (*DENSE, *LABELS)},
            **{name: Flat(np.arange(80)) for name in ("s2", "s3", "s4")},
        },
        (
            Runs(own, {"s0": Flat(np.array([1, 1, 2, 3, 4, 5, 6, 7, 8]))}),
            Runs(others, {"s1": Flat(np.arange(9) + 100)}),
        ),
    )
    found, expected = (
        pb.StreamBatchesResponse.FromString(encode(whole(each), codec=batch_pb2.CODEC_NONE)).batch
        for each in (frame, frame.expanded())
    )
    assert [part.run_count for part in expected.blocks[1].parts] == [0, 9]
    assert found == expected
