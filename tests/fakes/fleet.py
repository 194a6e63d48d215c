"""A fleet of real gRPC servers on this machine that do what a script says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from headrace.v1 import preprocessor_service_pb2 as pb2
from headrace.v1 import preprocessor_service_pb2_grpc
from tests.fakes.announcer import Announcer
from tests.fakes.encoder import encode_batch, encode_end, encode_schema, seal
from tests.fakes.epochs import FakeData, rows_of


@dataclass(frozen=True)
class Status:
    """Fails with a status, with details if reason is given."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = ""
    retry_delay_s: float | None = None
    field: str = ""


class Cut:
    """Ends the stream without a word."""


class Drain:
    """Ends the stream with StreamEnd(DRAINING)."""


class Stall:
    """Sends nothing until the fleet is closed or the client goes away."""


class DamagePayload:
    """Flips a bit of the payload."""


class DamageHeader:
    """Changes the next cursor without its checksum."""


class DamageAnswer:
    """Flips a bit of the answer to a call, or of the schema of a stream."""


class Misplace:
    """Sends, well sealed, a batch of another place."""


Fault = Status | Cut | Drain | Stall | DamagePayload | DamageHeader | Misplace


@dataclass
class Script:
    """What goes wrong, once each: faults before a batch (shard, index), and on calls by name."""

    batches: dict[tuple[int, int], list[Fault]] = field(default_factory=dict)
    calls: dict[str, list[Status | Stall | DamageAnswer]] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A stream that a client opened."""

    server: int
    shard: int
    first_batch: int
    batch_limit: int


class FakeFleet:
    """count servers on free ports, all with the same data and one script; a context manager.

    opened lists the streams in the order in which they were opened; known_snapshots is what each
    server knows.
    """

    def __init__(
        self, data: FakeData, count: int = 1, script: Script | None = None, page_shards: int = 3
    ) -> None:
        self.data = data
        self.script = script or Script()
        self.page_shards = page_shards
        self.opened: list[Opened] = []
        self.live_streams = 0
        self.changed = threading.Condition()
        self.known_snapshots: list[set[str]] = [set() for _ in range(count)]
        self.put_count = 0
        self.describe_count = 0
        self.stalled: list[threading.Event] = []
        self._servers = []
        self.addresses = []
        for number in range(count):
            announcer = Announcer(self._damages)
            server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), None, [announcer])
            preprocessor_service_pb2_grpc.add_PreprocessorServiceServicer_to_server(
                Servicer(self, number), server
            )
            self.addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            self._servers.append(server)

    @property
    def target(self) -> str:
        return "static:///" + ",".join(self.addresses)

    def number_of(self, address: str) -> int:
        return self.addresses.index(address)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> bool:
        """Whether a condition of the fleet comes true in time."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    def wait_for_streams(self, count: int) -> bool:
        """Whether the number of live streams becomes count."""
        return self.wait_for(lambda: self.live_streams == count)

    def wait_for_stall(self) -> bool:
        """Whether a scripted stall begins."""
        return self.wait_for(lambda: bool(self.stalled))

    def stop(self, number: int) -> None:
        """Stops one server at once, as a crash would."""
        self._servers[number].stop(grace=0).wait(10)

    def close(self) -> None:
        with self.changed:
            for event in self.stalled:
                event.set()
        for server in self._servers:
            server.stop(grace=0).wait(10)

    def _damages(self, call: str) -> bool:
        with self.changed:
            faults = self.script.calls.get(call)
            if not faults or not isinstance(faults[0], DamageAnswer):
                return False
            faults.pop(0)
            return True

    def __enter__(self) -> FakeFleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Servicer(preprocessor_service_pb2_grpc.PreprocessorServiceServicer):
    """One server of a FakeFleet."""

    def __init__(self, fleet: FakeFleet, number: int) -> None:
        self._fleet = fleet
        self._number = number

    def DescribeDataset(  # noqa: N802 - gRPC fixes the name
        self, request: pb2.DescribeDatasetRequest, context: grpc.ServicerContext
    ) -> pb2.DescribeDatasetResponse:
        self._act("DescribeDataset", context)
        name, data = self._fleet.data.snapshot()
        with self._fleet.changed:
            self._fleet.describe_count += 1
        self._fleet.known_snapshots[self._number].add(name)
        return pb2.DescribeDatasetResponse(
            snapshot_id=name,
            snapshot=data if request.include_snapshot else b"",
            encoding_version=self._fleet.data.encoding_version,
        )

    def PutSnapshot(  # noqa: N802 - gRPC fixes the name
        self, request: pb2.PutSnapshotRequest, context: grpc.ServicerContext
    ) -> pb2.PutSnapshotResponse:
        self._act("PutSnapshot", context)
        name, data = self._fleet.data.snapshot()
        assert request.snapshot == data
        with self._fleet.changed:
            self._fleet.put_count += 1
        self._fleet.known_snapshots[self._number].add(name)
        return pb2.PutSnapshotResponse(snapshot_id=name)

    def PlanEpoch(  # noqa: N802 - gRPC fixes the name
        self, request: pb2.PlanEpochRequest, context: grpc.ServicerContext
    ) -> pb2.PlanEpochResponse:
        self._act("PlanEpoch", context)
        self._check_snapshot(request.snapshot_id, context)
        data = self._fleet.data
        assert request.identity.batch_size == data.batch_size
        identity = pb2.BatchIdentity()
        identity.CopyFrom(request.identity)
        identity.num_shards = len(data.shards)
        identity.shuffle_window_splits = identity.shuffle_window_splits or 1
        identity.encoding_version = identity.encoding_version or data.encoding_version
        wanted = list(request.shards) or list(range(len(data.shards)))
        start = int(request.page_token or 0)
        page = wanted[start : start + self._fleet.page_shards]
        end = start + len(page)
        response = pb2.PlanEpochResponse(
            snapshot_id=request.snapshot_id,
            identity=identity,
            shards=[self._shard(s, request.omit_splits) for s in page],
            next_page_token=str(end) if end < len(wanted) else "",
            notes=data.notes,
        )
        if data.counts_known:
            counts = [data.batches_in(s) for s in range(len(data.shards))]
            response.row_count = data.row_count
            response.batch_count = sum(counts)
            response.shard_batch_counts.extend(counts)
        return response

    def StreamBatches(  # noqa: N802 - gRPC fixes the name
        self, request: pb2.StreamBatchesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb2.StreamBatchesResponse]:
        fleet, data, shard = self._fleet, self._fleet.data, request.shard
        first = request.cursor.batch if request.HasField("cursor") else request.first_batch
        with fleet.changed:
            fleet.opened.append(Opened(self._number, shard, first, request.batch_limit))
            fleet.live_streams += 1
        if not context.add_callback(self._left):
            self._left()
            return
        self._act("StreamBatches", context)
        self._check_snapshot(request.snapshot_id, context)
        assert [s.row_count for s in request.splits] == list(data.shards[shard])
        identity = request.identity
        window = identity.shuffle_window_splits
        c = request.cursor
        if request.HasField("cursor"):
            assert not request.first_batch
            assert (c.split, c.parquet_row, c.offset, c.batch) == data.cursor(shard, first, window)
        yield pb2.StreamBatchesResponse(
            schema=encode_schema(rows_of([0])), snapshot_id=request.snapshot_id, identity=identity
        )
        batches = list(data.batches(shard, identity.epoch, identity.seed))
        last = len(batches)
        if request.batch_limit:
            last = min(last, first + request.batch_limit)
        for index in range(first, last):
            batch = encode_batch(
                rows_of(batches[index]),
                shard=shard,
                index=index,
                row_count=len(batches[index]),
                cursor=data.cursor(shard, index, window),
                next_cursor=data.cursor(shard, index + 1, window),
            )
            match self._next_fault(shard, index):
                case Status() as status:
                    abort(context, status)
                case Cut():
                    return
                case Drain():
                    end = encode_end(pb2.END_REASON_DRAINING, data.cursor(shard, index, window))
                    yield pb2.StreamBatchesResponse(end=end)
                    return
                case Stall():
                    self._stall(context)
                    return
                case DamagePayload():
                    payload = bytearray(batch.payload)
                    payload[len(payload) // 2] ^= 1
                    batch.payload = bytes(payload)
                case DamageHeader():
                    batch.next_cursor.parquet_row += 1
                case Misplace():
                    batch.index += 1
                    seal(batch)
            yield pb2.StreamBatchesResponse(batch=batch)
        at_limit = last < len(batches)
        reason = pb2.END_REASON_BATCH_LIMIT if at_limit else pb2.END_REASON_SHARD_END
        end = encode_end(reason, data.cursor(shard, last, window))
        yield pb2.StreamBatchesResponse(end=end)

    def _shard(self, shard: int, omit_splits: bool) -> pb2.ShardPlan:
        data = self._fleet.data
        plan = pb2.ShardPlan(shard=shard)
        if not omit_splits:
            plan.splits.extend(
                pb2.Split(file=shard, row_group=i, row_count=n)
                for i, n in enumerate(data.shards[shard])
            )
        if data.counts_known:
            plan.row_count = data.rows_in(shard)
            plan.batch_count = data.batches_in(shard)
        return plan

    def _next_fault(self, shard: int, index: int) -> Fault | None:
        with self._fleet.changed:
            faults = self._fleet.script.batches.get((shard, index))
            return faults.pop(0) if faults else None

    def _act(self, call: str, context: grpc.ServicerContext) -> None:
        with self._fleet.changed:
            faults = self._fleet.script.calls.get(call)
            if not faults or isinstance(faults[0], DamageAnswer):
                return
            fault = faults.pop(0)
        if isinstance(fault, Status):
            abort(context, fault)
        self._stall(context)

    def _stall(self, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        with self._fleet.changed:
            self._fleet.stalled.append(gone)
            self._fleet.changed.notify_all()
        if context.add_callback(gone.set):
            gone.wait(60)

    def _check_snapshot(self, name: str, context: grpc.ServicerContext) -> None:
        if name not in self._fleet.known_snapshots[self._number]:
            abort(
                context,
                Status(grpc.StatusCode.NOT_FOUND, f"no snapshot {name}", "SNAPSHOT_UNKNOWN"),
            )

    def _left(self) -> None:
        with self._fleet.changed:
            self._fleet.live_streams -= 1
            self._fleet.changed.notify_all()


def abort(context: grpc.ServicerContext, status: Status) -> NoReturn:
    """Ends a call as the servers' error model says."""
    details: list[Message] = []
    if status.reason:
        details.append(error_details_pb2.ErrorInfo(domain="headrace", reason=status.reason))
    if status.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=status.field, description=status.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if status.retry_delay_s is not None:
        delay = duration_pb2.Duration(nanos=int(status.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    if not packed:
        context.abort(status.code, status.message)
    rich = status_pb2.Status(code=status.code.value[0], message=status.message, details=packed)
    context.abort_with_status(rpc_status.to_status(rich))
