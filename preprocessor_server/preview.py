"""The first rows of a dataset as readable values, before and after transformation."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.choosing import choose_rows
from preprocessor_server.errors import RequestError, ServerError
from preprocessor_server.frame import Flat, Frame, as_lists
from preprocessor_server.plan.epoch import cut_row_groups
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.reader import SplitReader, describe_split
from preprocessor_server.source.split_table import SplitTable
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.derive import derive
from preprocessor_server.transform.to_python import column_to_python
from preprocessor_server.udf.run import SplitPlace

Json: TypeAlias = bool | float | str | list["Json"] | dict[str, "Json"] | None

MAX_ROWS = 100
# Rows read to find those that pass the filter; more would keep a person waiting.
MAX_ROWS_SCANNED = 1_000_000
_STEP_ROWS = 4096
_MAX_EXACT_INTEGER = 2**53


@dataclass(frozen=True, slots=True)
class Preview:
    """Rows as (source columns, features), and what it took to find them."""

    rows: list[tuple[dict[str, Json], dict[str, Json]]]
    rows_scanned: int
    elapsed_s: float


def preview(reader: SplitReader, dataset: BoundDataset, row_count: int) -> Preview:
    """The first rows that pass the filter, in file order.

    Raises RequestError if row_count is over the limit, ServerError as a stream would.
    """
    wanted = row_count or 5
    if wanted > MAX_ROWS:
        raise RequestError(
            "REQUEST_INVALID",
            f"row_count is {wanted}; a preview shows from 1 to {MAX_ROWS} rows",
            field="row_count",
        )
    start = time.monotonic()
    rows: list[tuple[dict[str, Json], dict[str, Json]]] = []
    scanned = 0
    for split, place in _parts(dataset):
        if len(rows) >= wanted or scanned >= MAX_ROWS_SCANNED:
            break
        if dataset.skips is not None and not dataset.skips.may_pass(reader, split):
            continue
        table = reader.read(dataset.snapshot, split, dataset.columns)
        scanned += table.rows.num_rows
        if place is not None:
            table = dataset.udfs.apply(table, place, dataset.used_columns)
        rows += _first_rows(dataset, split, table, wanted - len(rows))
    return Preview(rows, scanned, time.monotonic() - start)


def preview_split(
    reader: SplitReader, dataset: BoundDataset, place: SplitPlace, row_count: int
) -> Preview:
    """The first rows of a split that pass the filter, after its functions have run on all of it.

    Raises ServerError as a stream would.
    """
    start = time.monotonic()
    table = reader.read(dataset.snapshot, place.split, dataset.columns)
    table = dataset.udfs.apply(table, place, dataset.used_columns)
    rows = _first_rows(dataset, place.split, table, row_count)
    return Preview(rows, table.rows.num_rows, time.monotonic() - start)


def _parts(dataset: BoundDataset) -> Iterator[tuple[Split, SplitPlace | None]]:
    """What is read at a time, in file order."""
    if dataset.udfs:
        return _udf_parts(dataset)
    if dataset.distinct_by:
        return ((split, None) for split in _splits(dataset))
    return _small_parts(dataset)


def _small_parts(dataset: BoundDataset) -> Iterator[tuple[Split, None]]:
    """A few rows at a time."""
    groups = dataset.snapshot.row_groups
    for file, index, count, held in zip(
        groups.file.tolist(),
        groups.index.tolist(),
        groups.parquet_rows.tolist(),
        groups.rows.tolist(),
        strict=True,
    ):
        # So many Parquet rows that they hold about _STEP_ROWS rows.
        step = min(_STEP_ROWS, max(1, _STEP_ROWS * count // max(1, held)))
        for first in range(0, count, step):
            yield Split(file, index, first, min(step, count - first)), None


def _udf_parts(dataset: BoundDataset) -> Iterator[tuple[Split, SplitPlace]]:
    """The rows of a block at a time; all of a split where lists hold the rows, or they differ."""
    for split in _splits(dataset):
        size = dataset.udfs.declared.block_rows
        if dataset.columns.grouped or dataset.distinct_by:
            yield split, SplitPlace(dataset.snapshot, split)
            continue
        for skipped in range(0, split.row_count, size):
            count = min(size, split.row_count - skipped)
            part = split._replace(first_row=split.first_row + skipped, row_count=count)
            yield part, SplitPlace(dataset.snapshot, split, skipped_rows=skipped)


def _splits(dataset: BoundDataset) -> list[Split]:
    return cut_row_groups(dataset.snapshot.row_groups, dataset.max_split_bytes)


def _first_rows(
    dataset: BoundDataset, split: Split, source: SplitTable, limit: int
) -> list[tuple[dict[str, Json], dict[str, Json]]]:
    names = [*dataset.columns.schema.names, *dataset.udfs.declared.made(dataset.used_columns)]
    if dataset.sampler is not None and dataset.sampler.weight:
        names.append(dataset.sampler.weight)
    try:
        source, passes = choose_rows(dataset, source)
        table = source.at_rows(names).filter(pa.array(passes)).slice(0, limit)
        frame = Frame(
            table.num_rows,
            {name: arrow_to_column(table.column(name)) for name in dataset.transform.columns},
        )
        derived = derive(dataset.transform.derived, frame)
        features = dataset.transform.apply(frame).expanded()
    except ServerError as error:
        raise error.at(describe_split(dataset.snapshot, split)) from error
    sources = table.to_pylist()
    made_of_others = {
        column.name: column_to_python(derived.columns[column.name], column.type)
        for column in dataset.transform.derived
    }
    listed = {output.name for output in dataset.transform.outputs if output.kind == "sparse"}
    return [
        (
            {name: _json(value) for name, value in sources[row].items()}
            | {name: _json(values[row]) for name, values in made_of_others.items()},
            {name: _feature(features, name, row, name in listed) for name in features.names()},
        )
        for row in range(table.num_rows)
    ]


def _feature(features: Frame, name: str, row: int, is_listed: bool) -> Json:
    column, _ = features.column(name)
    if not is_listed:
        assert isinstance(column, Flat)
        return _json(column.values[row].item())
    # A sparse feature, which a trainer gets as lists even where every row has one id.
    ids = as_lists(column)
    assert isinstance(ids.values, Flat)
    place = slice(ids.offsets[row], ids.offsets[row + 1])
    values: list[Json] = [_json(value) for value in ids.values.values[place].tolist()]
    if ids.weights is None:
        return values
    return {"values": values, "weights": [_json(each) for each in ids.weights[place].tolist()]}


def _json(value: object) -> Json:
    """A value as JSON has it; what JSON cannot hold exactly becomes a string."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return float(value) if abs(value) <= _MAX_EXACT_INTEGER else str(value)
        case float() | np.floating():
            number = float(value)
            if math.isnan(number):
                return "NaN"
            if math.isinf(number):
                return "Infinity" if number > 0 else "-Infinity"
            return number
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [_json(item) for item in value]
        case Mapping():
            return {str(key): _json(item) for key, item in value.items()}
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | decimal.Decimal():
            return str(value)
        case _:
            return repr(value)
