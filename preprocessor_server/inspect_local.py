"""What describe, plan and preview show, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from google.protobuf import json_format

from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.answers import preview_response
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.errors import RequestError
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.plan.identity import Split
from preprocessor_server.preview import preview_split
from preprocessor_server.service import PreprocessorService, checked_splits
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics
from preprocessor_server.udf.in_process import InProcess
from preprocessor_server.udf.run import SplitPlace

# Shards listed by plan_text; the JSON form has all.
_SHARDS_SHOWN = 20


def settings_of(
    data_root: Sequence[Path] = (),
    udf_module: Sequence[str] = (),
    udf: Literal["modules", "upload"] = "modules",
) -> Settings:
    """Those that matter without a server; files may be anywhere, and start in this folder."""
    roots = tuple(data_root) or (Path.cwd(), Path("/"))
    return Settings(data_root=roots, udf_module=tuple(udf_module), udf=udf)


@contextmanager
def _service(settings: Settings) -> Iterator[PreprocessorService]:
    catalog = Catalog(settings)
    pipeline = Pipeline(settings, catalog, Metrics())
    try:
        yield PreprocessorService(pipeline)
    finally:
        pipeline.close()
        catalog.close()


def describe(spec: dataset_pb2.DatasetSpec, settings: Settings) -> pb.DescribeDatasetResponse:
    """As DescribeDataset. Raises ServerError."""
    with _service(settings) as service:
        return service.describe_dataset(pb.DescribeDatasetRequest(dataset=spec))


def plan(
    spec: dataset_pb2.DatasetSpec, identity: pb.BatchIdentity, settings: Settings
) -> pb.PlanEpochResponse:
    """As PlanEpoch, all pages in one. Raises ServerError."""
    with _service(settings) as service:
        request = pb.PlanEpochRequest(dataset=spec, identity=identity)
        response = service.plan_epoch(request)
        request.snapshot_id = response.snapshot_id
        while response.next_page_token:
            request.page_token = response.next_page_token
            page = service.plan_epoch(request)
            response.shards.extend(page.shards)
            response.next_page_token = page.next_page_token
        return response


def preview_rows(
    spec: dataset_pb2.DatasetSpec, row_count: int, settings: Settings
) -> pb.PreviewBatchResponse:
    """As PreviewBatch. Raises ServerError."""
    with _service(settings) as service:
        return service.preview_batch(pb.PreviewBatchRequest(dataset=spec, row_count=row_count))


def preview_split_rows(
    spec: dataset_pb2.DatasetSpec,
    split: str,
    identity: pb.BatchIdentity,
    row_count: int,
    settings: Settings,
) -> pb.PreviewBatchResponse:
    """The first rows of one split, its functions called in this process, as a debugger needs.

    split is FILE,ROW_GROUP,FIRST_ROW,ROW_COUNT, the file as the snapshot names it. Raises
    ServerError, and whatever a function does.
    """
    catalog = Catalog(settings, InProcess(settings))
    try:
        dataset = catalog.describe(spec)
        place = SplitPlace(
            dataset.snapshot, _parse_split(split, dataset), identity.seed, identity.epoch
        )
        found = preview_split(catalog.reader, dataset, place, row_count)
        return preview_response(dataset, found)
    finally:
        catalog.close()


def _parse_split(text: str, dataset: BoundDataset) -> Split:
    names = [file.path for file in dataset.snapshot.message.files]
    path, *numbers = text.rsplit(",", 3)
    if path in names and len(numbers) == 3 and all(part.isdecimal() for part in numbers):
        group, first, count = map(int, numbers)
        message = pb.Split(
            file=names.index(path), row_group=group, first_row=first, row_count=count
        )
        return checked_splits([message], dataset)[0]
    raise RequestError(
        "REQUEST_INVALID",
        f"--split {text!r} is not FILE,ROW_GROUP,FIRST_ROW,ROW_COUNT with one of the dataset's "
        f"{len(names)} files ({names[0]!r}, …)",
    )


def describe_text(response: pb.DescribeDatasetResponse) -> str:
    """The response, for people."""
    rows = (
        f"{response.row_count:,}"
        if response.HasField("row_count")
        else f"at most {response.unfiltered_row_count:,} (filter, sampling or distinct_by decide)"
    )
    grouped = any(column.list_column for column in response.source_columns)
    if grouped:
        rows += f", in the lists of {response.parquet_row_count:,} Parquet rows"
    lines = [
        f"dataset      {response.dataset_fingerprint}",
        f"snapshot     {response.snapshot_id}",
        f"rows         {rows}",
        f"files        {response.file_count:,} ({response.file_bytes:,} bytes)",
        f"row groups   {response.row_group_count:,}",
        f"decoded      {response.decoded_bytes:,} bytes (estimate, needed columns)",
        *(f"udf          {udf.function} {udf.fingerprint}" for udf in response.udfs),
        "",
        "source columns (* needed)",
    ]
    width = max((len(column.name) for column in response.source_columns), default=0)
    lines += [_column(column, width) for column in response.source_columns]
    lines += ["", "output blocks", *_blocks(response.output_schema)]
    return "\n".join(lines)


def _column(column: pb.SourceColumn, width: int) -> str:
    lists = f" (in the lists of {column.list_column})" if column.list_column else ""
    return f"  {'*' if column.needed else ' '} {column.name:<{width}}  {column.type}{lists}"


def _blocks(schema: batch_pb2.BatchSchema) -> list[str]:
    return [
        f"  {block.name}: {batch_pb2.BlockKind.Name(block.kind).removeprefix('BLOCK_KIND_')} "
        f"{_dtype(block.dtype)}, "
        + (f"weights {_dtype(block.weights_dtype)}, " if block.weights_dtype else "")
        + f"{len(block.features)} features: {', '.join(block.features)}"
        for block in schema.blocks
    ]


def _dtype(number: dataset_pb2.ScalarType) -> str:
    return dataset_pb2.ScalarType.Name(number).removeprefix("SCALAR_TYPE_").lower()


def plan_text(response: pb.PlanEpochResponse) -> str:
    """The response, for people."""
    known = response.HasField("row_count")
    rows = (
        f"{response.row_count:,}" if known else "unknown (filter, sampling or distinct_by decide)"
    )
    batches = f"{response.batch_count:,}" if known else "unknown"
    lines = [
        f"snapshot      {response.snapshot_id}",
        f"shards        {response.identity.num_shards:,}",
        f"rows          {rows}",
        f"batches       {batches} of {response.identity.batch_size:,} rows",
        f"reread share  {response.reread_share:.1%}",
        *(f"note          {note}" for note in response.notes),
        "",
    ]
    for shard in response.shards[:_SHARDS_SHOWN]:
        count = f"{shard.row_count:,} rows, {shard.batch_count:,} batches, " if known else ""
        lines.append(f"  shard {shard.shard}: {count}{len(shard.splits)} splits")
    if len(response.shards) > _SHARDS_SHOWN:
        lines.append(f"  … and {len(response.shards) - _SHARDS_SHOWN:,} more (--json lists all)")
    return "\n".join(lines)


def preview_text(response: pb.PreviewBatchResponse) -> str:
    """The response, for people."""
    lines = []
    for i, row in enumerate(response.rows):
        message = json_format.MessageToDict(row)
        lines.append(f"row {i}")
        for part in ("source", "output"):
            lines.append(f"  {part}")
            lines += [f"    {name} = {value}" for name, value in message.get(part, {}).items()]
    lines.append(f"{len(response.rows)} rows shown, {response.rows_scanned:,} scanned")
    return "\n".join(lines)
