"""The servers count what passes a filter: once, together, whatever happens to one of them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes.liar import Liar
from tests.fakes.parquet import ROW_COUNT
from tests.fakes.refusal import Stub
from tests.fakes.wire import spec
from trainer_client import BatchStream, DataError, Dataset, RequestError, Sparse, parquet

Start = Callable[..., Server]
Open = Callable[..., BatchStream]
WHERE = "id BETWEEN 500 AND 8499"
PASSING = 8000


@pytest.fixture
def open_stream(tmp_path: Path) -> Iterator[Open]:
    """Makes streams of the given servers that keep their snapshots in one directory."""
    with contextlib.ExitStack() as streams:

        def make(*addresses: str, where: str = WHERE, **options: Any) -> BatchStream:
            defaults: dict[str, Any] = {
                "target": "static:///" + ",".join(addresses),
                "batch_size": 64,
                "count": "exact",
                "snapshot_dir": tmp_path / "snapshots",
                "timeout": 20.0,
            }
            dataset = Dataset(source=parquet("rows"), where=where, features=[Sparse("id")])
            return streams.enter_context(BatchStream(dataset, **(defaults | options)))

        yield make


def ids(stream: BatchStream) -> list[int]:
    found: list[int] = []
    for batch in stream:
        assert batch.sparse is not None
        found += batch.sparse["id"].values.tolist()
    return found


def test_a_server_that_dies_while_it_counts(
    dataset_root: Path, start_server: Start, open_stream: Open
) -> None:
    first = threading.Lock()
    servers: list[Liar] = []

    def ahead_of(number: int) -> Callable[[str], None]:
        def die(call: str) -> None:
            # Whichever is asked first, in the middle of its first call.
            if call == "CountRows" and first.acquire(blocking=False):
                servers[number].die()

        return die

    with contextlib.ExitStack() as fleet:
        for number in range(2):
            backend = start_server(data_root=(dataset_root,)).address
            servers.append(fleet.enter_context(Liar(backend, ahead=ahead_of(number))))
        stream = open_stream(*(server.address for server in servers))
        assert stream.row_count() == PASSING
        assert stream.stats().retries > 0
        assert sorted(ids(stream)) == list(range(500, 8500))


def test_every_server_counts(dataset_root: Path, start_server: Start, open_stream: Open) -> None:
    """A call that is under way is load: the next one goes to another server."""
    met = threading.Barrier(2, timeout=20)
    arrived = threading.Event()

    def meet(call: str) -> None:
        # The first call at each server waits for the other's.
        if call == "CountRows" and not arrived.is_set():
            met.wait()
            arrived.set()

    with contextlib.ExitStack() as fleet:
        servers = [
            fleet.enter_context(Liar(start_server(data_root=(dataset_root,)).address, ahead=meet))
            for _ in range(2)
        ]
        assert open_stream(*(server.address for server in servers)).row_count() == PASSING
        assert all(server.asked["CountRows"] for server in servers)


def test_nothing_is_counted_twice(
    dataset_root: Path, start_server: Start, open_stream: Open
) -> None:
    with Liar(start_server(data_root=(dataset_root,)).address) as server:
        stream = open_stream(server.address)
        steps = iter(stream)
        trained = [next(steps) for _ in range(3)]
        counted = server.asked["CountRows"]
        assert counted
        state = stream.state_dict()
        resumed = open_stream(server.address)
        resumed.load_state_dict(state)
        rest = ids(resumed)
        delivered = [i for b in trained if b.sparse for i in b.sparse["id"].values.tolist()]
        assert sorted(delivered + rest) == list(range(500, 8500))
        # The next epoch, and another rank that finds the snapshot pinned.
        resumed.set_epoch(1)
        assert len(ids(resumed)) == PASSING
        assert open_stream(server.address, rank=1, world_size=2).row_count() == PASSING
        assert server.asked["CountRows"] == counted


def test_counts_of_another_filter_are_not_taken(
    dataset_root: Path, start_server: Start, open_stream: Open
) -> None:
    address = start_server(data_root=(dataset_root,)).address
    counted = open_stream(address)
    assert counted.row_count() == PASSING
    other = "id < 100"
    assert open_stream(address, where=other).row_count() == 100
    snapshot = counted.state_dict()["snapshot"]
    assert open_stream(address, where=other, count=None, snapshot=snapshot).row_count() is None
    with pytest.raises(
        RequestError, match=r"counts the rows of another filter, 'id BETWEEN 500 AND 8499'"
    ):
        len(open_stream(address, where=other, snapshot=snapshot))


def test_a_file_that_changed_is_not_counted(root: Path, stub: Stub) -> None:
    request = pb.DescribeDatasetRequest(dataset=spec(WHERE))
    snapshot_id = stub.DescribeDataset(request).snapshot_id
    os.utime(root / "rows" / "part-1.parquet", ns=(1, 1))
    with pytest.raises(grpc.RpcError, match=r"part-1\.parquet.* has changed since") as caught:
        stub.CountRows(pb.CountRowsRequest(dataset=spec(WHERE), snapshot_id=snapshot_id))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_an_error_while_counting_says_where(
    root: Path, start_server: Start, open_stream: Open
) -> None:
    address = start_server(data_root=(root,)).address
    snapshot = open_stream(address, count=None)
    assert snapshot.row_count() is None
    (root / "rows" / "part-2.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"part-2\.parquet"):
        open_stream(address).row_count()


def test_a_bar_for_people_who_watch(
    dataset_root: Path,
    start_server: Start,
    open_stream: Open,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address = start_server(data_root=(dataset_root,)).address
    assert open_stream(address).row_count() == PASSING
    assert "counting rows" not in capfd.readouterr().err
    master, slave = os.openpty()
    shown = bytearray()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while seen := os.read(master, 1 << 16):
                shown.extend(seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        assert open_stream(address, where="id >= 0").row_count() == ROW_COUNT
    watcher.join(20)
    os.close(master)
    assert b"counting rows, by row group" in shown
    assert b"100%" in shown
