"""The decoder of docs/compact_batch.md (tests/fakes/page.py) against golden files and a server.

The golden files pin the wire: a change to what a release holds is a new encoding version, and more
may be put behind it. To write them: python tests/contract/test_compact_batch.py
"""

import hashlib
import itertools
import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zstandard

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.batch import BatchEncoder, Piece
from preprocessor_server.encode.compress import Compression
from preprocessor_server.frame import Flat, Frame, Jagged
from preprocessor_server.server import Server
from tests.fakes.encoder import Rows, encode_batch, seal
from tests.fakes.page import (
    BYTE_PLANES,
    CONSTANT,
    DENSE,
    DICTIONARY,
    FLOAT32,
    INT64,
    LABEL,
    SPARSE,
    TOP_DICTIONARY,
    decode,
    xxh64,
)
from tests.fakes.parquet import write_dataset
from tests.fakes.process import ROOT
from tests.fakes.wire import receive, shard_requests, spec
from trainer_client import Batch
from trainer_client.decode import Decoder

GOLDEN = ROOT / "tests" / "golden" / "stream_v1.bin"
# The last message of it, whose payload is several ZSTD frames.
GOLDEN_FRAMES = GOLDEN.with_name("batch_v1_frames.bin")


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
    assert xxh64(words) == end.checksum


