"""The batches of one segment, from whichever servers it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import grpc

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2
from headrace.v1.preprocessor_service_pb2 import BatchIdentity
from trainer_client.cursor import Cursor
from trainer_client.errors import (
    CorruptBatchError,
    DeploymentError,
    HeadraceError,
    ServerUnavailableError,
    StreamClosedError,
    from_rpc_error,
)
from trainer_client.loop_clock import Lane
from trainer_client.transport.calls import Connection, Snapshot
from trainer_client.transport.channels import check_announced
from trainer_client.transport.identity import difference
from trainer_client.transport.stall import StallGuard
from trainer_client.transport.wire import Response, read_response


class Positioned(Protocol):
    """A batch that knows where it lies in its shard."""

    @property
    def shard(self) -> int:
        """The shard that its rows belong to."""

    @property
    def index(self) -> int:
        """The batches before it in its shard."""

    @property
    def cursor(self) -> Cursor:
        """The position before its first row."""

    @property
    def next_cursor(self) -> Cursor:
        """The position after its last row."""


T = TypeVar("T", bound=Positioned)


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How messages are checked and decoded: given from outside, the transport decodes nothing.

    decoder checks the schema of a stream and gives what decodes its batches, each an encoded
    CompactBatch; that raises CorruptBatchError for damaged bytes.
    """

    accepted: Sequence[batch_pb2.Codec]
    decoder: Callable[[batch_pb2.BatchSchema], Callable[[bytes | memoryview], T]]
    end_checksum: Callable[[preprocessor_service_pb2.StreamEnd], int]


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """What every segment of an epoch has in common."""

    connection: Connection
    guard: StallGuard
    dataset: dataset_pb2.DatasetSpec
    snapshot: Snapshot
    identity: preprocessor_service_pb2.BatchIdentity
    codec: Codec[T]


@dataclass(slots=True)
class Fetched(Generic[T]):
    """A decoded batch, who sent it, its size on the wire in bytes, and when it was read."""

    value: T
    server: str
    wire_bytes: int
    lane: Lane = field(default_factory=Lane)


class _Place(NamedTuple):
    """How many batches a stream has given, where it goes on, and how many are left."""

    given: int
    start: Cursor | int
    left: int | None


