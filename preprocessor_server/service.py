"""The gRPC skin: messages to calls, errors to statuses. No data work happens here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import xxhash
from google.protobuf.message import DecodeError, Message

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.answers import abort, describe_response, plan_response, preview_response
from preprocessor_server.catalog import BoundDataset
from preprocessor_server.counters import counters
from preprocessor_server.counting import count_rows
from preprocessor_server.cutter import Shard
from preprocessor_server.errors import (
    DeploymentError,
    RequestError,
    ServerError,
    TemporaryError,
)
from preprocessor_server.peers import check_uploads
from preprocessor_server.pipeline import Pipeline, ShardStream
from preprocessor_server.plan.identity import Cursor, Identity, Split
from preprocessor_server.preview import preview
from preprocessor_server.telemetry import log

SERVICE = "headrace.v1.PreprocessorService"
# The key of metadata that holds the XXH64 of a request's name and bytes, or of the bytes of the
# first message of an answer.
CHECKSUM_KEY = "headrace-checksum"
# Short calls served at once, beside the streams; they may wait for storage.
MAX_SHORT_CALLS = 16
# The key of metadata that holds the counters of the server as a stream of batches begins.
COUNTERS_KEY = "headrace-counters-bin"
SUPPORTED_CODECS = (batch_pb2.CODEC_ZSTD, batch_pb2.CODEC_NONE)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Slots:
    """A number of places; what names them in the refusal of one call too many."""

    def __init__(self, count: int, what: str) -> None:
        self._count = count
        self._what = what
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes a place, and gives it back. Raises TemporaryError if none is free."""
        with self._changed:
            if self._used >= self._count:
                raise TemporaryError(
                    "SERVER_BUSY",
                    f"{self._what} of this server are taken; use another server, or add some",
                )
            self._used += 1
        try:
            yield
        finally:
            with self._changed:
                self._used -= 1
                self._changed.notify_all()

    def wait_until_free(self, timeout_s: float) -> bool:
        """Waits until no place is taken; whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._used == 0, timeout_s)


class PreprocessorService:
    """The handlers of headrace.v1.PreprocessorService."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._catalog = pipeline.catalog
        self._streams = Slots(
            pipeline.settings.max_streams,
            f"all {pipeline.settings.max_streams} streams (--max-streams)",
        )
        self._short_calls = Slots(MAX_SHORT_CALLS, f"all {MAX_SHORT_CALLS} places for short calls")

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Waits for the calls under way to end; whether they did in time."""
        deadline = time.monotonic() + timeout_s
        return all(
            slots.wait_until_free(max(0.0, deadline - time.monotonic()))
            for slots in (self._streams, self._short_calls)
        )

    def describe_dataset(self, request: pb.DescribeDatasetRequest) -> pb.DescribeDatasetResponse:
        """Looks at a dataset now."""
        dataset = self._catalog.describe(request.dataset)
        skipped = None
        if request.count_skipped_row_groups:
            skipped = dataset.skips.count(self._catalog.reader) if dataset.skips else 0
        return describe_response(
            dataset, include_snapshot=request.include_snapshot, skipped=skipped
        )

    def put_snapshot(self, request: pb.PutSnapshotRequest) -> pb.PutSnapshotResponse:
        """Takes a snapshot."""
        return pb.PutSnapshotResponse(snapshot_id=self._catalog.put(request.snapshot).id)

    def plan_epoch(self, request: pb.PlanEpochRequest) -> pb.PlanEpochResponse:
        """Plans an epoch; one page of it."""
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        identity = Identity.from_proto(request.identity)
        plan = self._catalog.plan(dataset, identity)
        return plan_response(dataset, identity, plan, request)

    def count_rows(self, request: pb.CountRowsRequest) -> pb.CountRowsResponse:
        """Counts rows that pass the filter."""
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        counts = count_rows(
            self._pipeline, dataset, request.first_row_group, request.row_group_count
        )
        return pb.CountRowsResponse(snapshot_id=dataset.snapshot.id, row_counts=counts)

    def preview_batch(self, request: pb.PreviewBatchRequest) -> pb.PreviewBatchResponse:
        """Shows the first rows."""
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        found = preview(self._catalog.reader, dataset, request.row_count)
        return preview_response(dataset, found)

    def get_counters(self, request: pb.GetCountersRequest) -> pb.GetCountersResponse:
        """Says where the time has gone."""
        del request
        return counters(self._pipeline)

    def stream_batches(self, data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Streams a shard, as serialised messages."""
        with self._reported(context):
            request = _read(pb.StreamBatchesRequest, data, context)
            check_uploads(request.dataset, context)
            if self._pipeline.draining.is_set():
                raise TemporaryError(
                    "DRAINING", "this server is shutting down; open the stream on another one"
                )
            with self._streams.taken():
                with self._pipeline.metrics.clock.blocked("open"):
                    stream = self._open(request)
                context.add_callback(stream.close)
                try:
                    with self._pipeline.metrics.streams.track_inprogress():
                        messages = stream.messages()
                        now = counters(self._pipeline, with_parts=False).SerializeToString()
                        yield announced(next(messages), context, ((COUNTERS_KEY, now),))
                        yield from messages
                finally:
                    stream.close()

    def _open(self, request: pb.StreamBatchesRequest) -> ShardStream:
        codec = _choose_codec(request.accepted_codecs)
        identity = Identity.from_proto(request.identity)
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        if request.splits:
            splits = checked_splits(request.splits, dataset)
        else:
            plan = self._catalog.plan(dataset, identity)
            if request.shard >= len(plan.shards):
                raise RequestError(
                    "REQUEST_INVALID",
                    f"shard is {request.shard}, but the epoch has shards 0 to "
                    f"{len(plan.shards) - 1}",
                    field="shard",
                )
            splits = plan.shards[request.shard]
        shard = Shard(dataset, identity, request.shard, splits)
        cursor = _start(request, shard)
        shard.check_size(self._pipeline.budget.capacity)
        return ShardStream(self._pipeline, shard, cursor, request.batch_limit or None, codec)

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler to register; batches leave it serialised already, by the worker threads."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "DescribeDataset": self._unary(pb.DescribeDatasetRequest, self.describe_dataset),
            "PutSnapshot": self._unary(pb.PutSnapshotRequest, self.put_snapshot),
            "PlanEpoch": self._unary(pb.PlanEpochRequest, self.plan_epoch),
            "CountRows": self._unary(pb.CountRowsRequest, self.count_rows),
            "PreviewBatch": self._unary(pb.PreviewBatchRequest, self.preview_batch),
            "GetCounters": self._unary(pb.GetCountersRequest, self.get_counters),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(self.stream_batches),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(
        self, request_type: type[Request], method: Callable[[Request], Response]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        def call(data: bytes, context: grpc.ServicerContext) -> bytes:
            with self._reported(context), self._short_calls.taken():
                request = _read(request_type, data, context)
                if "dataset" in request_type.DESCRIPTOR.fields_by_name:
                    check_uploads(request.dataset, context)  # type: ignore[attr-defined] # of a type that has one
                response = method(request)
                return announced(response.SerializeToString(), context)

        return grpc.unary_unary_rpc_method_handler(call)

    @contextmanager
    def _reported(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Turns an error into a status with details, and counts it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
            if not context.is_active():
                log.debug("call was cancelled", error=repr(error))
                return
            if isinstance(error, ServerError):
                self._pipeline.metrics.errors.labels(error.reason).inc()
                log.warning("call failed", reason=error.reason, message=error.message)
                abort(context, error)
            self._pipeline.metrics.errors.labels("INTERNAL").inc()
            log.error("a bug in the server", exc_info=True)
            context.abort(
                grpc.StatusCode.INTERNAL,
                f"a bug in the server: {type(error).__name__}: {error}; its log has the traceback",
            )


def _read(request_type: type[Request], data: bytes, context: grpc.ServicerContext) -> Request:
    """The request that bytes encode. Raises RequestError if they are not what the client sent."""
    sent = dict(context.invocation_metadata() or ()).get(CHECKSUM_KEY)
    # With its name: a request that is damaged may also reach another call than it was meant for.
    due = xxhash.xxh64(request_type.DESCRIPTOR.full_name.encode())
    due.update(data)
    problem = "does not match its checksum"
    if sent is None or sent == due.hexdigest():
        try:
            return request_type.FromString(data)
        except DecodeError:
            problem = f"cannot be read as {request_type.DESCRIPTOR.full_name}"
    raise RequestError(
        "REQUEST_CORRUPT",
        f"the request, {len(data):,} bytes, {problem}: it was damaged on its way; send it again",
    )


def announced(
    message: bytes,
    context: grpc.ServicerContext,
    metadata: tuple[tuple[str, str | bytes], ...] = (),
) -> bytes:
    """The first message of an answer, once its checksum and the other metadata are sent."""
    context.send_initial_metadata(((CHECKSUM_KEY, xxhash.xxh64_hexdigest(message)), *metadata))
    return message


def checked_splits(messages: Sequence[pb.Split], dataset: BoundDataset) -> tuple[Split, ...]:
    """The splits of messages. Raises RequestError for one that is not in the snapshot."""
    files = dataset.snapshot.message.files
    groups = dataset.snapshot.row_groups
    splits = []
    for i, message in enumerate(messages):
        split = Split(message.file, message.row_group, message.first_row, message.row_count)
        if split.file >= len(files) or split.row_group >= files[split.file].row_group_count:
            rows = 0
        else:
            first = dataset.snapshot.first_row_groups[split.file]
            rows = int(groups.parquet_rows[first + split.row_group])
        if split.row_count < 1 or split.first_row + split.row_count > rows:
            raise RequestError(
                "REQUEST_INVALID",
                f"splits[{i}] (file {split.file}, row group {split.row_group}, rows "
                f"{split.first_row} to {split.first_row + split.row_count}) is not in the "
                "snapshot; take the splits from PlanEpoch with the same snapshot_id",
                field=f"splits[{i}]",
            )
        splits.append(split)
    return tuple(splits)


def _start(request: pb.StreamBatchesRequest, shard: Shard) -> Cursor | int:
    """The position to start at, or the index of a batch."""
    if not request.HasField("cursor"):
        if request.first_batch and not shard.dataset.counts_known:
            raise RequestError(
                "REQUEST_INVALID",
                f"first_batch is {request.first_batch}, but a filter, sampling or distinct_by "
                "decides which rows a batch holds; start at batch 0, or go on from a cursor",
                field="first_batch",
            )
        return request.first_batch or Cursor()
    if request.first_batch:
        raise RequestError(
            "REQUEST_INVALID",
            "both first_batch and cursor are given; a cursor says by itself where to start",
            field="first_batch",
        )
    return Cursor.from_proto(
        request.cursor,
        shard.splits,
        shard.identity.window_splits,
        grouped=shard.dataset.columns.grouped,
    )


def _choose_codec(accepted: Sequence[batch_pb2.Codec]) -> batch_pb2.Codec:
    for codec in accepted or SUPPORTED_CODECS:
        if codec in SUPPORTED_CODECS:
            return codec
    names = ", ".join(batch_pb2.Codec.Name(codec) for codec in SUPPORTED_CODECS)
    raise DeploymentError(
        "CODEC_UNSUPPORTED",
        f"the client accepts only codecs {', '.join(map(str, accepted))}; this server has {names}",
        field="accepted_codecs",
    )