# Rows with every shape: NaN, infinities, -0.0, empty lists, the ends of int64, a dictionary,
# features that repeat together and one that never changes.
EDGES = [0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e-40, 3e38, -7.25]
LISTS = [[], [1], [2**63 - 1, -(2**63)], [], [5, 6, 7], [0], [], [8] * 70, [-1]]
COUNT = 24
FRAME_BYTES = 1000
GOLDEN_DENSE = {
    "price": [EDGES[i % 9] for i in range(COUNT)],
    "age": [1 + i / 32 for i in range(COUNT)],
}
GOLDEN_SPARSE = {
    "seq": [LISTS[i % 9] for i in range(COUNT)],
    "id": [[i * 11] for i in range(COUNT)],
    "user": [[i // 4, 1 << 33] for i in range(COUNT)],
    "kind": [[1000 * (i % 3), -5, 1000] for i in range(COUNT)],
    "history": [list(range(i // 4 % 3)) for i in range(COUNT)],
    "country": [[49] for _ in range(COUNT)],
}
GOLDEN_LABELS = {"label": [i % 2.0 for i in range(COUNT)]}
# Two batches of rows out of order, each of two pieces, and one of enough numbers for dictionaries:
# of the labels, and of the highest bytes of the dense features.
ORDERS = (
    [[20, 21, 22, 23, 0], [*range(1, 12)]],
    [[12, 13], [*range(14, 20)]],
    [[*range(COUNT)]] * 8,
)


def golden_frame() -> Frame:
    columns: dict[str, Flat | Jagged] = {}
    for name, rows in (GOLDEN_DENSE | GOLDEN_LABELS).items():
        columns[name] = Flat(np.array(rows, np.float32))
    for name, column in GOLDEN_SPARSE.items():
        values = np.array([value for row in column for value in row], np.int64)
        columns[name] = Jagged(np.cumsum([0, *map(len, column)]), Flat(values))
    return Frame(COUNT, columns)


def golden_schema() -> batch_pb2.BatchSchema:
    """Two dense features, six sparse ones, a label."""
    schema = batch_pb2.BatchSchema(encoding_version=1)
    schema.blocks.add(name="dense", kind=DENSE, dtype=FLOAT32, features=GOLDEN_DENSE)
    schema.blocks.add(name="sparse", kind=SPARSE, dtype=INT64, features=GOLDEN_SPARSE)
    schema.blocks.add(name="labels", kind=LABEL, dtype=FLOAT32, features=GOLDEN_LABELS)
    return schema


def golden_cursors() -> list[tuple[int, int, int, int]]:
    return [(0, 0, 0, 0), (0, 16, 0, 1), (0, 24, 0, 2), (0, 216, 0, 3)]


def encode_golden(codec: batch_pb2.Codec) -> list[bytes]:
    """The messages of a stream of three batches, by the server's encoder."""
    encoder = BatchEncoder(golden_schema(), codec, Compression(1), 1 << 20)
    messages = [pb.StreamBatchesResponse(schema=golden_schema()).SerializeToString()]
    cursors = [
        batch_pb2.Cursor(split=split, parquet_row=row, offset=offset, batch=batch)
        for split, row, offset, batch in golden_cursors()
    ]
    for i, order in enumerate(ORDERS):
        pieces = [Piece(golden_frame(), np.array(rows)) for rows in order]
        messages.append(bytes(encoder.encode(pieces, 3, cursors[i], cursors[i + 1])))
    return messages


def reference_batches() -> Iterator[batch_pb2.CompactBatch]:
    """The same batches, by the reference encoder."""
    cursors = golden_cursors()
    for i, order in enumerate(ORDERS):
        rows = [row for piece in order for row in piece]
        yield encode_batch(
            Rows(
                {name: [column[row] for row in rows] for name, column in GOLDEN_DENSE.items()},
                {name: [column[row] for row in rows] for name, column in GOLDEN_SPARSE.items()},
                {name: [column[row] for row in rows] for name, column in GOLDEN_LABELS.items()},
            ),
            shard=3,
            index=i,
            row_count=len(rows),
            cursor=cursors[i],
            next_cursor=cursors[i + 1],
            codec=batch_pb2.CODEC_NONE,
        )


@pytest.mark.parametrize("codec", [batch_pb2.CODEC_NONE, batch_pb2.CODEC_ZSTD])
def test_the_encoder_gives_the_golden_arenas(codec: batch_pb2.Codec) -> None:
    golden = read_golden()
    made = [pb.StreamBatchesResponse.FromString(m) for m in encode_golden(codec)]
    assert made[0].schema == golden[0].schema
    for new, old in zip(made[1:], golden[1:], strict=True):
        decode(golden[0].schema, new.batch)
        assert new.batch.payload_checksum == old.batch.payload_checksum
        assert new.batch.blocks == old.batch.blocks
        assert new.batch.next_cursor == old.batch.next_cursor
        if codec == batch_pb2.CODEC_NONE:
            assert new == old


def test_the_reference_encoder_gives_the_golden_batches() -> None:
    golden = [message.batch for message in read_golden()[1:]]
    assert [*reference_batches()] == golden


def test_the_golden_batches_hold_their_rows_in_every_layout() -> None:
    schema, *batches = read_golden()
    for order, message in zip(ORDERS, batches, strict=True):
        found = decode(schema.schema, message.batch)
        for name, column in (GOLDEN_DENSE | GOLDEN_SPARSE | GOLDEN_LABELS).items():
            expected = [column[row] for piece in order for row in piece]
            if name in GOLDEN_SPARSE:
                assert found[name] == expected
            else:
                packed = struct.pack(f"<{len(expected)}f", *expected)
                assert struct.pack(f"<{len(expected)}f", *found[name]) == packed
    buffers = [
        b for m in batches for block in m.batch.blocks for part in block.parts for b in part.buffers
    ]
    assert {b.layout for b in buffers} == {BYTE_PLANES, CONSTANT, DICTIONARY, TOP_DICTIONARY}
    assert {b.width_bits % 8 for b in buffers} == {0, 1, 2, 4}
    runs = [[part.run_count for part in m.batch.blocks[1].parts] for m in batches]
    assert runs == [[0, 4, 1], [0, 2, 1], [0, 48, 1]]


def test_a_golden_payload_of_several_frames_is_the_same_batch() -> None:
    schema, *_, plain = read_golden()
    (framed,) = read_golden(GOLDEN_FRAMES)
    assert zstandard.get_frame_parameters(framed.batch.payload).content_size == FRAME_BYTES
    assert framed.batch.uncompressed_size_bytes == len(plain.batch.payload) > 3 * FRAME_BYTES
    # As text: no NaN equals another.
    by_page = [repr(decode(schema.schema, each.batch)) for each in (framed, plain)]
    assert by_page[0] == by_page[1]
    decoder = Decoder(schema.schema)
    ours, others = (decoder(m.batch.SerializeToString()) for m in (framed, plain))
    assert words_of(ours) == words_of(others)


def words_of(batch: Batch) -> list[list[int]]:
    """All that a batch holds, numbers by their bits."""
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    numbers = [each.contiguous().view(torch.int32) for each in (batch.dense, batch.labels)]
    return [each.tolist() for each in (*numbers, batch.sparse.values, batch.sparse.lengths)]


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_FRAMES])
def test_the_golden_files_are_what_was_released(golden: Path) -> None:
    assert hashlib.sha256(golden.read_bytes()).hexdigest() == (
        (golden.with_suffix(".sha256")).read_text().strip()
    )


def in_frames(message: pb.StreamBatchesResponse) -> pb.StreamBatchesResponse:
    """A message with another codec, and a frame for each FRAME_BYTES, at levels in turn."""
    arena, codec = message.batch.payload, batch_pb2.CODEC_ZSTD
    frames = [
        zstandard.ZstdCompressor(level=level).compress(arena[start : start + FRAME_BYTES])
        for start, level in zip(range(0, len(arena), FRAME_BYTES), itertools.cycle([-1, 1]))
    ]
    framed = pb.StreamBatchesResponse(batch=message.batch)
    framed.batch.codec, framed.batch.payload = codec, b"".join(frames)
    seal(framed.batch)
    return framed


def read_golden(golden: Path = GOLDEN) -> list[pb.StreamBatchesResponse]:
    """The messages of a golden file: each behind its size, 4 little-endian bytes."""
    content, messages = golden.read_bytes(), []
    while content:
        (size,) = struct.unpack("<I", content[:4])
        messages.append(pb.StreamBatchesResponse.FromString(content[4 : 4 + size]))
        content = content[4 + size :]
    return messages


def write_golden(golden: Path, messages: Sequence[bytes]) -> None:
    golden.write_bytes(b"".join(struct.pack("<I", len(m)) + m for m in messages))
    checksum = hashlib.sha256(golden.read_bytes()).hexdigest()
    golden.with_suffix(".sha256").write_text(checksum + "\n")
    sys.stdout.write(f"wrote {golden}\n")


if __name__ == "__main__":
    write_golden(GOLDEN, encode_golden(batch_pb2.CODEC_NONE))
    write_golden(GOLDEN_FRAMES, [in_frames(read_golden()[-1]).SerializeToString()])
