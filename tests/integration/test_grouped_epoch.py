"""Laws 1 to 3 on grouped files: the same bytes from any server, resume inside a Parquet row."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.server import Server
from tests.fakes.grouped import FORMS, make_requests, write_layout
from tests.fakes.refusal import Refusal, Stub, check, describe
from tests.fakes.wire import Received, canonical, ids, receive, shard_requests

Start = Callable[..., Server]
Connect = Callable[[str], pb_grpc.PreprocessorServiceStub]

# One a request, one a row, and one of a derived column.
DERIVED = {
    "derive": [
        {"name": "seen", "cross": {"columns": ["region", "history"], "num_buckets": 99}},
        {"name": "aged", "cross": {"columns": ["age", "id"], "num_buckets": 99}},
        {
            "name": "few",
            "mask": {
                "column": "history",
                "by": "history",
                "comparison": "COMPARISON_LESS",
                "values": [{"integer": 3}],
            },
        },
        {"name": "few_aged", "cross": {"columns": ["few", "id"], "num_buckets": 99}},
    ],
    "features": [
        {"sparse": {"columns": ["id", "history", "aged", "few_aged"]}},
        {"sparse": {"columns": ["seen"], "ops": [{"fill_null": {"value": {"integer": 0}}}]}},
        {"label": {"columns": ["label"]}},
    ],
}
FILTERS = ["", "label = 1 AND (age < 40 OR item_city IS NULL)"]


@pytest.fixture(scope="module")
def grouped_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grouped")
    for form in FORMS:
        write_layout(folder / form, form)
    return folder


def spec(form: str, where: str = "", **changes: object) -> dataset_pb2.DatasetSpec:
    content: dict[str, object] = {
        "source": {"parquet": {"paths": [form], "rows": FORMS.get(form, ["id", "label"])}},
        "where": where,
        "features": [
            {"sparse": {"columns": ["id", "history"]}},
            {"label": {"columns": ["label"]}},
        ],
    }
    return json_format.ParseDict(content | changes, dataset_pb2.DatasetSpec())


def written(folder: Path, table: pa.Table, metadata: list[int] | None = None, **how: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / "x.parquet", table.schema, **how) as writer:
        writer.write_table(table, row_group_size=4)
        if metadata is not None:
            writer.add_key_value_metadata({"headrace.row_group_rows": json.dumps(metadata)})


def small(**changes: Any) -> pa.Table:
    """Row groups of four, four and two requests, of 5, 0 and 3 rows."""
    ids = [[0, 1, 2], [], None, [3, 4], [], [], None, [], [5], [6, 7]]
    columns: dict[str, Any] = {
        "history": [[1], [2], [3], [4], [], [], None, [], [5], [6]],
        "id": pa.array(ids, pa.list_(pa.int64())),
        "label": pa.array([None if part is None else [n % 2 for n in part] for part in ids]),
    }
    return pa.table(columns | changes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("window", [1, 4])
def test_restoring_at_every_batch_gives_the_identical_rest(
    start_server: Start,
    connect: Connect,
    grouped_root: Path,
    form: str,
    where: str,
    shuffle: bool,
    window: int,
) -> None:
    first, second = (
        connect(start_server(data_root=(grouped_root,), cpu_threads=n).address) for n in (1, 2)
    )
    identity = pb.BatchIdentity(
        batch_size=45, num_shards=2, shuffle=shuffle, shuffle_window_splits=window, seed=5
    )
    dataset = spec(form, where, **DERIVED)
    inside = 0
    for request in shard_requests(first, dataset, identity):
        second.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset))
        whole = receive(first, request)
        rest = [canonical(batch) for batch in whole.batches]
        cursors = [(batch.cursor, i) for i, batch in enumerate(whole.batches)]
        cursors += [(batch.next_cursor, i + 1) for i, batch in enumerate(whole.batches)]
        for position, done in cursors:
            inside += position.offset > 0
            again = pb.StreamBatchesRequest()
            again.CopyFrom(request)
            again.cursor.CopyFrom(position)
            resumed = receive(second, again)
            assert [canonical(batch) for batch in resumed.batches] == rest[done:]
            assert resumed.end == whole.end
            if not where and done < len(rest):
                again.ClearField("cursor")
                again.first_batch = done
                resumed = receive(second, again)
                assert [canonical(batch) for batch in resumed.batches] == rest[done:]
    assert inside > 4


def test_cursors_count_parquet_rows_and_rows_in_them(
    start_server: Start, connect: Connect, tmp_path: Path
) -> None:
    written(tmp_path / "small", small())
    stub = connect(start_server(data_root=(tmp_path,)).address)
    identity = pb.BatchIdentity(batch_size=2, num_shards=1)
    (request,) = shard_requests(stub, spec("small"), identity)
    received = receive(stub, request)
    found = [(c.split, c.parquet_row, c.offset) for c in (b.next_cursor for b in received.batches)]
    # Parquet rows 1 and 2 hold no row; the first split ends in the middle of a batch.
    assert found == [(0, 0, 2), (0, 3, 1), (2, 1, 0), (3, 0, 0)]
    assert all_ids([received]) == list(range(8))


def test_a_batch_starts_at_the_same_cursor_however_it_is_asked_for(
    start_server: Start, connect: Connect, tmp_path: Path
) -> None:
    written(tmp_path / "small", small())
    stub = connect(start_server(data_root=(tmp_path,)).address)
    identity = pb.BatchIdentity(batch_size=5, num_shards=1)
    (request,) = shard_requests(stub, spec("small"), identity)
    whole = receive(stub, request)
    # The splits of no rows that follow lie after the position, not before it.
    assert whole.batches[0].next_cursor == batch_pb2.Cursor(split=1, batch=1)
    request.first_batch = 1
    assert list(map(canonical, receive(stub, request).batches)) == [canonical(whole.batches[1])]


@pytest.mark.parametrize(
    ("cursor", "words"),
    [
        ((0, 0, 3), "holds no row at that offset"),
        ((0, 1, 1), "holds no row at that offset"),
        ((0, 3, 1 << 40), "holds no row at that offset"),
        ((0, 4, 0), "the splits there hold 4 Parquet rows"),
        ((3, 0, 1), "the splits there hold 0 Parquet rows"),
    ],
)
def test_cursors_that_fit_no_row_are_refused(
    start_server: Start,
    connect: Connect,
    tmp_path: Path,
    cursor: tuple[int, int, int],
    words: str,
) -> None:
    written(tmp_path / "small", small())
    stub = connect(start_server(data_root=(tmp_path,)).address)
    (request,) = shard_requests(stub, spec("small"), pb.BatchIdentity(batch_size=2, num_shards=1))
    split, parquet_row, offset = cursor
    request.cursor.CopyFrom(batch_pb2.Cursor(split=split, parquet_row=parquet_row, offset=offset))
    refusal = Refusal(lambda: receive(stub, request))
    check(refusal, grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID", words)
    assert refusal.fields == ["cursor"]


def all_ids(streams: list[Received]) -> list[int]:
    parts = [ids(stream.schema, batch) for stream in streams for batch in stream.batches]
    return sorted(itertools.chain.from_iterable(part.tolist() for part in parts))


def test_first_batch_is_for_known_rows_and_within_the_shard(
    start_server: Start, connect: Connect, tmp_path: Path
) -> None:
    written(tmp_path / "small", small())
    stub = connect(start_server(data_root=(tmp_path,)).address)
    identity = pb.BatchIdentity(batch_size=2, num_shards=1)
    (request,) = shard_requests(stub, spec("small"), identity)
    request.first_batch = 4
    code = grpc.StatusCode.INVALID_ARGUMENT
    refusal = Refusal(lambda: receive(stub, request))
    check(refusal, code, "REQUEST_INVALID", "first_batch is 4, but the shard ends before it")
    request.cursor.CopyFrom(batch_pb2.Cursor())
    check(Refusal(lambda: receive(stub, request)), code, "REQUEST_INVALID", "both first_batch and")
    (request,) = shard_requests(stub, spec("small", "label = 1"), identity)
    request.first_batch = 1
    check(Refusal(lambda: receive(stub, request)), code, "REQUEST_INVALID", "distinct_by decides")


def test_row_groups_are_dealt_whole_and_counted_in_rows(
    start_server: Start, connect: Connect, grouped_root: Path
) -> None:
    stub = connect(start_server(data_root=(grouped_root,)).address)
    described = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=spec("struct")))
    requests, _ = make_requests()
    assert described.parquet_row_count == requests.num_rows
    assert described.row_count == described.unfiltered_row_count > 500
    columns = {column.name: column for column in described.source_columns}
    assert columns["label"].list_column == "impressions"
    assert (columns["label"].type, columns["label"].needed) == ("int8", True)
    assert (columns["request"].list_column, columns["request"].needed) == ("", False)
    identity = pb.BatchIdentity(batch_size=45, num_shards=3, shuffle=True)
    plan = stub.PlanEpoch(pb.PlanEpochRequest(dataset=spec("struct"), identity=identity))
    assert plan.row_count == described.row_count
    assert any("whole row groups" in note for note in plan.notes)
    groups = [(s.file, s.row_group) for shard in plan.shards for s in shard.splits]
    assert len(set(groups)) == len(groups)
    for request, shard in zip(
        shard_requests(stub, spec("struct"), identity), plan.shards, strict=True
    ):
        received = receive(stub, request)
        assert len(received.batches) == shard.batch_count
        assert sum(batch.row_count for batch in received.batches) == shard.row_count
    filtered = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=spec("struct", "label = 1")))
    assert not filtered.HasField("row_count")
    assert filtered.unfiltered_row_count == described.row_count


@pytest.mark.parametrize("shuffle", [False, True])
def test_row_groups_too_large_for_a_split_stay_in_one_shard(
    start_server: Start, connect: Connect, tmp_path: Path, shuffle: bool
) -> None:
    count = 30_000
    ids = pa.array([[3 * i, 3 * i + 1, 3 * i + 2][: i % 4] for i in range(count)])
    label = pa.array([[0] * (min(3, i % 4)) for i in range(count)])
    table = pa.table({"history": [[i] * 8 for i in range(count)], "id": ids, "label": label})
    (tmp_path / "large").mkdir()
    pq.write_table(table, tmp_path / "large" / "x.parquet", row_group_size=20_000)
    stub = connect(start_server(data_root=(tmp_path,)).address)
    dataset = spec("large", max_split_bytes=1 << 20)
    identity = pb.BatchIdentity(batch_size=4000, num_shards=2, shuffle=shuffle)
    requests = shard_requests(stub, dataset, identity)
    homes: dict[int, set[int]] = {}
    for request in requests:
        assert len(request.splits) > 1
        for split in request.splits:
            homes.setdefault(split.row_group, set()).add(request.shard)
    assert [len(shards) for shards in homes.values()] == [1, 1]
    streams = [receive(stub, request) for request in requests]
    assert all_ids(streams) == sorted(itertools.chain.from_iterable(ids.to_pylist()))
    # Where a batch lies in a shard of pieces shows only as they are read.
    for request, stream in zip(requests, streams, strict=True):
        request.first_batch = len(stream.batches) - 1
        last = receive(stub, request)
        assert [canonical(b) for b in last.batches] == [canonical(stream.batches[-1])]


def test_uneven_lists_are_refused_by_place(
    start_server: Start, connect: Connect, tmp_path: Path
) -> None:
    written(tmp_path / "small", small(label=[[0, 1, 0], [], [], [1, 0], [], [], [], [], [1], [0]]))
    stub = connect(start_server(data_root=(tmp_path,)).address)
    (request,) = shard_requests(stub, spec("small"), pb.BatchIdentity(batch_size=2, num_shards=1))
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.FAILED_PRECONDITION,
        "ROWS_UNEVEN",
        "file 'small/x.parquet', row group 2, Parquet row 1: column 'id' holds a list of 2 "
        "elements, column 'label' one of 1",
    )


@pytest.mark.parametrize("cut", [False, True])
def test_promises_that_are_not_kept_are_found_by_reading(
    start_server: Start, connect: Connect, tmp_path: Path, cut: bool
) -> None:
    written(tmp_path / "small", small(), metadata=[4, 0, 3])
    stub = connect(start_server(data_root=(tmp_path,)).address)
    identity = pb.BatchIdentity(batch_size=2, num_shards=1)
    plan = stub.PlanEpoch(pb.PlanEpochRequest(dataset=spec("small"), identity=identity))
    assert plan.row_count == 7
    (request,) = shard_requests(stub, spec("small"), identity)
    if cut:
        del request.splits[:]
        request.splits.extend([pb.Split(row_count=2), pb.Split(first_row=2, row_count=2)])
    check(
        Refusal(lambda: receive(stub, request)),
        grpc.StatusCode.DATA_LOSS,
        "FILE_CORRUPT",
        "file 'small/x.parquet', row group 0: its lists hold 5 rows, but its metadata "
        "('headrace.row_group_rows') or its statistics promise 4",
        "copied from another file",
    )


def test_typos_in_rows_are_refused(stub: Stub, root: Path) -> None:
    written(root / "small", small())
    code = grpc.StatusCode.INVALID_ARGUMENT

    def named(*rows: str) -> dataset_pb2.DatasetSpec:
        return spec("small", source={"parquet": {"paths": ["small"], "rows": list(rows)}})

    refusal = describe(stub, named("id", "labl"))
    check(refusal, code, "DATASET_INVALID", "'labl' names no column", "did you mean 'label'?")
    assert refusal.fields == ["dataset.source.parquet.rows[1]"]
    check(describe(stub, named("idd", "labl")), code, "DATASET_INVALID", "'idd' names no column")
    check(describe(stub, named("id", "label", "")), code, "DATASET_INVALID", "rows[2]")
    grouped = named("id", "label")
    grouped.source.parquet.group_by.append("id")
    refusal = describe(stub, grouped)
    check(refusal, code, "TYPE_UNFIT", "group_by column 'id' lies in lists")
    unmatched = named("id", "label")
    unmatched.features[0].sparse.columns.append("impression_id")
    check(describe(stub, unmatched), code, "FEATURE_UNMATCHED", "'impression_id' matches no")


def test_a_snapshot_of_flat_files_is_none_of_grouped_ones(stub: Stub, root: Path) -> None:
    written(root / "small", small())
    flat = spec(
        "small",
        source={"parquet": {"paths": ["small"]}},
        features=[{"sparse": {"columns": ["id", "label"]}}],
    )
    snapshot = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=flat)).snapshot_id
    request = pb.PlanEpochRequest(
        dataset=spec("small"), snapshot_id=snapshot, identity=pb.BatchIdentity(batch_size=2)
    )
    check(
        Refusal(lambda: stub.PlanEpoch(request)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "SNAPSHOT_INVALID",
        "this dataset also needs history, id[], label[]",
    )


def test_previews_show_rows(stub: Stub, root: Path) -> None:
    written(root / "small", small())
    request = pb.PreviewBatchRequest(dataset=spec("small", "label = 1"), row_count=3)
    response = stub.PreviewBatch(request)
    assert [row.source["id"] for row in response.rows] == [1, 3, 5]
    assert [row.source["history"][0] for row in response.rows] == [1, 4, 5]
    assert [list(row.output["id"]) for row in response.rows] == [[1], [3], [5]]


def test_a_window_that_cannot_be_held_is_refused_by_size(
    start_server: Start, connect: Connect, grouped_root: Path
) -> None:
    server = start_server(data_root=(grouped_root,))
    stub = connect(server.address)
    requests = shard_requests(stub, spec("lists"), pb.BatchIdentity(batch_size=9, num_shards=1))
    server.budget.capacity = 4000
    check(
        Refusal(lambda: receive(stub, requests[0])),
        grpc.StatusCode.FAILED_PRECONDITION,
        "SPLIT_TOO_LARGE",
        "file 'lists/part-0.parquet', row group 1, Parquet rows 0-39",
        "--read-ahead-bytes",
    )
