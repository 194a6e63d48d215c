"""Streams whose batches are received, decoded and expanded in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes import liar
from tests.fakes.parquet import ROW_COUNT, make_table, write_dataset
from tests.fakes.process import python_environment
from tests.fakes.waiting import wait_until
from tests.integration.test_stream_laws import fingerprint, ids_of
from trainer_client import (
    Batch,
    BatchStream,
    DataError,
    Dataset,
    Dense,
    DeploymentError,
    Label,
    RequestError,
    Sparse,
    StreamClosedError,
    StreamTimeoutError,
    parquet,
)
from trainer_client.cursor import Cursor
from trainer_client.decode import Decoders
from trainer_client.header import end_checksum
from trainer_client.payload import ACCEPTED_CODECS
from trainer_client.read_ahead import ReadAhead, SegmentRead
from trainer_client.reader_process.parent import LEFT_TO_TRAINER, ReaderProcess
from trainer_client.reader_process.process_prefetcher import ProcessPrefetcher
from trainer_client.telemetry import Meter
from trainer_client.transport import planner
from trainer_client.transport.calls import Connection
from trainer_client.transport.shard_stream import Codec, Job

Start = Callable[..., Server]
Response = pb.StreamBatchesResponse
DATASET = Dataset(
    source=parquet("rows", group_by=["request"]),
    features=[Dense("price"), Sparse("id", "history"), Label("label")],
)
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which each request has the same history."""
    root = tmp_path_factory.mktemp("data")
    table = make_table()
    requests = table["request"].to_numpy()
    rng = np.random.default_rng(1)
    histories = rng.integers(0, 2**40, (requests.max() + 1, 30))
    lists = pa.array(list(histories[requests]), pa.list_(pa.int64()))
    write_dataset(root / "rows", table.append_column("history", lists))
    return root


@pytest.fixture
def address(start_server: Start, dataset_root: Path) -> str:
    return start_server(data_root=(dataset_root,)).address


def stream_of(*addresses: str, **options: Any) -> BatchStream:
    chosen = {"batch_size": 256, "num_shards": 6, "reader_process": True, "timeout": 20.0}
    return BatchStream(DATASET, target="static:///" + ",".join(addresses), **(chosen | options))


