"""The laws as a trainer sees them: BatchStream on real servers, real Parquet."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from preprocessor_server.server import Server
from tests.fakes.parquet import make_table, write_dataset
from tests.integration.test_server_epoch import FILTERS, expected_ids
from trainer_client import (
    Batch,
    BatchStream,
    Dataset,
    Dense,
    Label,
    RequestError,
    ServerUnavailableError,
    Sparse,
    StateMismatchError,
    ops,
    parquet,
)

Start = Callable[..., Server]


def rows_dataset(where: str = "") -> Dataset:
    return Dataset(
        source=parquet("rows", group_by=["request"]),
        where=where,
        features=[
            Dense("dense", "price", ops=[ops.FillNull(0.0), ops.Log1p()]),
            Sparse("id"),
            Sparse("seq", ops=[ops.Tail(5), ops.HashBucket(1000)]),
            Sparse("city", ops=[ops.HashBucket(100)]),
            Sparse("tags", ops=[ops.Sample(1, seed=1), ops.HashBucket(100)]),
            Label("label"),
        ],
    )


def target(servers: Sequence[Server]) -> str:
    return "static:///" + ",".join(server.address for server in servers)


def fingerprint(batch: Batch) -> str:
    """A hash of everything that reaches the trainer, and of where the batch stands."""
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.labels is not None
    digest = hashlib.sha256(repr((batch.shard, batch.index, batch.next_cursor)).encode())
    tensors = (batch.dense, batch.labels, batch.sparse.values, batch.sparse.lengths)
    for tensor in tensors:
        digest.update(str(tensor.dtype).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def ids_of(batch: Batch) -> list[int]:
    assert batch.sparse is not None
    found: list[int] = batch.sparse["id"].values.tolist()
    return found


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "rows")
    return tmp_path


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_the_same_from_1_2_and_4_servers_with_every_row_once(
    start_server: Start, dataset_root: Path, where: str, shuffle: bool
) -> None:
    epochs = []
    for count in (1, 2, 4):
        servers = [start_server(data_root=(dataset_root,)) for _ in range(count)]
        with BatchStream(
            rows_dataset(where), target=target(servers), batch_size=256, shuffle=shuffle, seed=5
        ) as stream:
            batches = list(stream)
            assert sorted(i for b in batches for i in ids_of(b)) == expected_ids(
                dataset_root, where
            )
            epochs.append([fingerprint(batch) for batch in batches])
            assert stream.stats().rows == sum(batch.batch_size for batch in batches)
    assert epochs[0] == epochs[1] == epochs[2]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("interleave", [1, 4])
def test_restoring_at_every_batch_gives_the_identical_rest(
    start_server: Start, dataset_root: Path, where: str, shuffle: bool, interleave: int
) -> None:
    servers = [start_server(data_root=(dataset_root,)) for _ in range(2)]
    common = {
        "target": target(servers),
        "batch_size": 700,
        "shuffle": shuffle,
        "num_shards": 3,
        "interleave": interleave,
    }
    with BatchStream(rows_dataset(where), **common) as stream:  # type: ignore[arg-type]
        start = json.dumps(stream.state_dict())
        whole, states = [], [start]
        for batch in stream:
            whole.append(fingerprint(batch))
            states.append(json.dumps(stream.state_dict(batch)))
        following = [fingerprint(batch) for batch in stream]
    with BatchStream(rows_dataset(where), **common) as stream:  # type: ignore[arg-type]
        for i, state in enumerate(states[:-1]):
            stream.load_state_dict(json.loads(state))
            assert [fingerprint(batch) for batch in stream] == whole[i:]
        stream.load_state_dict(json.loads(states[-1]))
        rest = [fingerprint(batch) for batch in stream]
        if where:
            # Only the server can tell that no further row passes the filter.
            assert rest == []
            rest = [fingerprint(batch) for batch in stream]
        assert rest == following


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_an_epoch_in_equal_steps(
    start_server: Start, dataset_root: Path, world_size: int
) -> None:
    server = start_server(data_root=(dataset_root,))
    seen: list[int] = []
    steps, left_out = set(), set()
    for rank in range(world_size):
        with BatchStream(
            rows_dataset(),
            target=target([server]),
            batch_size=300,
            num_shards=3,
            rank=rank,
            world_size=world_size,
            snapshot_dir=dataset_root / f"snapshots-{world_size}",
        ) as stream:
            batches = list(stream)
            assert len(stream) == len(batches)
            steps.add(len(batches))
            left_out.add(stream.stats().left_out_batches)
            seen += [i for batch in batches for i in ids_of(batch)]
    assert len(steps) == 1
    assert len(left_out) == 1
    assert left_out.pop() < world_size
    assert len(seen) == len(set(seen))
    assert len(seen) > 10_000 - 300 * world_size


def test_ranks_without_known_counts_share_every_row(
    start_server: Start, dataset_root: Path
) -> None:
    server = start_server(data_root=(dataset_root,))
    seen: list[int] = []
    for rank in range(2):
        with BatchStream(
            rows_dataset(FILTERS[1]),
            target=target([server]),
            batch_size=300,
            num_shards=5,
            rank=rank,
            world_size=2,
            snapshot_dir=dataset_root / "snapshots-unknown",
        ) as stream:
            with pytest.warns(UserWarning, match="unknown"):
                batches = list(stream)
            seen += [i for batch in batches for i in ids_of(batch)]
            with pytest.raises(TypeError, match="filter"):
                len(stream)
    assert sorted(seen) == expected_ids(dataset_root, FILTERS[1])


def test_later_epochs_keep_the_snapshot_until_it_is_refreshed(
    start_server: Start, small_root: Path
) -> None:
    server = start_server(data_root=(small_root,))
    with BatchStream(rows_dataset(), target=target([server]), batch_size=500) as stream:
        assert sum(batch.batch_size for batch in stream) == 10_000
        pq.write_table(make_table(1_000), small_root / "rows" / "part-9.parquet")
        assert sum(batch.batch_size for batch in stream) == 10_000
        stream.refresh_snapshot()
        assert sum(batch.batch_size for batch in stream) == 11_000


def test_a_resume_keeps_the_snapshot_of_its_state_on_a_server_that_never_saw_it(
    start_server: Start, small_root: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "checkpoints"
    with BatchStream(
        rows_dataset(),
        target=target([start_server(data_root=(small_root,))]),
        batch_size=500,
        snapshot_dir=kept,
    ) as stream:
        batches = list(stream)
        state = stream.state_dict(batches[3])
    pq.write_table(make_table(1_000), small_root / "rows" / "part-9.parquet")
    with BatchStream(
        rows_dataset(),
        target=target([start_server(data_root=(small_root,))]),
        batch_size=500,
        snapshot_dir=kept,
    ) as stream:
        stream.load_state_dict(state)
        assert [fingerprint(b) for b in stream] == [fingerprint(b) for b in batches[4:]]


def test_a_file_replaced_before_a_resume_is_named(
    start_server: Start, small_root: Path, tmp_path: Path
) -> None:
    server = start_server(data_root=(small_root,))
    common = {"target": target([server]), "batch_size": 500, "snapshot_dir": tmp_path / "kept"}
    with BatchStream(rows_dataset(), **common) as stream:  # type: ignore[arg-type]
        state = stream.state_dict(next(iter(stream)))
    pq.write_table(make_table(1_000, seed=1), small_root / "rows" / "part-1.parquet")
    with BatchStream(rows_dataset(), **common) as stream:  # type: ignore[arg-type]
        stream.load_state_dict(state)
        with pytest.raises(Exception, match=r"part-1\.parquet.*changed"):
            list(stream)


def test_a_state_of_another_identity_names_the_field_and_both_values(
    start_server: Start, dataset_root: Path
) -> None:
    server = start_server(data_root=(dataset_root,))
    with BatchStream(rows_dataset(), target=target([server]), batch_size=500) as stream:
        state = stream.state_dict(next(iter(stream)))
    other = copy.deepcopy(state)
    with (
        BatchStream(rows_dataset(), target=target([server]), batch_size=400) as stream,
        pytest.raises(StateMismatchError, match=r"batch_size.*500.*400|batch_size.*400.*500"),
    ):
        stream.load_state_dict(other)


def test_nobody_listens() -> None:
    with (
        BatchStream(
            rows_dataset(), target="static:///127.0.0.1:1,127.0.0.1:2", batch_size=500, timeout=2.0
        ) as stream,
        pytest.raises(TimeoutError) as caught,
    ):
        next(iter(stream))
    for address in ("127.0.0.1:1", "127.0.0.1:2"):
        assert address in str(caught.value)


def test_an_epoch_goes_on_when_a_server_is_stopped(start_server: Start, dataset_root: Path) -> None:
    servers = [start_server(data_root=(dataset_root,)) for _ in range(2)]
    with BatchStream(rows_dataset(), target=target(servers), batch_size=128, seed=1) as stream:
        whole = [fingerprint(batch) for batch in stream]
    with BatchStream(
        rows_dataset(), target=target(servers), batch_size=128, seed=1, prefetch_factor=1
    ) as stream:
        got = []
        for i, batch in enumerate(stream):
            got.append(fingerprint(batch))
            if i == 5:
                servers[0].stop()
        assert got == whole
        assert stream.stats().rows == 10_000


@pytest.mark.parametrize("batch_size", [0, -1, (1 << 20) + 1])
def test_wrong_batch_size_is_named_at_once(batch_size: int) -> None:
    with pytest.raises(RequestError, match="batch_size"):
        BatchStream(rows_dataset(), target="static:///127.0.0.1:1", batch_size=batch_size)


def test_errors_of_servers_reach_the_trainer_whole(start_server: Start, dataset_root: Path) -> None:
    server = start_server(data_root=(dataset_root,))
    dataset = Dataset(source=parquet("rows"), features=[Dense("pric")])
    with (
        BatchStream(dataset, target=target([server]), batch_size=10) as stream,
        pytest.raises(ValueError, match="price") as caught,
    ):
        next(iter(stream))
    assert not isinstance(caught.value, ServerUnavailableError)
    assert "FEATURE_UNMATCHED" in str(caught.value)
