"""The gRPC skin: messages to calls, errors to statuses. No data work happens here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.catalog import BoundDataset
from preprocessor_server.cutter import Shard
from preprocessor_server.errors import (
    DeploymentError,
    RequestError,
    ServerError,
    TemporaryError,
)
from preprocessor_server.pipeline import Pipeline, ShardStream
from preprocessor_server.plan.epoch import EpochPlan
from preprocessor_server.plan.identity import ENCODING_VERSION, Cursor, Identity, Split
from preprocessor_server.preview import preview
from preprocessor_server.telemetry import log

SERVICE = "headrace.v1.PreprocessorService"
ERROR_DOMAIN = "headrace"
# A trainer sent elsewhere may come back after this long.
RETRY_AFTER_S = 1
DEFAULT_PAGE_SPLITS = 20_000
MAX_PAGE_SPLITS = 100_000
# Short calls served at once, beside the streams; they may wait for storage.
MAX_SHORT_CALLS = 16
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
        return describe_response(dataset, include_snapshot=request.include_snapshot)

    def put_snapshot(self, request: pb.PutSnapshotRequest) -> pb.PutSnapshotResponse:
        """Takes a snapshot."""
        return pb.PutSnapshotResponse(snapshot_id=self._catalog.put(request.snapshot).id)

    def plan_epoch(self, request: pb.PlanEpochRequest) -> pb.PlanEpochResponse:
        """Plans an epoch; one page of it."""
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        identity = Identity.from_proto(request.identity)
        plan = self._catalog.plan(dataset, identity)
        return plan_response(dataset, identity, plan, request)

    def preview_batch(self, request: pb.PreviewBatchRequest) -> pb.PreviewBatchResponse:
        """Shows the first rows."""
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        found = preview(self._catalog.reader, dataset, request.row_count)
        response = pb.PreviewBatchResponse(
            output_schema=dataset.schema, rows_scanned=found.rows_scanned
        )
        response.elapsed.FromNanoseconds(int(found.elapsed_s * 1e9))
        for source, output in found.rows:
            row = response.rows.add()
            row.source.update(source)
            row.output.update(output)
        return response

    def stream_batches(
        self, request: pb.StreamBatchesRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Streams a shard, as serialised messages."""
        with self._reported(context):
            if self._pipeline.draining.is_set():
                raise TemporaryError(
                    "DRAINING", "this server is shutting down; open the stream on another one"
                )
            with self._streams.taken():
                stream = self._open(request)
                context.add_callback(stream.close)
                try:
                    with self._pipeline.metrics.streams.track_inprogress():
                        yield from stream.messages()
                finally:
                    stream.close()

    def _open(self, request: pb.StreamBatchesRequest) -> ShardStream:
        codec = _choose_codec(request.accepted_codecs)
        identity = Identity.from_proto(request.identity)
        dataset = self._catalog.bind(request.dataset, request.snapshot_id)
        if request.splits:
            splits = _checked_splits(request.splits, dataset)
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
            "PreviewBatch": self._unary(pb.PreviewBatchRequest, self.preview_batch),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(
                self.stream_batches,
                request_deserializer=pb.StreamBatchesRequest.FromString,
                response_serializer=None,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(
        self, request_type: type[Request], method: Callable[[Request], Response]
    ) -> grpc.RpcMethodHandler[Request, Response]:
        def call(request: Request, context: grpc.ServicerContext) -> Response:
            with self._reported(context), self._short_calls.taken():
                return method(request)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request_type.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

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
                _abort(context, error)
            self._pipeline.metrics.errors.labels("INTERNAL").inc()
            log.error("a bug in the server", exc_info=True)
            context.abort(
                grpc.StatusCode.INTERNAL,
                f"a bug in the server: {type(error).__name__}: {error}; its log has the traceback",
            )


def describe_response(
    dataset: BoundDataset, *, include_snapshot: bool
) -> pb.DescribeDatasetResponse:
    """What a dataset names."""
    snapshot = dataset.snapshot
    rows = int(snapshot.row_groups.rows.sum())
    response = pb.DescribeDatasetResponse(
        snapshot_id=snapshot.id,
        snapshot=snapshot.frame if include_snapshot else b"",
        output_schema=dataset.schema,
        file_count=len(snapshot.message.files),
        row_group_count=len(snapshot.message.row_group_rows),
        parquet_row_count=sum(snapshot.message.row_group_rows),
        file_bytes=sum(file.size_bytes for file in snapshot.message.files),
        decoded_bytes=sum(snapshot.message.row_group_decoded_bytes),
        unfiltered_row_count=rows,
        row_count=rows if dataset.counts_known else None,
        dataset_fingerprint=dataset.fingerprint,
        encoding_version=ENCODING_VERSION,
        server_version=server_version(),
    )
    needed = set(dataset.columns.columns)
    for column in dataset.source.columns:
        response.source_columns.add(
            name=column.name,
            type=str(column.type),
            needed=column in needed,
            list_column=column.source if column.in_lists else "",
        )
    return response


def plan_response(
    dataset: BoundDataset, identity: Identity, plan: EpochPlan, request: pb.PlanEpochRequest
) -> pb.PlanEpochResponse:
    """One page of a plan. Raises RequestError for a shard or page that there is not."""
    count = len(plan.shards)
    rows, batches = plan.row_counts, plan.batch_counts
    response = pb.PlanEpochResponse(
        snapshot_id=dataset.snapshot.id,
        identity=identity.to_proto(count),
        row_count=None if rows is None else sum(rows),
        batch_count=None if batches is None else sum(batches),
        shard_batch_counts=batches or (),
        reread_share=plan.reread_share,
        notes=plan.notes,
    )
    wanted = request.shards or range(count)
    for shard in request.shards:
        if shard >= count:
            raise RequestError(
                "REQUEST_INVALID",
                f"shards names shard {shard}, but the epoch has shards 0 to {count - 1}",
                field="shards",
            )
    page_size = request.page_size or DEFAULT_PAGE_SPLITS
    if page_size > MAX_PAGE_SPLITS:
        raise RequestError(
            "REQUEST_INVALID",
            f"page_size is {page_size}; it must be from 1 to {MAX_PAGE_SPLITS:,}",
            field="page_size",
        )
    first = _page_start(request.page_token, len(wanted))
    left = page_size
    for i in range(first, len(wanted)):
        shard = wanted[i]
        splits = () if request.omit_splits else plan.shards[shard]
        if i > first and left < max(1, len(splits)):
            response.next_page_token = str(i)
            break
        left -= max(1, len(splits))
        response.shards.add(
            shard=shard,
            splits=[pb.Split(**split._asdict()) for split in splits],
            row_count=None if rows is None else rows[shard],
            batch_count=None if batches is None else batches[shard],
        )
    return response


def _page_start(token: str, count: int) -> int:
    if not token:
        return 0
    if token.isascii() and token.isdigit() and int(token) < count:
        return int(token)
    raise RequestError(
        "REQUEST_INVALID",
        f"page_token {token!r} is none that a plan with these shards returned",
        field="page_token",
    )


def _checked_splits(messages: Sequence[pb.Split], dataset: BoundDataset) -> tuple[Split, ...]:
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
                f"first_batch is {request.first_batch}, but a filter decides which rows a batch "
                "holds; start at batch 0, or go on from a cursor",
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


def server_version() -> str:
    """The version of the installed distribution, "unknown" from a bare source tree."""
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "unknown"


def status_of(error: ServerError) -> status_pb2.Status:
    """The google.rpc.Status of an error, with its details."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, TemporaryError):
        delay = duration_pb2.Duration(seconds=RETRY_AFTER_S)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status.name), message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _abort(context: grpc.ServicerContext, error: ServerError) -> NoReturn:
    context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status always raises")
