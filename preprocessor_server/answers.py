"""What the service answers, as messages: descriptions, pages of plans, statuses with details."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.catalog import BoundDataset
from preprocessor_server.errors import RequestError, ServerError, TemporaryError
from preprocessor_server.plan.epoch import EpochPlan
from preprocessor_server.plan.identity import ENCODING_VERSION, Identity
from preprocessor_server.preview import Preview

ERROR_DOMAIN = "headrace"
# A trainer sent elsewhere may come back after this long.
RETRY_AFTER_S = 1
DEFAULT_PAGE_SPLITS = 20_000
MAX_PAGE_SPLITS = 100_000


def describe_response(
    dataset: BoundDataset, *, include_snapshot: bool, skipped: int | None = None
) -> pb.DescribeDatasetResponse:
    """What a dataset names; skipped are the row groups left unread, None if not counted."""
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
        skipped_row_group_count=skipped,
    )
    response.udfs.extend(snapshot.message.udfs if dataset.udfs else ())
    needed = set(dataset.columns.columns)
    for column in dataset.source.columns:
        response.source_columns.add(
            name=column.name,
            type=str(column.type),
            needed=column in needed,
            list_column=column.source if column.in_lists else "",
        )
    made = set(dataset.udfs.declared.made(dataset.used_columns))
    for output in (output for udf in dataset.udfs.declared.udfs for output in udf.outputs):
        response.made_columns.add(
            name=output.name, type=str(output.type), needed=output.name in made
        )
    for derived in dataset.transform.all_derived:
        response.made_columns.add(
            name=derived.name,
            type=str(derived.type),
            needed=derived in dataset.transform.derived,
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


def preview_response(dataset: BoundDataset, found: Preview) -> pb.PreviewBatchResponse:
    """Rows that were found, as JSON has them."""
    response = pb.PreviewBatchResponse(
        output_schema=dataset.schema, rows_scanned=found.rows_scanned
    )
    response.elapsed.FromNanoseconds(int(found.elapsed_s * 1e9))
    for source, output in found.rows:
        row = response.rows.add()
        row.source.update(source)
        row.output.update(output)
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


def abort(context: grpc.ServicerContext, error: ServerError) -> NoReturn:
    """Ends a call with the status of an error."""
    context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status always raises")