def readers() -> list[int]:
    """The reader processes of this one."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for each in found for pid in each.read_text().split()]
    return [pid for pid in pids if b"trainer_client.reader_process" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def parts(batch: Batch) -> list[tuple[str, ...]]:
    assert batch.sparse is not None
    return [part.keys for part in batch.sparse.deduplicated.parts]


@pytest.mark.parametrize("expand", [False, True])
def test_batches_are_those_of_reading_threads_and_stay_as_they_are(
    address: str, expand: bool
) -> None:
    with (
        stream_of(address, expand=expand) as beside,
        stream_of(address, expand=expand, reader_process=False) as within,
    ):
        for _ in range(2):
            kept, others = list(beside), list(within)
            assert [fingerprint(batch) for batch in kept] == [fingerprint(b) for b in others]
            assert [parts(batch) for batch in kept] == [parts(batch) for batch in others]
            assert [batch.nbytes for batch in kept] == [batch.nbytes for batch in others]
            assert {len(parts(batch)) for batch in kept} == {2}
        counted, expected = beside.stats(), within.stats()
        for name in ("rows", "batches", "wire_bytes", "arena_bytes", "servers"):
            assert getattr(counted, name) == getattr(expected, name)
        assert counted.rows == 2 * ROW_COUNT
        loop = beside.explain().situation.loop
        assert counted.batches / 2 <= loop.messages[address] <= counted.batches
        assert loop.decoding_cpu_s > 0
        (pid,) = readers()
    assert not Path(f"/proc/{pid}").exists()
    # They outlive the process that made them.
    assert [fingerprint(batch) for batch in kept] == [fingerprint(batch) for batch in others]


def test_a_killed_reader_process_is_named_and_another_one_goes_on(address: str) -> None:
    with stream_of(address, reader_process=False) as stream:
        whole = [fingerprint(batch) for batch in stream]
    with stream_of(address) as stream:
        batches, seen = iter(stream), []
        seen += [fingerprint(next(batches)) for _ in range(3)]
        (pid,) = readers()
        for number in LEFT_TO_TRAINER:
            os.kill(pid, number)
        seen += [fingerprint(next(batches)) for _ in range(2)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DeploymentError, match=f"pid {pid}.*SIGKILL.*load_state_dict") as caught:
            seen.extend(map(fingerprint, batches))
        assert "prefetch_bytes" in str(caught.value)
        stream.load_state_dict(stream.state_dict())
        seen += [fingerprint(batch) for batch in stream]
        assert seen == whole
        assert readers() != [pid]


def test_a_reader_process_that_starts_leaves_signals_of_a_job_to_the_trainer() -> None:
    process = ReaderProcess()
    try:
        for number in LEFT_TO_TRAINER:
            os.kill(process.pid, number)
        wait_until(lambda: b"trainer_client.reader_process" in command(process.pid))
        process._wait_until_ready()
        # Whatever else ends it is named.
        os.kill(process.pid, signal.SIGRTMIN + 3)
        process._process.wait(LIMIT_S)
        with pytest.raises(DeploymentError, match=f"was ended by signal {signal.SIGRTMIN + 3}. To"):
            process.receive(lambda: False, LIMIT_S)
    finally:
        process.close()


def test_signal_handlers_may_ask_a_stream_for_anything(address: str) -> None:
    asked, asks = 0, True
    with (
        stream_of(address, batch_size=32) as stream,
        stream_of(address, batch_size=32, reader_process=False) as within,
    ):

        def handle(*_: object) -> None:
            nonlocal asked
            asked += 1
            stream.stats()
            if asks:
                signal.setitimer(signal.ITIMER_REAL, 0.001)

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            seen = [fingerprint(batch) for _ in range(6) for batch in stream]
        finally:
            asks = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert seen == [fingerprint(batch) for _ in range(6) for batch in within]
    assert asked > 100


def test_closing_in_a_signal_handler_while_it_starts_leaves_nothing(address: str) -> None:
    stream = stream_of(address)
    before = signal.signal(signal.SIGALRM, lambda *_: stream.close())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(StreamClosedError):
            next(iter(stream))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert readers() == []


def test_a_new_iterator_in_another_thread_closes_one_that_waits(address: str) -> None:
    held = Held()
    held.go.clear()
    with liar.Liar(address, held) as silent, stream_of(silent.address) as stream:
        ended: list[str] = []

        def wait() -> None:
            try:
                next(iter(stream))
            except StreamClosedError as error:
                ended.append(str(error))

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert held.waiting.wait(LIMIT_S)
        batches = iter(stream)
        waiting.join(LIMIT_S)
        assert len(ended) == 1
        held.go.set()
        assert sum(batch.batch_size for batch in batches) == ROW_COUNT


def test_a_reader_process_that_cannot_start_says_so(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "numba.py").write_text('raise RuntimeError("this install is broken")')
    monkeypatch.syspath_prepend(tmp_path)
    with (
        stream_of(address) as stream,
        pytest.raises(DeploymentError, match="ended with exit status 1: what it wrote to stderr"),
    ):
        next(iter(stream))
    assert "RuntimeError: this install is broken" in capfd.readouterr().err


def test_errors_of_servers_and_of_decoding_keep_what_they_say(
    start_server: Start, tmp_path: Path
) -> None:
    dataset = Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")])
    write_dataset(tmp_path / "rows")
    server = start_server(data_root=(tmp_path,))
    options: dict[str, Any] = {"batch_size": 256, "reader_process": True, "timeout": 20.0}
    with BatchStream(dataset, target=f"static:///{server.address}", **options) as stream:
        assert len(stream) > 1
        write_dataset(tmp_path / "rows", make_table(seed=1))
        with pytest.raises(DataError, match=r"part-\d.parquet") as caught:
            list(stream)
        assert caught.value.reason == "SNAPSHOT_CHANGED"
        assert caught.value.server == server.address
        assert "In the reader process:\nTraceback" in caught.value.__notes__[0]
    with (
        liar.Liar(server.address, liar.has_another_version) as lying,
        BatchStream(dataset, target=f"static:///{lying.address}", **options) as stream,
        pytest.raises(DeploymentError, match=r"encoding version 99.*upgrade the older"),
    ):
        list(stream)


def test_what_is_tried_elsewhere_is_counted(address: str) -> None:
    with (
        stream_of(address, reader_process=False) as within,
        liar.Liar(address, liar.falls_silent) as lying,
        stream_of(lying.address) as stream,
    ):
        assert [fingerprint(batch) for batch in stream] == [fingerprint(batch) for batch in within]
        assert stream.stats().retries >= lying.lies - 6 > 0


class Held:
    """A lie that is none, but for messages that wait while they are told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.waiting = threading.Event()

    def __call__(self, messages: Iterator[Response]) -> Iterator[Response]:
        for message in messages:
            if not self.go.is_set():
                self.waiting.set()
                self.go.wait(LIMIT_S)
            yield message


def test_a_server_that_holds_up_the_others_is_raced_with(address: str) -> None:
    held = Held()
    with (
        liar.Liar(address, held) as slow,
        stream_of(
            address, slow.address, hedge=True, batch_size=32, interleave=2, num_shards=24
        ) as stream,
        stream_of(
            address, reader_process=False, batch_size=32, interleave=2, num_shards=24
        ) as all_,
    ):
        seen = []
        for number, batch in enumerate(stream):
            if number == 100:
                held.go.clear()
            seen.append(fingerprint(batch))
        held.go.set()
        assert seen == [fingerprint(batch) for batch in all_]
        assert held.waiting.is_set()
        counted = stream.stats()
        assert counted.hedges >= counted.hedges_won > 0


def test_closing_from_another_thread_ends_the_wait(address: str) -> None:
    held = Held()
    held.go.clear()
    with liar.Liar(address, held) as silent:
        stream = stream_of(silent.address)

        def close() -> None:
            held.waiting.wait(LIMIT_S)
            stream.close()

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(StreamClosedError, match="closed"):
            next(iter(stream))
        closer.join(LIMIT_S)
        assert readers() == []
        held.go.set()


