"""count="exact": the servers count what passes a filter once, and everything else follows."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from preprocessor_server.source.snapshot import Snapshot
from tests.fakes.grouped import ROW_LEVEL, write_layout
from tests.fakes.parquet import ROW_COUNT, make_table
from tests.fakes.refusal import Stub
from tests.fakes.wire import spec
from trainer_client import (
    BatchStream,
    DataError,
    Dataset,
    Dense,
    Label,
    RequestError,
    Sampling,
    Sparse,
    merge_state_dicts,
    parquet,
)
from trainer_client.snapshot_store import SnapshotStore

Start = Callable[..., Server]
Open = Callable[..., BatchStream]
# Most rows that pass lie in the first row groups.
SKEWED = "id < 1500 OR price < 0.05"
BATCH = 64


def passing(table: pa.Table) -> list[int]:
    mask = pc.or_(pc.less(table["id"], 1500), pc.less(table["price"], np.float32(0.05)))
    ids: list[int] = table.filter(mask)["id"].to_pylist()
    return ids


def dataset(where: str = SKEWED, path: str = "rows") -> Dataset:
    return Dataset(source=parquet(path), where=where, features=[Sparse("id"), Label("label")])


@pytest.fixture
def open_stream(
    dataset_root: Path, tmp_path: Path, start_server: Start
) -> Iterator[Callable[..., BatchStream]]:
    """Makes streams of two servers that keep their snapshots in one directory."""
    servers = [start_server(data_root=(dataset_root,)) for _ in range(2)]
    streams = []

    def make(where: str = SKEWED, **options: Any) -> BatchStream:
        defaults: dict[str, Any] = {
            "target": "static:///" + ",".join(server.address for server in servers),
            "batch_size": BATCH,
            "count": "exact",
            "snapshot_dir": tmp_path / "snapshots",
            "timeout": 20.0,
        }
        streams.append(BatchStream(dataset(where), **(defaults | options)))
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


def ids(stream: BatchStream) -> list[int]:
    found: list[int] = []
    for batch in stream:
        if not batch.padding:
            assert batch.sparse is not None
            found += batch.sparse["id"].values.tolist()
    return found


def test_an_epoch_is_as_long_as_it_says(open_stream: Open) -> None:
    expected = passing(make_table())
    stream = open_stream()
    assert stream.row_count() == len(expected)
    steps = len(stream)
    assert sum(1 for _ in open_stream()) == steps
    assert Counter(ids(stream)) == Counter(expected)
    # Some row groups deliver nothing, and no shard is made of them alone.
    assert steps < math.ceil(ROW_COUNT / BATCH)


@pytest.mark.parametrize("uneven", ["drop", "pad", None])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_take_the_same_steps(open_stream: Open, uneven: str | None, world_size: int) -> None:
    expected = Counter(passing(make_table()))
    streams = [open_stream(rank=r, world_size=world_size, uneven=uneven) for r in range(world_size)]
    delivered: Counter[int] = Counter()
    for stream in streams:
        delivered.update(ids(stream))
    stats = [stream.stats() for stream in streams]
    assert len({each.batches + each.padded_batches for each in stats}) == 1
    left_out = stats[0].left_out_rows
    assert max(delivered.values()) == 1
    assert delivered <= expected
    assert delivered.total() + left_out == expected.total()
    if uneven == "pad":
        assert left_out == 0
    else:
        assert stats[0].left_out_batches < world_size


def test_a_state_goes_on_with_other_ranks_and_nothing_is_counted_again(open_stream: Open) -> None:
    expected = Counter(passing(make_table()))
    streams = [open_stream(rank=r, world_size=2, uneven="none") for r in range(2)]
    delivered: Counter[int] = Counter()
    states = []
    for stream in streams:
        steps = iter(stream)
        for _ in range(3):
            batch = next(steps)
            assert batch.sparse is not None
            delivered.update(batch.sparse["id"].values.tolist())
        states.append(stream.state_dict())
    merged = merge_state_dicts(states)
    for rank in range(3):
        # Not asked for again: the snapshot of the state has the counts.
        stream = open_stream(rank=rank, world_size=3, uneven="none", count=None)
        stream.load_state_dict(merged)
        assert len(stream) > 0
        delivered.update(ids(stream))
    assert delivered == expected


@pytest.mark.parametrize(("where", "rows"), [("id < 0", 0), ("id >= 0", ROW_COUNT)])
def test_filters_that_let_nothing_or_everything_pass(
    open_stream: Open, where: str, rows: int
) -> None:
    stream = open_stream(where)
    assert stream.row_count() == rows
    assert len(ids(stream)) == rows


def test_without_a_filter_there_is_nothing_to_count(open_stream: Open) -> None:
    counted, plain = open_stream(""), open_stream("", count=None)
    assert counted.row_count() == plain.row_count() == ROW_COUNT
    assert counted.state_dict()["snapshot"] == plain.state_dict()["snapshot"]


def test_counted_and_uncounted_streams_do_not_mix(open_stream: Open) -> None:
    plain = open_stream(count=None)
    assert plain.row_count() is None
    next(iter(plain))
    stream = open_stream()
    stream.load_state_dict(plain.state_dict())
    with pytest.raises(RequestError, match=r"count=\"exact\".*without counting: leave count= out"):
        len(stream)
    assert open_stream().row_count() == len(passing(make_table()))


def test_other_values_are_refused(open_stream: Open) -> None:
    with pytest.raises(RequestError, match=r"count is 'fast': it must be \"exact\""):
        open_stream(count="fast")


def test_sampled_rows_are_counted_and_told_apart_from_others(
    dataset_root: Path, tmp_path: Path, start_server: Start
) -> None:
    target = f"static:///{start_server(data_root=(dataset_root,)).address}"

    def opened(seed: int, **options: Any) -> BatchStream:
        sampled = Dataset(
            source=parquet("rows"),
            features=[Sparse("id"), Dense("w")],
            sample=Sampling(0.25, when="id >= 1000", key="id", seed=seed, weight="w"),
        )
        directory = tmp_path / "snapshots"
        return BatchStream(
            sampled, target=target, batch_size=BATCH, snapshot_dir=directory, **options
        )

    with opened(1, count="exact") as stream:
        steps, rows = len(stream), stream.row_count()
        found, weights = [], 0.0
        for batch in stream:
            assert batch.sparse is not None
            assert batch.dense is not None
            found += batch.sparse["id"].values.tolist()
            weights += float(batch.dense.sum())
        assert (stream.stats().batches, len(found)) == (steps, rows)
        assert set(range(1000)) <= set(found)
        assert abs(weights / ROW_COUNT - 1) < 0.1
        state = stream.state_dict()
    with (
        opened(1) as stream,
        pytest.raises(TypeError, match="a filter, sampling or distinct_by decides"),
    ):
        len(stream)
    with (
        opened(2, count="exact", snapshot=state["snapshot"]) as stream,
        pytest.raises(RequestError, match="counts the rows of another sampling"),
    ):
        len(stream)


@pytest.mark.parametrize("layout", ["lists", "struct"])
@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("label = 1", pc.field("label") == 1),
        # Of columns that are in no list, and of none at all.
        ("request < 1100", pc.field("request") < 1100),
        ("1 < 2", pc.scalar(True)),
    ],
)
def test_grouped_files(
    tmp_path: Path, start_server: Start, layout: str, where: str, passes: pc.Expression
) -> None:
    write_layout(tmp_path / "data" / layout, layout)
    write_layout(tmp_path / "data" / "flat", "clustered")
    flat = pq.read_table(tmp_path / "data" / "flat")
    server = start_server(data_root=(tmp_path / "data",))
    expected = flat.filter(passes).num_rows
    source = parquet(layout, rows=["impressions"] if layout == "struct" else list(ROW_LEVEL))
    counted = Dataset(source=source, where=where, features=[Label("label")])
    with BatchStream(
        counted,
        target=f"static:///{server.address}",
        batch_size=BATCH,
        count="exact",
        snapshot_dir=tmp_path / "snapshots",
    ) as stream:
        assert stream.row_count() == expected
        steps = len(stream)
        batches = list(stream)
        assert len(batches) == steps
        assert sum(batch.batch_size for batch in batches) == expected


def test_wrong_counts_are_noticed(dataset_root: Path, start_server: Start, tmp_path: Path) -> None:
    """A snapshot whose counts are of other files ends the run, and says what to do."""
    server = start_server(data_root=(dataset_root,))
    with BatchStream(
        dataset(),
        target=f"static:///{server.address}",
        batch_size=BATCH,
        count="exact",
        snapshot_dir=tmp_path / "s",
    ) as stream:
        len(stream)
        good = stream._session._snapshot
        assert good is not None
        message = Snapshot.from_frame(good.data).message
        message.row_group_passing_rows[0] -= 1
        message.row_group_passing_rows[9] += 1
        lying = Snapshot.of(message)
        SnapshotStore(tmp_path / "s").put(lying.id, lying.frame)
    with (
        BatchStream(
            dataset(),
            target=f"static:///{server.address}",
            batch_size=BATCH,
            snapshot=lying.id,
            snapshot_dir=tmp_path / "s",
        ) as stream,
        pytest.raises(
            DataError, match=r"row group.*rows are to be delivered, but the snapshot counted"
        ),
    ):
        list(stream)


def test_the_call_by_itself(stub: Stub) -> None:
    request = pb.CountRowsRequest(dataset=spec("id < 1000"))
    counts = list(stub.CountRows(request).row_counts)
    assert sum(counts) == 1000
    request.first_row_group, request.row_group_count = 1, 2
    assert list(stub.CountRows(request).row_counts) == counts[1:3]
    request.first_row_group = 99
    with pytest.raises(grpc.RpcError, match=r"first_row_group is 99.*0 to 15"):
        stub.CountRows(request)
    assert sum(stub.CountRows(pb.CountRowsRequest(dataset=spec())).row_counts) == ROW_COUNT


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    low=st.integers(0, ROW_COUNT),
    width=st.integers(0, ROW_COUNT),
    price=st.floats(0, 1),
    seed=st.integers(0, 99),
    shards=st.sampled_from([None, 1, 5]),
)
def test_random_filters(
    open_stream: Open, low: int, width: int, price: float, seed: int, shards: int | None
) -> None:
    table = make_table()
    limit = float(np.float32(price))
    where = f"(id >= {low} AND id < {low + width}) OR price < {limit!r}"
    near = pc.and_(pc.greater_equal(table["id"], low), pc.less(table["id"], low + width))
    cheap = pc.less(pc.cast(table["price"], pa.float64()), limit)
    expected = table.filter(pc.or_(near, cheap))["id"].to_pylist()
    stream = open_stream(where, seed=seed, num_shards=shards)
    steps = len(stream)
    found = ids(stream)
    assert Counter(found) == Counter(expected)
    assert stream.stats().batches == steps
    stream.close()


@pytest.fixture(scope="module")
def large_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with large/: two row groups that a dataset may cut, ids 0, 1, 2 …"""
    root = tmp_path_factory.mktemp("large")
    (root / "large").mkdir()
    table = pa.table({"id": np.arange(2 * LARGE_ROWS)})
    pq.write_table(table, root / "large" / "part.parquet", row_group_size=LARGE_ROWS)
    return root


