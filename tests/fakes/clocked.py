"""A fleet without sockets or time: the scripted servers of FakeFleet, called as gRPC would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import grpc
import xxhash
from google.protobuf.message import Message

from headrace.v1 import preprocessor_service_pb2 as pb2
from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet, Servicer
from trainer_client import decode
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.errors import HeadraceError, ServerUnavailableError
from trainer_client.header import end_checksum
from trainer_client.payload import ACCEPTED_CODECS
from trainer_client.telemetry import Meter
from trainer_client.transport.calls import Connection, Snapshot
from trainer_client.transport.channels import CHECKSUM_KEY
from trainer_client.transport.placement import Placement
from trainer_client.transport.retry import Attempts
from trainer_client.transport.shard_stream import Codec, Job, ShardStream


class Clock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Failed(grpc.RpcError, grpc.Call):
    """What a call ends with."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        super().__init__(details)
        self._end = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._end[0]

    def details(self) -> str:
        return self._end[1]

    def trailing_metadata(self) -> Any:
        return self._end[2]

    def initial_metadata(self) -> Any:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, _callback: Callable[[], None]) -> bool:
        return False


class Call:
    """A call from both sides: the client's iterator, and the server's context."""

    def __init__(self, fleet: ClockedFleet, address: str, request: Any) -> None:
        self._fleet = fleet
        self._address = address
        self._left: Callable[[], None] | None = None
        self._stalled = False
        self._checksum = ""
        self.patience_s = 0.0
        self._responses = fleet.servicers[address].StreamBatches(request, self)  # type: ignore[arg-type]

    def __next__(self) -> bytes:
        if self._address not in self._fleet.alive:
            raise Failed(grpc.StatusCode.UNAVAILABLE, "connection refused")
        response: Message | None = next(self._responses, None)
        if self._stalled:
            # As StallGuard does after that time.
            self._fleet.clock.now += self.patience_s
            raise Failed(grpc.StatusCode.CANCELLED, "silent for too long")
        if response is None:
            raise StopIteration
        data = response.SerializeToString()
        self._checksum = self._checksum or xxhash.xxh64_hexdigest(data)
        return data

    def initial_metadata(self) -> Sequence[tuple[str, str]]:
        return ((CHECKSUM_KEY, self._checksum),)

    def cancel(self) -> bool:
        self._responses.close()  # type: ignore[attr-defined] # it is a generator
        left, self._left = self._left, None
        if left is not None:
            left()
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._left is None:
            self._left = callback
        else:
            # The server waits for the client to go away.
            self._stalled = True
            callback()
        return True

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise Failed(code, details)

    def abort_with_status(self, status: Any) -> NoReturn:
        raise Failed(status.code, status.details, status.trailing_metadata)


class _Pool:
    def __init__(self, fleet: ClockedFleet) -> None:
        self._fleet = fleet

    def stream_batches(self, address: str, request: Any) -> Call:
        return Call(self._fleet, address, request)

    def ask(self, address: str, method: str, request: Any, _timeout_s: float) -> Any:
        if address not in self._fleet.alive:
            raise Failed(grpc.StatusCode.UNAVAILABLE, "connection refused")
        return getattr(self._fleet.servicers[address], method)(request, None)

    def close(self) -> None:
        """Holds nothing."""


class _Pause:
    """An event that never comes about, and time that passes meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def wait(self, seconds: float) -> bool:
        self._clock.now += seconds
        return False

    def is_set(self) -> bool:
        return False


class _Connection(Connection):
    def __init__(self, fleet: ClockedFleet, timeout_s: float) -> None:
        super().__init__(fleet, timeout_s=timeout_s, meter=Meter())
        self._clock = fleet.clock
        self.placement = Placement(fleet.clock)
        self.pool: Any = _Pool(fleet)
        self.diagnosis: Any = _NoDiagnosis()
        self.closed: Any = _Pause(fleet.clock)

    def attempts(self, what: str, key: bytes, avoid: str = "") -> Attempts:
        return Attempts(
            *(self.fleet, self.placement, what),
            key=key,
            timeout_s=self.timeout_s,
            avoid=avoid,
            clock=self._clock,
        )


class _NoDiagnosis:
    """There is no network here to look at."""

    def answered(self, _address: str) -> None:
        """Takes no notice."""

    def of(self, error: HeadraceError) -> HeadraceError:
        return error


class _Guard:
    @contextlib.contextmanager
    def limit(self, call: Call, seconds: float) -> Iterator[None]:
        """Tells the call how long it may be silent."""
        call.patience_s = seconds
        yield


class ClockedFleet:
    """Servers by address: listed are those that the target names, alive those that answer.

    script says what goes wrong, as FakeFleet's does; streams_open counts the calls that are open.
    """

    def __init__(self, data: FakeData, count: int, timeout_s: float) -> None:
        self.data = data
        self.clock = Clock()
        self._scripted = FakeFleet(data, 0)
        self.script = self._scripted.script
        self.servicers: dict[str, Servicer] = {}
        self.listed: set[str] = set()
        self.alive: set[str] = set()
        for _ in range(count):
            self.come()
        self.connection = _Connection(self, timeout_s)
        name, content = data.snapshot()
        self.job: Job[Batch] = Job(
            self.connection,
            _Guard(),  # type: ignore[arg-type]
            dataset=pb2.StreamBatchesRequest().dataset,
            snapshot=Snapshot(name, content),
            identity=pb2.BatchIdentity(
                batch_size=data.batch_size,
                num_shards=len(data.shards),
                shuffle_window_splits=1,
                encoding_version=1,
            ),
            codec=Codec(
                accepted=ACCEPTED_CODECS,
                decoder=decode.Decoders(),
                end_checksum=end_checksum,
            ),
        )

    @property
    def streams_open(self) -> int:
        return self._scripted.live_streams

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """Nobody is told: threads ask."""

    def addresses(self) -> list[str]:
        """Those that are listed, as a Fleet gives them."""
        if not self.listed:
            raise ServerUnavailableError("the name does not resolve", server="dns:///x:1")
        return sorted(self.listed)

    def close(self) -> None:
        """Holds nothing."""

    def come(self) -> None:
        """A new server, which knows no snapshot."""
        number = len(self.servicers)
        self._scripted.known_snapshots.append(set())
        address = f"10.0.0.{number}:1"
        self.servicers[address] = Servicer(self._scripted, number)
        self.listed.add(address)
        self.alive.add(address)

    def forget_snapshots(self) -> None:
        """As servers do that have too many."""
        for known in self._scripted.known_snapshots:
            known.clear()

    def open(self, shard: int, start: Cursor | int, count: int | None) -> ShardStream[Batch]:
        """A stream of a shard, as EpochReader opens it."""
        splits = [
            pb2.Split(file=shard, row_group=i, row_count=n)
            for i, n in enumerate(self.data.shards[shard])
        ]
        return ShardStream(self.job, shard, splits, start, count)