class ShardStream(Generic[T]):
    """Iterates once over the batches of a shard; close() from any thread ends it.

    start is the cursor to go on from, or the index of the first batch; batch_count is the number
    of batches wanted, None for all to the shard's end. A cut, a drain, a stall or too much load is
    followed by another server at the last verified cursor. Raises the HeadraceError that ends the
    tries. given counts the batches that came before start, avoid is a server to be asked last.
    """

    def __init__(
        self,
        job: Job[T],
        shard: int,
        splits: Sequence[preprocessor_service_pb2.Split],
        start: Cursor | int,
        batch_count: int | None,
        given: int = 0,
        avoid: str = "",
    ) -> None:
        self._job = job
        self._shard = shard
        self._splits = splits
        # None until the server has told where the first batch lies.
        self._cursor = None if isinstance(start, int) else start
        self._batch = start if isinstance(start, int) else start.batch
        self._left = batch_count
        self._done = batch_count == 0
        self._given = given
        self._avoid = avoid
        # Where another stream would go on after what was given: it may be looked at any time.
        self._place = _Place(given, start, batch_count)
        # The server that is being waited for.
        self._asked = ""
        self._lock = threading.Lock()
        self._call: grpc.Call | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Fetched[T]]:
        connection = self._job.connection
        what = f"streaming shard {self._shard} of epoch {self._job.identity.epoch}"
        attempts = connection.attempts(what, self._key(), self._avoid)
        while not self._done:
            address = "?"
            try:
                with (
                    attempts.server() as address,
                    closing(self._read(address, attempts.patience_s)) as batches,
                ):
                    for fetched in batches:
                        attempts.progressed()
                        self._given += 1
                        assert self._cursor is not None
                        self._place = _Place(self._given, self._cursor, self._left)
                        yield fetched
                        # A batch that was taken is not held up by the wait for the next one.
                        del fetched
                        attempts.waiting()
                        if not self._done and connection.leaves(address):
                            break
                continue
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, address)
                error.__cause__ = rpc_error
            except HeadraceError as failure:
                error = failure
            if self._closed:
                raise StreamClosedError(f"{what}: the stream was closed") from error
            if isinstance(error, CorruptBatchError):
                error.server = address
                connection.meter.add(refetches=1)
            connection.recover(attempts, error, address, self._job.snapshot)

    def rival(self, given: int) -> ShardStream[T] | None:
        """Another stream from where this one stands, on another server.

        None if there is none, or if this one has given more than that many batches by now.
        """
        place, connection = self._place, self._job.connection
        if place.given != given or len(connection.fleet.addresses()) < 2:
            return None
        return ShardStream(
            self._job, self._shard, self._splits, place.start, place.left, given, self._asked
        )

    def close(self) -> None:
        """Ends the stream; idempotent."""
        with self._lock:
            self._closed = True
            call = self._call
        if call is not None:
            call.cancel()

    def _read(
        self, address: str, patience_s: Callable[[], float]
    ) -> Generator[Fetched[T], None, None]:
        """The batches that one server sends; sets _done when there are no more to come."""
        call = self._job.connection.pool.stream_batches(address, self._request())
        with self._lock:
            self._call = call
            closed = self._closed
        try:
            if closed:
                raise StreamClosedError("the stream was closed")
            decode: Callable[[bytes | memoryview], T] | None = None
            clock, asked_s = self._job.connection.meter.clock, time.perf_counter()
            while not self._done:
                with clock.receiving(address):
                    message = self._next(call, address, patience_s())
                arrived_s = time.perf_counter()
                response = read_response(message)
                if response.schema is not None and decode is None:
                    check_announced(message, call, f"the schema from {address}", address)
                    self._job.connection.diagnosis.answered(address)
                    self._job.connection.counters.opened(address, call, arrived_s - asked_s)
                    decode = self._decoder(response, response.schema, address)
                elif response.batch is not None and decode is not None:
                    began_s, began_cpu_s = time.perf_counter(), time.thread_time()
                    value = decode(response.batch)
                    cpu_s, decoded_s = time.thread_time() - began_cpu_s, time.perf_counter()
                    lane = Lane(asked_s, arrived_s, decoded_s)
                    clock.decoded(address, decoded_s - began_s, cpu_s)
                    self._advance(value, address)
                    self._job.connection.placement.took(address)
                    fetched = Fetched(value, address, response.size, lane)
                    # Nor are the bytes that it was decoded from.
                    del message, response, value
                    yield fetched
                    del fetched
                    asked_s = time.perf_counter()
                elif response.end is not None and decode is not None:
                    self._finish(response.end, address)
                else:
                    raise DeploymentError(
                        f"{address} sent {response.kind} where the stream has no place for it: "
                        "upgrade headrace in the trainer",
                        server=address,
                    )
        finally:
            # One that has ended takes no notice; one that has not would keep a slot of the server.
            call.cancel()

    def _decoder(
        self, response: Response, schema: batch_pb2.BatchSchema, address: str
    ) -> Callable[[bytes | memoryview], T]:
        asked = self._job.snapshot.snapshot_id, self._job.identity
        other = difference(asked, (response.snapshot_id, response.identity or BatchIdentity()))
        if other:
            raise DeploymentError(
                f"{address} streams {other}: is it of another version?", server=address
            )
        try:
            return self._job.codec.decoder(schema)
        except DeploymentError as error:
            # A decoder does not know whose schema it has.
            raise DeploymentError(f"{address}: {error.message}", server=address) from error

    def _next(self, call: grpc.Call, address: str, patience_s: float) -> bytes:
        asked_s = time.monotonic()
        self._asked = address
        placement = self._job.connection.placement
        try:
            with self._job.guard.limit(call, patience_s), placement.waiting(address):
                message: bytes = next(call)  # type: ignore[call-overload] # the stubs lack that such a call iterates
                return message
        except StopIteration:
            raise ServerUnavailableError(
                f"{address} ended the stream of shard {self._shard} without a word: it was cut",
                server=address,
            ) from None
        except grpc.RpcError as error:
            silent_s = time.monotonic() - asked_s
            if silent_s < patience_s or self._closed:
                raise
            raise ServerUnavailableError(
                f"{address} sent nothing for {silent_s:.1f} s", server=address
            ) from error

    def _advance(self, batch: T, address: str) -> None:
        """Takes the position after a batch, which must be the one that was asked for."""
        starts = batch.cursor
        due = self._cursor or replace(starts, batch=self._batch)
        if (batch.shard, batch.index, starts) != (self._shard, self._batch, due):
            raise CorruptBatchError(
                f"{address} sent batch {batch.index} of shard {batch.shard} at {starts} where "
                f"batch {self._batch} of shard {self._shard} at {due} was due",
                server=address,
            )
        self._cursor = batch.next_cursor
        self._batch = self._cursor.batch
        if self._left is not None:
            self._left -= 1
            self._done = self._left == 0

    def _finish(self, end: preprocessor_service_pb2.StreamEnd, address: str) -> None:
        """Takes the end of a stream; raises what makes it go on elsewhere."""
        if self._job.codec.end_checksum(end) != end.checksum:
            raise CorruptBatchError(
                f"the end of shard {self._shard} does not match its checksum", server=address
            )
        if end.cursor.batch != self._batch:
            raise CorruptBatchError(
                f"{address} ends shard {self._shard} at {Cursor.from_proto(end.cursor)}, but "
                f"batch {self._batch} was due",
                server=address,
            )
        if end.reason == preprocessor_service_pb2.END_REASON_SHARD_END:
            if self._left is not None:
                raise DeploymentError(
                    f"{address} ended shard {self._shard} {self._left} batches before its plan "
                    "does: the servers disagree about the plan; are they of one version?",
                    server=address,
                )
            if end.cursor.split != len(self._splits):
                raise CorruptBatchError(
                    f"{address} ends shard {self._shard} in split {end.cursor.split} of "
                    f"{len(self._splits)}",
                    server=address,
                )
            self._done = True
            return
        names = {number: name for name, number in preprocessor_service_pb2.EndReason.items()}
        why = names.get(end.reason, f"reason {end.reason}")
        raise ServerUnavailableError(
            f"{address} ended the stream before the end of the shard ({why})", server=address
        )

    def _key(self) -> bytes:
        """What the choice of a server depends on, alone: its caches are of use to all clients."""
        identity = self._job.identity
        return f"{self._job.snapshot.snapshot_id} {identity.epoch} {self._shard}".encode()

    def _request(self) -> preprocessor_service_pb2.StreamBatchesRequest:
        return preprocessor_service_pb2.StreamBatchesRequest(
            dataset=self._job.dataset,
            snapshot_id=self._job.snapshot.snapshot_id,
            identity=self._job.identity,
            shard=self._shard,
            splits=self._splits,
            cursor=None if self._cursor is None else self._cursor.to_proto(),
            first_batch=self._batch if self._cursor is None else 0,
            batch_limit=self._left or 0,
            accepted_codecs=self._job.codec.accepted,
        )