LARGE_ROWS = 300_000
CUT = Dataset(
    source=parquet("large"),
    where="id < 10240 OR id >= 595904",
    features=[Sparse("id")],
    max_split_bytes=1 << 20,
)
CUT_IDS = [*range(10_240), *range(595_904, 600_000)]


@pytest.fixture
def open_cut(large_root: Path, tmp_path: Path, start_server: Start) -> Iterator[Open]:
    """Makes streams of row groups that are cut, each in batches of 1024 rows that pass."""
    server = start_server(data_root=(large_root,))
    with contextlib.ExitStack() as streams:

        def make(**options: Any) -> BatchStream:
            defaults: dict[str, Any] = {
                "target": f"static:///{server.address}",
                "batch_size": 1024,
                "count": "exact",
                "snapshot_dir": tmp_path / "snapshots",
                "timeout": 20.0,
            }
            return streams.enter_context(BatchStream(CUT, **(defaults | options)))

        yield make


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("world_size", [1, 3])
def test_row_groups_that_are_cut(open_cut: Open, num_shards: int, world_size: int) -> None:
    streams = [
        open_cut(num_shards=num_shards, rank=rank, world_size=world_size, uneven="none")
        for rank in range(world_size)
    ]
    assert streams[0].row_count() == len(CUT_IDS)
    assert sorted(itertools.chain.from_iterable(map(ids, streams))) == CUT_IDS
    assert [stream.stats().batches for stream in streams] == [len(stream) for stream in streams]


@pytest.mark.parametrize("change", [-1024, -1, 1, 1024])
@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("window", [1, 2])
def test_wrong_counts_of_row_groups_that_are_cut(
    open_cut: Open, tmp_path: Path, change: int, num_shards: int, window: int
) -> None:
    counted = open_cut()
    len(counted)
    good = counted._session._snapshot
    assert good is not None
    message = Snapshot.from_frame(good.data).message
    message.row_group_passing_rows[0] += change
    lying = Snapshot.of(message)
    SnapshotStore(tmp_path / "snapshots").put(lying.id, lying.frame)
    stream = open_cut(snapshot=lying.id, num_shards=num_shards, shuffle_window_splits=window)
    with pytest.raises(DataError, match=r"rows pass the filter.*snapshot counted.*count again"):
        ids(stream)
