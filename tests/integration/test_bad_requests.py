"""What a server answers to bad requests: the status, the reason, and a way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes.refusal import Refusal, Stub, check, describe
from tests.fakes.wire import receive, shard_requests, spec

FEATURES: list[tuple[dict[str, object], str, str]] = [
    ({"dense": {"columns": ["nothing_*"]}}, "FEATURE_UNMATCHED", "nothing_*"),
    ({"dense": {"columns": ["pric"]}}, "FEATURE_UNMATCHED", "price"),
    ({"dense": {"columns": ["city"]}}, "TYPE_UNFIT", "city"),
    ({"dense": {"columns": ["seq"]}}, "TYPE_UNFIT", "seq"),
    ({"sparse": {"columns": ["city"]}}, "TYPE_UNFIT", "HashBucket"),
    ({"sparse": {"columns": ["price"]}}, "TYPE_UNFIT", "price"),
    ({"sparse": {"columns": ["id"], "ops": [{"tail": {"count": 3}}]}}, "TYPE_UNFIT", "Tail"),
    ({"sparse": {"columns": ["tags"], "ops": [{"log1p": {}}]}}, "TYPE_UNFIT", "Log1p"),
    ({"sparse": {"columns": ["seq"], "ops": [{"tail": {}}]}}, "DATASET_INVALID", "count"),
    ({"sparse": {"columns": ["seq"], "ops": [{}]}}, "DATASET_INVALID", "op"),
    ({"sparse": {"columns": []}}, "DATASET_INVALID", "column"),
]


@pytest.mark.parametrize(("feature", "reason", "word"), FEATURES)
def test_feature_that_does_not_fit(
    stub: Stub, feature: dict[str, object], reason: str, word: str
) -> None:
    refusal = describe(stub, spec(features=[feature]))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, reason, word)
    assert refusal.fields[0].startswith("dataset.features[0]")


@pytest.mark.parametrize(
    "where",
    [
        "label =",
        "nothing = 1",
        "price",
        "label = 1; SELECT 1",
        "sum(price) > 1",
        "price > (SELECT 1)",
        "city = 1 OR read_text('/etc/passwd') = ''",
    ],
)
def test_filter_that_is_none(stub: Stub, where: str) -> None:
    refusal = describe(stub, spec(where))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert refusal.fields == ["dataset.where"]


def test_group_by_column_that_is_not_there(stub: Stub) -> None:
    source = {"parquet": {"paths": ["rows"], "group_by": ["requests"]}}
    check(
        describe(stub, spec(source=source)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "COLUMN_MISSING",
        "'requests'",
    )


def test_group_by_column_that_cannot_be_compared(stub: Stub) -> None:
    source = {"parquet": {"paths": ["rows"], "group_by": ["seq"]}}
    refusal = describe(stub, spec(source=source))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "TYPE_UNFIT", "'seq'", "list<element: int64>")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"page_size": 100_001}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"page_token": "99"}, "page_token"),
        ({"shards": [5]}, "shards"),
    ],
)
def test_plan_that_cannot_be_paged(stub: Stub, changes: dict[str, Any], field: str) -> None:
    identity = pb.BatchIdentity(batch_size=100, num_shards=5)
    request = pb.PlanEpochRequest(dataset=spec(), identity=identity, **changes)
    refusal = Refusal(lambda: stub.PlanEpoch(request))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert refusal.fields == [field]


def test_dataset_with_a_field_from_the_future(stub: Stub) -> None:
    dataset = spec()
    dataset.MergeFromString(b"\xfa\x3e\x03abc")  # field 1007, length-delimited
    check(describe(stub, dataset), grpc.StatusCode.FAILED_PRECONDITION, "DATASET_TOO_NEW", "1007")


@pytest.mark.parametrize("batch_size", [0, (1 << 20) + 1, 2**32 - 1])
def test_batch_size_out_of_bounds(stub: Stub, batch_size: int) -> None:
    identity = pb.BatchIdentity(batch_size=batch_size)
    for refusal in (
        Refusal(
            lambda: stub.PlanEpoch(
                pb.PlanEpochRequest(dataset=spec(), identity=identity), timeout=60
            )
        ),
        Refusal(lambda: receive(stub, pb.StreamBatchesRequest(dataset=spec(), identity=identity))),
    ):
        check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID", "batch_size")
        assert refusal.fields == ["identity.batch_size"]


def test_negative_batch_size_cannot_be_written() -> None:
    with pytest.raises(json_format.ParseError, match=r"batch_?[sS]ize|out of range"):
        json_format.ParseDict({"batch_size": -1}, pb.BatchIdentity())


@pytest.mark.parametrize("row_group_rows", [200_000, 10_000])
def test_batch_that_fits_no_message(
    root: Path,
    start_server: Callable[..., Server],
    connect: Callable[[str], Stub],
    row_group_rows: int,
) -> None:
    (root / "long").mkdir()
    pq.write_table(
        # Ids that no layout makes smaller.
        pa.table({"id": np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 200_000)}),
        root / "long" / "ids.parquet",
        row_group_size=row_group_rows,
    )
    dataset = spec(
        source={"parquet": {"paths": ["long"]}}, features=[{"sparse": {"columns": ["id"]}}]
    )
    stub = connect(start_server(data_root=(root,), max_message_bytes=1 << 20).address)
    identity = pb.BatchIdentity(batch_size=200_000, num_shards=1)
    request = pb.StreamBatchesRequest(dataset=dataset, identity=identity)
    refusal = Refusal(lambda: receive(stub, request))
    check(refusal, grpc.StatusCode.FAILED_PRECONDITION, "BATCH_TOO_LARGE", "batch_size")


@pytest.mark.parametrize(
    "cursor",
    [
        batch_pb2.Cursor(split=99),
        batch_pb2.Cursor(split=0, parquet_row=100_000),
        batch_pb2.Cursor(split=0, parquet_row=1, offset=1),
        batch_pb2.Cursor(split=1),
    ],
)
def test_cursor_that_fits_no_split(stub: Stub, cursor: batch_pb2.Cursor) -> None:
    identity = pb.BatchIdentity(batch_size=64, num_shards=1, shuffle=True, shuffle_window_splits=2)
    (request,) = shard_requests(stub, spec(), identity)
    request.cursor.CopyFrom(cursor)
    refusal = Refusal(lambda: receive(stub, request))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID", "fits no split")
    assert refusal.fields == ["cursor"]


def test_splits_that_are_not_in_the_snapshot(stub: Stub) -> None:
    (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=64, num_shards=1))
    request.splits[0].row_count = 10**9
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_INVALID",
        "splits[0]",
    )


def test_shard_that_is_not_there(stub: Stub) -> None:
    identity = pb.BatchIdentity(batch_size=64, num_shards=2)
    request = pb.StreamBatchesRequest(dataset=spec(), identity=identity, shard=2)
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_INVALID",
        "shards 0 to 1",
    )


def test_codec_that_the_server_does_not_have(stub: Stub) -> None:
    (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=64, num_shards=1))
    request.accepted_codecs.append(77)  # type: ignore[arg-type]
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CODEC_UNSUPPORTED",
        "CODEC_ZSTD",
    )


def test_encoding_version_that_the_server_does_not_have(stub: Stub) -> None:
    identity = pb.BatchIdentity(batch_size=64, encoding_version=2)
    check(
        Refusal(lambda: stub.PlanEpoch(pb.PlanEpochRequest(dataset=spec(), identity=identity))),
        grpc.StatusCode.FAILED_PRECONDITION,
        "ENCODING_UNSUPPORTED",
    )


def test_more_streams_than_slots(
    root: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]
) -> None:
    stub = connect(start_server(data_root=(root,), max_streams=1).address)
    (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=8, num_shards=1))
    first = stub.StreamBatches(request)
    next(first)
    refusal = Refusal(lambda: receive(stub, request))
    check(refusal, grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY", "--max-streams")
    assert refusal.retry
    first.cancel()
