"""A decoder written from docs/compact_batch.md alone, against golden files and a real server.

The golden files pin the wire: a change to them is a new encoding version. To write them for a new
version: python tests/contract/test_compact_batch.py
"""

import hashlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.frame import Flat, Frame, Jagged
from preprocessor_server.server import Server
from tests.fakes.parquet import write_dataset
from tests.fakes.process import ROOT
from tests.fakes.wire import receive, shard_requests, spec

GOLDEN = ROOT / "tests" / "golden" / "stream_v1.bin"
SIZES = {1: ("i", 4), 2: ("q", 8), 3: ("f", 4), 4: ("d", 8)}

Decoded = dict[str, list[float] | list[list[int]]]


def decode(schema: batch_pb2.BatchSchema, batch: batch_pb2.CompactBatch) -> Decoded:
    """Every feature's values by name: numbers, or lists of ids."""
    words = [batch.shard, batch.index, batch.row_count]
    for cursor in (batch.cursor, batch.next_cursor):
        words += [cursor.split, cursor.parquet_row, cursor.offset, cursor.batch]
    words += [batch.codec, batch.uncompressed_size_bytes, batch.payload_checksum]
    words.append(len(batch.blocks))
    for block in batch.blocks:
        words.append(len(block.buffers))
        for b in block.buffers:
            words += [b.role, b.layout, b.type, b.offset_bytes, b.size_bytes, b.element_count]
    packed = b"".join(struct.pack("<Q", word) for word in words)
    assert xxhash.xxh64(packed, seed=0).intdigest() == batch.header_checksum
    arena = batch.payload
    if batch.codec == 2:
        arena = zstandard.ZstdDecompressor().decompress(arena)
    assert len(arena) == batch.uncompressed_size_bytes
    assert len(arena) % 64 == 0
    assert xxhash.xxh64(arena, seed=0).intdigest() == batch.payload_checksum
    end = 0
    found: Decoded = {}
    for declared, block in zip(schema.blocks, batch.blocks, strict=True):
        columns = []
        for b in block.buffers:
            letter, size = SIZES[b.type]
            assert b.offset_bytes == -(-end // 64) * 64
            assert set(arena[end : b.offset_bytes]) <= {0}
            assert b.size_bytes == b.element_count * size
            end = b.offset_bytes + b.size_bytes
            columns.append(
                struct.unpack(f"<{b.element_count}{letter}", arena[b.offset_bytes : end])
            )
        rows = batch.row_count
        if declared.kind == 2:
            lengths, values = columns
            assert sum(lengths) == len(values)
            start = 0
            for f, name in enumerate(declared.features):
                lists = []
                for length in lengths[f * rows : (f + 1) * rows]:
                    lists.append([int(v) for v in values[start : start + length]])
                    start += length
                found[name] = lists
        else:
            (values,) = columns
            for f, name in enumerate(declared.features):
                found[name] = list(values[f * rows : (f + 1) * rows])
    assert set(arena[end:]) <= {0}
    return found


def test_the_page_decodes_what_a_server_streams(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., object]
) -> None:
    write_dataset(tmp_path / "rows")
    stub = connect(start_server(data_root=(tmp_path,)).address)
    dataset = spec(
        features=[
            {"sparse": {"columns": ["id", "seq"]}},
            {"label": {"columns": ["label", "price"]}},
        ]
    )
    (request,) = shard_requests(stub, dataset, pb.BatchIdentity(batch_size=999, num_shards=1))  # type: ignore[arg-type]
    received = receive(stub, request)  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "rows")
    start = 0
    for batch in received.batches:
        found = decode(received.schema, batch)
        part = table.slice(start, batch.row_count)
        assert found["id"] == [[value] for value in part["id"].to_pylist()]
        assert found["seq"] == [value or [] for value in part["seq"].to_pylist()]
        assert found["label"] == part["label"].to_pylist()
        assert found["price"] == part["price"].to_pylist()
        start += batch.row_count
    assert start == table.num_rows
    end = received.end
    assert end is not None
    words = [
        end.reason,
        end.cursor.split,
        end.cursor.parquet_row,
        end.cursor.offset,
        end.cursor.batch,
    ]
    assert xxhash.xxh64(struct.pack("<5Q", *words), seed=0).intdigest() == end.checksum


