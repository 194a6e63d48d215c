"""What a server answers to bad input: the status, the reason, and a message with a way out."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.server import Server
from tests.fakes.parquet import make_table, write_dataset
from tests.fakes.wire import receive, shard_requests, spec

Stub = pb_grpc.PreprocessorServiceStub
Call = Callable[[], object]


class Refusal:
    """A failed call: its status, message and details."""

    def __init__(self, call: Call) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert isinstance(caught.value, grpc.Call)
        self.code: grpc.StatusCode = caught.value.code()
        self.message: str = caught.value.details() or ""
        status = rpc_status.from_call(caught.value)
        assert status is not None, f"no details: {self.code} {self.message}"
        info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        self.retry: bool = False
        for detail in status.details:
            detail.Unpack(info) or detail.Unpack(violations)
            self.retry |= detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        assert info.domain == "headrace"
        self.reason: str = info.reason
        self.fields: list[str] = [v.field for v in violations.field_violations]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data" / "rows")
    return tmp_path / "data"


@pytest.fixture
def stub(root: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]) -> Stub:
    return connect(start_server(data_root=(root,)).address)


def named(*paths: str) -> dataset_pb2.DatasetSpec:
    return spec(source={"parquet": {"paths": list(paths)}})


def describe(stub: Stub, dataset: dataset_pb2.DatasetSpec) -> Refusal:
    return Refusal(
        lambda: stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset), timeout=60)
    )


def check(refusal: Refusal, code: grpc.StatusCode, reason: str, *words: str) -> None:
    assert (refusal.code, refusal.reason) == (code, reason), refusal.message
    for word in words:
        assert word in refusal.message, refusal.message


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["absent"], ["absent", "no such file"]),
        (["rows/none-*.parquet"], ["rows/none-*.parquet", "matches no file"]),
        (["rows/part-0.parquet", "absent.parquet"], ["absent.parquet"]),
    ],
)
def test_path_that_names_nothing(stub: Stub, paths: list[str], words: list[str]) -> None:
    refusal = describe(stub, named(*paths))
    check(refusal, grpc.StatusCode.NOT_FOUND, "PATH_NOT_FOUND", *words)
    assert refusal.fields == [f"dataset.source.parquet.paths[{len(paths) - 1}]"]


def test_folder_without_parquet(stub: Stub, root: Path) -> None:
    (root / "empty").mkdir()
    (root / "empty" / "_SUCCESS").touch()
    check(describe(stub, named("empty")), grpc.StatusCode.NOT_FOUND, "PATH_NOT_FOUND", "empty")


def test_path_outside_the_root(stub: Stub, root: Path) -> None:
    outside = root.parent / "outside"
    write_dataset(outside)
    (root / "link").symlink_to(outside)
    (root / "file.parquet").symlink_to(outside / "part-0.parquet")
    for path in (
        "../outside",
        str(outside),
        "link",
        "file.parquet",
        "rows/../../outside",
        "../out*",
        "/",
        "/etc/*",
    ):
        check(
            describe(stub, named(path)),
            grpc.StatusCode.PERMISSION_DENIED,
            "PATH_OUTSIDE_ROOT",
            "--data-root",
        )


def test_file_named_twice(stub: Stub) -> None:
    refusal = describe(stub, named("rows", "rows/part-1.parquet"))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "DATASET_INVALID", "part-1.parquet", "twice")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but text" * 9])
def test_file_that_is_not_parquet(stub: Stub, root: Path, content: bytes) -> None:
    (root / "rows" / "part-9.parquet").write_bytes(content)
    check(
        describe(stub, named("rows")),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_PARQUET",
        "rows/part-9.parquet",
    )


def test_truncated_file(stub: Stub, root: Path) -> None:
    path = root / "rows" / "part-1.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    check(
        describe(stub, named("rows")),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NOT_PARQUET",
        "part-1.parquet",
        "cut off",
    )


def test_corrupt_page(stub: Stub, root: Path) -> None:
    path = root / "rows" / "part-1.parquet"
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start : start + 400] = os.urandom(400)
    path.write_bytes(content)
    (request,) = shard_requests(stub, named("rows/part-1.parquet"), pb.BatchIdentity(batch_size=64))
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.DATA_LOSS,
        "FILE_CORRUPT",
        "part-1.parquet",
        "row group 0",
    )


def test_flipped_bit_in_a_page_with_a_checksum(stub: Stub, root: Path) -> None:
    path = root / "rows" / "checked.parquet"
    pq.write_table(
        make_table(1000).select(["id"]),
        path,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    dataset = spec(
        source={"parquet": {"paths": ["rows/checked.parquet"]}},
        features=[{"sparse": {"columns": ["id"]}}],
    )
    (request,) = shard_requests(stub, dataset, pb.BatchIdentity(batch_size=64))
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.DATA_LOSS,
        "FILE_CORRUPT",
        "rows/checked.parquet",
        "row group 0",
    )


def test_column_missing_in_one_file(stub: Stub, root: Path) -> None:
    table = make_table(100).drop_columns(["seq"])
    pq.write_table(table, root / "rows" / "part-9.parquet")
    check(
        describe(stub, named("rows")),
        grpc.StatusCode.FAILED_PRECONDITION,
        "COLUMN_MISSING",
        "part-9.parquet",
        "'seq'",
    )


def test_column_of_another_type_in_one_file(stub: Stub, root: Path) -> None:
    table = make_table(100)
    table = table.set_column(0, "id", table["id"].cast(pa.int32()))
    pq.write_table(table, root / "rows" / "part-9.parquet")
    check(
        describe(stub, named("rows")),
        grpc.StatusCode.FAILED_PRECONDITION,
        "COLUMN_TYPE_MISMATCH",
        "part-9.parquet",
        "int32",
        "int64",
    )


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


def test_snapshot_of_a_dataset_with_other_columns(stub: Stub) -> None:
    narrow = spec(
        source={"parquet": {"paths": ["rows"]}}, features=[{"sparse": {"columns": ["id"]}}]
    )
    taken = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=narrow)).snapshot_id
    refusal = Refusal(
        lambda: stub.PlanEpoch(
            pb.PlanEpochRequest(
                dataset=spec(), snapshot_id=taken, identity=pb.BatchIdentity(batch_size=1)
            )
        )
    )
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "SNAPSHOT_INVALID", "other columns", "seq")


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
        pa.table({"id": np.arange(200_000)}),
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


def test_snapshot_that_the_server_does_not_know(
    root: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]
) -> None:
    first, second = (connect(start_server(data_root=(root,)).address) for _ in range(2))
    (request,) = shard_requests(first, spec(), pb.BatchIdentity(batch_size=64, num_shards=1))
    check(
        Refusal(lambda: receive(second, request)),
        grpc.StatusCode.NOT_FOUND,
        "SNAPSHOT_UNKNOWN",
        "PutSnapshot",
    )
    described = first.DescribeDataset(
        pb.DescribeDatasetRequest(dataset=spec(), include_snapshot=True)
    )
    put = second.PutSnapshot(pb.PutSnapshotRequest(snapshot=described.snapshot))
    assert put.snapshot_id == request.snapshot_id
    assert receive(second, request).batches


@pytest.mark.parametrize("content", [b"", b"abc", b"\x28\xb5\x2f\xfd" + b"0" * 40])
def test_snapshot_that_is_none(stub: Stub, content: bytes) -> None:
    check(
        Refusal(lambda: stub.PutSnapshot(pb.PutSnapshotRequest(snapshot=content))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "SNAPSHOT_INVALID",
    )


def test_file_replaced_after_planning(stub: Stub, root: Path) -> None:
    (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=64, num_shards=1))
    pq.write_table(make_table(1_000, seed=1), root / "rows" / "part-1.parquet")
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "SNAPSHOT_CHANGED",
        "rows/part-1.parquet",
    )


def test_file_added_after_planning_is_not_in_the_epoch(stub: Stub, root: Path) -> None:
    (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=64, num_shards=1))
    before = receive(stub, request)
    pq.write_table(make_table(500, seed=1), root / "rows" / "part-9.parquet")
    assert receive(stub, request) == before
    described = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=spec()))
    assert described.parquet_row_count == 10_500


def test_split_too_large_for_the_memory_allowed(
    root: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]
) -> None:
    (root / "wide").mkdir()
    pq.write_table(
        pa.table({"id": np.arange(2_000_000), "label": np.zeros(2_000_000, np.float32)}),
        root / "wide" / "big.parquet",
        row_group_size=2_000_000,
    )
    stub = connect(start_server(data_root=(root,), read_ahead_bytes=16 << 20).address)
    features = [{"sparse": {"columns": ["id"]}}, {"label": {"columns": ["label"]}}]
    source = {"parquet": {"paths": ["wide"]}}
    identity = pb.BatchIdentity(batch_size=4096, num_shards=1)
    (request,) = shard_requests(stub, spec(source=source, features=features), identity)
    refusal = Refusal(lambda: receive(stub, request))
    check(
        refusal,
        grpc.StatusCode.FAILED_PRECONDITION,
        "SPLIT_TOO_LARGE",
        "wide/big.parquet",
        "row group 0",
        "max_split_bytes",
        "--read-ahead-bytes",
    )
    # The way out that the message names: smaller splits, whatever the file.
    advice = re.search(r"max_split_bytes to ([\d,]+) or less", refusal.message)
    assert advice is not None
    size = advice.group(1).replace(",", "")
    small = spec(source=source, features=features, max_split_bytes=size)
    requests = shard_requests(stub, small, identity)
    assert sum(batch.row_count for r in requests for batch in receive(stub, r).batches) == 2_000_000


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


def test_null_that_no_op_replaced(stub: Stub) -> None:
    dataset = spec(features=[{"dense": {"columns": ["dense"]}}])
    (request,) = shard_requests(stub, dataset, pb.BatchIdentity(batch_size=64, num_shards=1))
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "NULL_VALUE",
        "rows/part-0.parquet",
        "row group 0",
        "'dense'",
        "FillNull",
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
