"""What a server answers to files that are not what a dataset or a snapshot says."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes.parquet import make_table, write_dataset
from tests.fakes.refusal import Refusal, Stub, check, describe, named
from tests.fakes.wire import receive, shard_requests, spec


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