def golden_frame() -> Frame:
    """Nine rows with every shape: NaN, infinities, -0.0, empty lists, the ends of int64."""
    import numpy as np

    numbers = np.array([0.0, -0.0, 1.5, np.nan, np.inf, -np.inf, 1e-40, 3e38, -7.25], np.float32)
    lists = [[], [1], [2**63 - 1, -(2**63)], [], [5, 6, 7], [0], [], [8] * 70, [-1]]
    offsets = np.cumsum([0, *map(len, lists)])
    values = np.array([value for part in lists for value in part], np.int64)
    ones = Jagged(np.arange(10), Flat(np.arange(9) * 11))
    return Frame(
        9,
        {
            "price": Flat(numbers),
            "age": Flat(numbers[::-1].copy()),
            "seq": Jagged(offsets, Flat(values)),
            "id": ones,
            "label": Flat(np.arange(9, dtype=np.float32) % 2),
        },
    )


def golden_schema() -> batch_pb2.BatchSchema:
    """Two dense features, two sparse ones, a label."""
    schema = batch_pb2.BatchSchema(encoding_version=1)
    schema.blocks.add(name="dense", kind=1, dtype=3, features=["price", "age"])
    schema.blocks.add(name="sparse", kind=2, dtype=2, features=["seq", "id"])
    schema.blocks.add(name="labels", kind=3, dtype=3, features=["label"])
    return schema


def encode_golden(codec: batch_pb2.Codec) -> list[bytes]:
    """The messages of a stream of two batches of the golden frame, out of order."""
    import numpy as np

    encoder = BatchEncoder(golden_schema(), codec, 1, 1 << 20)
    orders = ([8, 0, 7, 2, 3], [4, 5, 6, 1])
    messages = [pb.StreamBatchesResponse(schema=golden_schema())]
    position = batch_pb2.Cursor()
    for i, order in enumerate(orders):
        after = batch_pb2.Cursor(
            split=0, parquet_row=position.parquet_row + len(order), batch=i + 1
        )
        pieces = [
            Piece(golden_frame(), np.array(order[:2])),
            Piece(golden_frame(), np.array(order[2:])),
        ]
        messages.append(pb.StreamBatchesResponse(batch=encoder.encode(pieces, 3, position, after)))
        position = after
    return [message.SerializeToString(deterministic=True) for message in messages]


@pytest.mark.parametrize("codec", [batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD])
def test_the_encoder_gives_the_golden_arenas(codec: batch_pb2.Codec) -> None:
    golden, made = (
        read_golden(),
        [pb.StreamBatchesResponse.FromString(m) for m in encode_golden(codec)],
    )
    assert made[0].schema == golden[0].schema
    for new, old in zip(made[1:], golden[1:], strict=True):
        assert (
            decode(golden[0].schema, new.batch).keys() == decode(golden[0].schema, old.batch).keys()
        )
        assert new.batch.payload_checksum == old.batch.payload_checksum
        assert new.batch.blocks == old.batch.blocks
        assert new.batch.next_cursor == old.batch.next_cursor
        if codec == batch_pb2.CODEC_NONE:
            assert new.SerializeToString(deterministic=True) == old.SerializeToString(
                deterministic=True
            )


def test_the_golden_file_is_what_was_released() -> None:
    assert hashlib.sha256(GOLDEN.read_bytes()).hexdigest() == (
        (GOLDEN.with_suffix(".sha256")).read_text().strip()
    )


def read_golden() -> list[pb.StreamBatchesResponse]:
    """The messages of the golden file: each behind its size, 4 little-endian bytes."""
    content, messages = GOLDEN.read_bytes(), []
    while content:
        (size,) = struct.unpack("<I", content[:4])
        messages.append(pb.StreamBatchesResponse.FromString(content[4 : 4 + size]))
        content = content[4 + size :]
    return messages


if __name__ == "__main__":
    GOLDEN.write_bytes(
        b"".join(struct.pack("<I", len(m)) + m for m in encode_golden(batch_pb2.CODEC_NONE))
    )
    GOLDEN.with_suffix(".sha256").write_text(hashlib.sha256(GOLDEN.read_bytes()).hexdigest() + "\n")
    sys.stdout.write(f"wrote {GOLDEN}\n")
