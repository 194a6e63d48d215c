"""Laws 1 to 3 on the wire: the same bytes from any server, every row once, resume at any batch."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.server import Server
from preprocessor_server.window import ORDER_BYTES
from tests.fakes.wire import Received, canonical, ids, receive, shard_requests, spec

Start = Callable[..., Server]
Connect = Callable[[str], pb_grpc.PreprocessorServiceStub]

FILTERS = ["", "label = 1 AND (price < 0.7 OR city IS NULL)"]


def expected_ids(root: Path, where: str) -> list[int]:
    table = pq.read_table(root / "rows")
    if where:
        price = pc.less(table["price"], 0.7)
        keep = pc.and_(pc.equal(table["label"], 1), pc.or_(price, pc.is_null(table["city"])))
        table = table.filter(keep)
    found: list[int] = table["id"].to_pylist()
    return sorted(found)


def all_ids(streams: list[Received]) -> list[int]:
    parts = [ids(stream.schema, batch) for stream in streams for batch in stream.batches]
    return sorted(np.concatenate(parts).tolist())


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("num_shards", "window"), [(3, 1), (0, 4)])
def test_epoch_is_the_same_bytes_from_any_number_of_servers_and_every_row_once(
    start_server: Start,
    connect: Connect,
    dataset_root: Path,
    where: str,
    shuffle: bool,
    num_shards: int,
    window: int,
) -> None:
    identity = pb.BatchIdentity(
        seed=7,
        epoch=1,
        batch_size=256,
        num_shards=num_shards,
        shuffle=shuffle,
        shuffle_window_splits=window,
    )
    epochs = []
    for count in (1, 2, 4):
        stubs = [
            connect(
                start_server(
                    data_root=(dataset_root,), zstd_level=1 + i, cpu_threads=1 + i % 2
                ).address
            )
            for i in range(count)
        ]
        dataset = spec(where)
        requests = shard_requests(stubs[0], dataset, identity)
        for stub in stubs[1:]:
            described = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset))
            assert described.snapshot_id == requests[0].snapshot_id
        streams = [
            receive(stub, request)
            for stub, request in zip(itertools.cycle(stubs), requests, strict=False)
        ]
        assert all_ids(streams) == expected_ids(dataset_root, where)
        assert {s.end.reason for s in streams if s.end} == {pb.END_REASON_SHARD_END}
        epochs.append([[canonical(batch) for batch in stream.batches] for stream in streams])
    assert epochs[0] == epochs[1] == epochs[2]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("window", [1, 3])
def test_restoring_at_every_batch_gives_the_identical_rest(
    start_server: Start,
    connect: Connect,
    dataset_root: Path,
    where: str,
    shuffle: bool,
    window: int,
) -> None:
    first, second = (connect(start_server(data_root=(dataset_root,)).address) for _ in range(2))
    identity = pb.BatchIdentity(
        batch_size=512, num_shards=2, shuffle=shuffle, shuffle_window_splits=window
    )
    dataset = spec(where)
    for request in shard_requests(first, dataset, identity):
        second.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset))
        whole = receive(first, request)
        rest = [canonical(batch) for batch in whole.batches]
        for i, batch in enumerate(whole.batches):
            assert batch.index == i
            for position, expected in (
                (batch.cursor, rest[i:]),
                (batch.next_cursor, rest[i + 1 :]),
            ):
                again = pb.StreamBatchesRequest()
                again.CopyFrom(request)
                again.cursor.CopyFrom(position)
                resumed = receive(second, again)
                assert [canonical(b) for b in resumed.batches] == expected
                assert resumed.end == whole.end


def test_shuffling_keeps_groups_together_and_differs_between_epochs_and_seeds(
    start_server: Start, connect: Connect, dataset_root: Path
) -> None:
    stub = connect(start_server(data_root=(dataset_root,)).address)
    request_of = pq.read_table(dataset_root / "rows", columns=["request"])["request"].to_numpy()
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        identity = pb.BatchIdentity(
            seed=seed, epoch=epoch, batch_size=1000, num_shards=1, shuffle=True
        )
        (request,) = shard_requests(stub, spec(), identity)
        received = receive(stub, request)
        order = np.concatenate([ids(received.schema, batch) for batch in received.batches])
        orders.append(order.tolist())
        # Within a row group, the rows of a request stay adjacent and in order.
        for before, after in itertools.pairwise(order.tolist()):
            if request_of[before] == request_of[after]:
                assert after == before + 1
        assert order.tolist() != sorted(order)
    assert len({tuple(order) for order in orders}) == 3


def test_batch_limit_and_codec(start_server: Start, connect: Connect, dataset_root: Path) -> None:
    stub = connect(start_server(data_root=(dataset_root,)).address)
    identity = pb.BatchIdentity(batch_size=300, num_shards=1)
    (request,) = shard_requests(stub, spec(), identity)
    whole = receive(stub, request)
    request.batch_limit = 5
    request.accepted_codecs.append(batch_pb2.CODEC_NONE)
    part = receive(stub, request)
    assert [canonical(b) for b in part.batches] == [canonical(b) for b in whole.batches[:5]]
    assert {batch.codec for batch in part.batches} == {batch_pb2.CODEC_NONE}
    assert part.end is not None
    assert part.end.reason == pb.END_REASON_BATCH_LIMIT
    assert part.end.cursor == part.batches[-1].next_cursor


def test_batch_larger_than_a_shard_and_than_a_window(
    start_server: Start, connect: Connect, dataset_root: Path
) -> None:
    stub = connect(start_server(data_root=(dataset_root,)).address)
    identity = pb.BatchIdentity(batch_size=1 << 20, num_shards=1, shuffle=True)
    (request,) = shard_requests(stub, spec(), identity)
    received = receive(stub, request)
    assert [batch.row_count for batch in received.batches] == [10_000]


def test_filter_that_nothing_passes_gives_no_batch(
    start_server: Start, connect: Connect, dataset_root: Path
) -> None:
    stub = connect(start_server(data_root=(dataset_root,)).address)
    for request in shard_requests(stub, spec("label = 2"), pb.BatchIdentity(batch_size=64)):
        received = receive(stub, request)
        assert received.batches == []
        assert received.end is not None
        assert received.end.reason == pb.END_REASON_SHARD_END


def test_batches_across_windows_need_no_more_memory_than_a_window(
    start_server: Start, connect: Connect, dataset_root: Path
) -> None:
    """What a batch carries from one window to the next must not keep the next one out."""
    dataset = spec(
        source={"parquet": {"paths": ["rows"]}}, features=[{"sparse": {"columns": ["id"]}}]
    )
    server = start_server(data_root=(dataset_root,), shared_bytes=0)
    stub = connect(server.address)
    identity = pb.BatchIdentity(batch_size=9_999, num_shards=1, shuffle=True)
    (request,) = shard_requests(stub, dataset, identity)
    # Room for the largest window alone: 700 rows, 8 bytes of each decoded, twice, and its order.
    server.budget.capacity = 700 * (2 * 8 + ORDER_BYTES)
    assert [batch.row_count for batch in receive(stub, request).batches] == [9_999, 1]
    assert server.budget.used == 0


def test_pages_of_a_plan_make_up_the_plan(
    start_server: Start, connect: Connect, dataset_root: Path
) -> None:
    stub = connect(start_server(data_root=(dataset_root,)).address)
    identity = pb.BatchIdentity(batch_size=100, num_shards=5, shuffle=True)
    request = pb.PlanEpochRequest(dataset=spec(), identity=identity, page_size=4)
    whole = stub.PlanEpoch(pb.PlanEpochRequest(dataset=spec(), identity=identity))
    shards, pages = [], 0
    while True:
        page = stub.PlanEpoch(request)
        shards += list(page.shards)
        pages += 1
        assert page.shard_batch_counts == whole.shard_batch_counts
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert pages > 1
    assert shards == list(whole.shards)
    request = pb.PlanEpochRequest(dataset=spec(), identity=identity, shards=[3, 1])
    assert [shard.shard for shard in stub.PlanEpoch(request).shards] == [3, 1]