def test_an_interrupt_leaves_a_stream_that_can_be_used(address: str) -> None:
    held = Held()
    held.go.clear()
    with liar.Liar(address, held) as silent, stream_of(silent.address) as stream:

        def interrupt() -> None:
            held.waiting.wait(LIMIT_S)
            wait_until(lambda: stream._session._process is not None)
            process = stream._session._process
            assert process is not None
            wait_until(lambda: process._waiting > 0)
            # Somebody else who looks takes nothing away from who waits.
            assert stream.stats().rows == 0
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            next(iter(stream))
        interrupter.join(LIMIT_S)
        held.go.set()
        (pid,) = readers()
        process = stream._session._process
        assert process is not None
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT
        assert readers() == [pid]
        # In the middle of a message nobody knows where the next one begins: another process reads.
        batches = iter(stream)
        next(batches)
        with pytest.raises(KeyboardInterrupt), process.whole():
            raise KeyboardInterrupt
        with pytest.raises(StreamClosedError, match=r"interrupted.*iterate anew"):
            list(batches)
        stream.set_epoch(3)
        assert sum(batch.batch_size for batch in stream) == ROW_COUNT
        assert readers() != [pid]


def drain(reads: ProcessPrefetcher) -> None:
    for segment in reads._segments:
        while reads.take(segment, 0.2) is not None:
            continue


def test_a_stopped_reader_process_is_not_waited_for_without_end(address: str) -> None:
    with stream_of(address) as stream:
        batches = iter(stream)
        next(batches)
        (pid,) = readers()
        os.kill(pid, signal.SIGSTOP)
        process = stream._session._process
        assert process is not None
        reads = process._reads
        assert reads is not None
        with pytest.raises(StreamTimeoutError, match=f"pid {pid}.*may be stopped"):
            drain(reads)
    assert readers() == []


class Moving:
    """A fleet that is told where it is."""

    def __init__(self, address: str) -> None:
        self.now = [address]
        self.changed: Callable[[list[str]], None] = lambda _: None

    def addresses(self) -> list[str]:
        return self.now

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        self.changed = changed

    def move(self, address: str) -> None:
        self.now = [address]
        self.changed(self.now)

    def close(self) -> None:
        """Holds nothing."""


def test_a_fleet_that_moves_is_followed(start_server: Start, dataset_root: Path) -> None:
    first, second = (start_server(data_root=(dataset_root,)) for _ in range(2))
    fleet = Moving(first.address)
    connection = Connection(fleet, timeout_s=LIMIT_S, meter=Meter())
    spec = DATASET.to_proto()
    snapshot = planner.describe(connection, spec, DATASET.source.paths)
    asked = connection, spec, snapshot
    identity = pb.BatchIdentity(batch_size=64, num_shards=1, encoding_version=1)
    identity = planner.plan(*asked, identity).identity
    splits = planner.splits(*asked, identity, {0})
    process = ReaderProcess()
    try:
        codec = Codec(ACCEPTED_CODECS, Decoders(), end_checksum)
        guard: Any = None
        job = Job(connection, guard, spec, snapshot, identity, codec)
        segment = SegmentRead(0, 0, splits[0], Cursor(), None)
        reads = process.read(job, ReadAhead([segment], 1, 1 << 20, 1), expand=False)
        found = [reads.take(0, LIMIT_S)]
        first.stop()
        # Nobody takes anything meanwhile.
        fleet.move(second.address)
        while found[-1] is not None:
            found.append(reads.take(0, LIMIT_S))
        ids = [i for each in found[:-1] if each for i in ids_of(each.value)]
        assert sorted(ids) == list(range(ROW_COUNT))
        assert {each.server for each in found if each} == {first.address, second.address}
    finally:
        process.close()
        connection.close()


TRAINER = """
import os, signal, sys
from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

dataset = Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")])
stream = BatchStream(dataset, target=sys.argv[1], batch_size=64, reader_process=True)
next(iter(stream))
(pid,) = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()
forked = os.fork()
if not forked:
    signal.pause()
print(pid, forked, flush=True)
signal.pause()
"""


def test_it_ends_with_a_trainer_that_was_killed_though_a_fork_of_it_lives(address: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, f"static:///{address}"],
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(),
    ) as trainer:
        assert trainer.stdout is not None
        reader, forked = map(int, trainer.stdout.readline().split())
        try:
            assert b"trainer_client.reader_process" in command(reader)
            trainer.kill()
            trainer.wait(LIMIT_S)
            wait_until(lambda: not command(reader))
            assert command(forked)
        finally:
            os.kill(forked, signal.SIGKILL)


def test_memory_that_a_gpu_locks_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    with pytest.raises(RequestError, match=r"pin_memory=True with reader_process=True.*leave one"):
        stream_of("127.0.0.1:1", pin_memory=True)
    with pytest.raises(RequestError, match="reader_process is 1: it must be True or False"):
        stream_of("127.0.0.1:1", reader_process=1)
