"""A shuffle window: consecutive splits of a shard, read, filtered, transformed and ordered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.choosing import choose_rows
from preprocessor_server.errors import DataError, ServerError
from preprocessor_server.frame import (
    Column,
    Flat,
    Frame,
    Indices,
    Mask,
    OptionalIds,
    Runs,
    concat_frames,
    frame_bytes,
)
from preprocessor_server.kernels import hashed_order, shuffle_keys
from preprocessor_server.plan.identity import Identity, Split
from preprocessor_server.runs import find_runs
from preprocessor_server.source.reader import SplitReader, describe_split
from preprocessor_server.source.split_table import SplitTable, no_rows
from preprocessor_server.stage_clock import count_bytes, count_parts
from preprocessor_server.telemetry import Metrics
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.udf.run import SplitPlace

# What the order of delivery takes beside them for a row, at most: while keys are put in order, they
# and copies of them, numbers of rows twice, and which rows pass.
ORDER_BYTES = 56
# What telling rows apart takes for a row while it is done: a hash table, and numbers of values.
DISTINCT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Window:
    """Feature rows that pass the filter, and the order in which they are delivered.

    rows [k] are row numbers of frame in delivery order; positions [k] count the rows of the window
    before each of them in that order, rows that the filter leaves out included, and row_count all
    of them. starts [Parquet rows + 1] count the rows before each Parquet row in delivery order, and
    all of them; None where Parquet rows are rows.
    """

    frame: Frame
    rows: Indices
    positions: Indices
    row_count: int
    starts: Indices | None
    size_bytes: int


def place_of(starts: Indices | None, position: int) -> tuple[int, int]:
    """A position as a cursor has it: (Parquet rows wholly before it, rows of the next before it).

    Parquet rows that hold no row are passed by.
    """
    if starts is None:
        return position, 0
    parquet_row = int(np.searchsorted(starts, position, side="right")) - 1
    return parquet_row, position - int(starts[parquet_row])


def position_of(starts: Indices | None, parquet_row: int, offset: int) -> int | None:
    """The position that a cursor means; None if its Parquet row has no row after the offset."""
    if starts is None:
        return parquet_row
    position = int(starts[parquet_row]) + offset
    return position if offset == 0 or position < starts[parquet_row + 1] else None


def prepare_bytes(dataset: BoundDataset, splits: Sequence[Split], feature_share: float) -> int:
    """What preparing a window takes up in memory, in bytes; an estimate from the footers.

    A row group's decoded columns and its features are in memory together for a while; features
    take feature_share of what is decoded, and those of classes what they are.
    """
    decoded = sum(decoded_bytes(dataset, split) for split in splits)
    rows = sum(_row_count(dataset, split) for split in splits)
    row_bytes = ORDER_BYTES + (DISTINCT_BYTES if dataset.distinct_by else 0)
    row_bytes += dataset.transform.class_bytes
    return int(decoded * (1 + feature_share)) + row_bytes * rows


def decoded_bytes(dataset: BoundDataset, split: Split) -> int:
    """What the needed columns of a split take up in memory, in bytes; by its share of rows.

    Those that functions make included, as far as their types tell.
    """
    decoded = _share(dataset, split, dataset.snapshot.row_groups.decoded_bytes)
    if not dataset.udfs:
        return decoded
    made = dataset.udfs.declared.row_bytes(dataset.used_columns)
    return decoded + made * _row_count(dataset, split)


def known_rows(dataset: BoundDataset, splits: Sequence[Split]) -> int | None:
    """The rows that splits deliver; None where only reading them tells."""
    groups = dataset.row_groups
    if not groups.whole:
        return sum(split.row_count for split in splits)
    parts: dict[int, int] = {}
    for split in splits:
        group = dataset.snapshot.first_row_groups[split.file] + split.row_group
        parts[group] = parts.get(group, 0) + split.row_count
    if any(rows != groups.parquet_rows[group] for group, rows in parts.items()):
        return None
    return sum(int(groups.delivered[group]) for group in parts)


def _row_count(dataset: BoundDataset, split: Split) -> int:
    """The rows of a split; an estimate where it is a part of a grouped row group."""
    return _share(dataset, split, dataset.snapshot.row_groups.rows)


def _share(dataset: BoundDataset, split: Split, of: npt.NDArray[np.int64]) -> int:
    group = dataset.snapshot.first_row_groups[split.file] + split.row_group
    whole = max(1, int(dataset.snapshot.row_groups.parquet_rows[group]))
    return -(-int(of[group]) * split.row_count // whole)


def prepare_window(
    reader: SplitReader,
    dataset: BoundDataset,
    splits: Sequence[Split],
    identity: Identity,
    metrics: Metrics,
) -> Window:
    """Reads a window. Raises ServerError that names the file and row group at fault."""
    skipped = _skipped(reader, dataset, splits, identity, metrics)
    parts = [
        _skip_split(dataset, split, identity)
        if split in skipped
        else _prepare_split(reader, dataset, split, identity, metrics)
        for split in splits
    ]
    frame = concat_frames([part.frame for part in parts])
    passes = np.concatenate([part.passes for part in parts])
    order = None
    if identity.shuffle:
        order = hashed_order(np.concatenate([part.keys for part in parts]))
    lengths = [part.lengths for part in parts if part.lengths is not None]
    starts = None
    if lengths:
        order, starts = rows_in_order(np.concatenate(lengths), order)
    if passes.all():
        positions = np.arange(len(passes))
        rows = positions if order is None else order
    elif order is None:
        positions = np.flatnonzero(passes)
        rows = np.arange(len(positions))
    else:
        positions = np.flatnonzero(passes[order])
        rows = (np.cumsum(passes) - 1)[order[positions]]
    size = frame_bytes(frame)
    count_bytes("transform", size)
    decoded = sum(decoded_bytes(dataset, split) for split in splits)
    if decoded and frame.row_count:
        # As if the filter had let all rows pass, as it may in the next window.
        dataset.transform.size.note(size / decoded * len(passes) / frame.row_count)
    size += packed_bytes(frame, identity.shuffle)
    size += rows.nbytes + positions.nbytes
    size += 0 if starts is None else starts.nbytes
    return Window(frame, rows, positions, len(passes), starts, size)


def packed_bytes(frame: Frame, scattered: bool) -> int:
    """What rows are packed into, at most, when batches are gathered: in bytes.

    Ids of which a row may have none always are, and numbers where rows are taken scattered.
    """
    total = 0
    for name in frame.names():
        column = frame.column(name)[0]
        if isinstance(column, Flat) and (scattered or isinstance(column, OptionalIds)):
            total += column.values.nbytes
    return total


def rows_in_order(lengths: Indices, order: Indices | None) -> tuple[Indices | None, Indices]:
    """The numbers of all rows in delivery order, and the rows before each Parquet row in it.

    lengths are the rows of each Parquet row; order has the Parquet rows in delivery order, and
    None stands for the order in which they lie, as it does in the result.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    if order is None:
        np.cumsum(lengths, out=starts[1:])
        return None, starts
    firsts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    np.cumsum(lengths, out=starts[1:])
    return np.repeat(firsts - starts[:-1], lengths) + np.arange(starts[-1]), starts


class _Part(NamedTuple):
    """The features of a split's rows that pass; of all rows, which pass.

    keys are what its Parquet rows are delivered in the order of; lengths their rows, None where
    each is one row.
    """

    frame: Frame
    passes: Mask
    keys: npt.NDArray[np.uint64]
    lengths: Indices | None


def _skipped(
    reader: SplitReader,
    dataset: BoundDataset,
    splits: Sequence[Split],
    identity: Identity,
    metrics: Metrics,
) -> frozenset[Split]:
    """The splits of a window that need not be read: no row of theirs passes.

    Of some of a window's splits, which rows they have must still be known: it is what the others'
    rows lie between.
    """
    skips = dataset.skips
    if skips is None:
        return frozenset()
    with metrics.stage("read"):
        skipped = frozenset(split for split in splits if not skips.may_pass(reader, split))
    needs_rows = dataset.columns.grouped or (identity.shuffle and dataset.group_by)
    if needs_rows and len(skipped) < len(splits):
        return frozenset()
    metrics.skipped_row_groups.inc(len(skipped))
    return skipped


def _skip_split(dataset: BoundDataset, split: Split, identity: Identity) -> _Part:
    """What a split makes that is not read, as if it had been: of no row features are made."""
    passes = np.zeros(0 if dataset.columns.grouped else split.row_count, np.bool_)
    _check_passing(dataset, split, passes)
    table = no_rows(dataset.columns, split.row_count)
    if dataset.udfs:
        table = dataset.udfs.apply(table, SplitPlace(dataset.snapshot, split), dataset.used_columns)
    if dataset.sampler is not None and dataset.sampler.weight:
        table = table.with_column(dataset.sampler.weight, pa.array([], pa.float64()))
    frame = source_frame(table, np.zeros(0, np.bool_), dataset.transform.columns)
    keys = np.zeros(split.row_count, np.uint64)
    if identity.shuffle and not dataset.group_by:
        keys = _shuffle_keys(dataset, split, identity, split.row_count)
    return _Part(dataset.transform.apply(find_runs(frame)), passes, keys, table.lengths)


def _prepare_split(
    reader: SplitReader,
    dataset: BoundDataset,
    split: Split,
    identity: Identity,
    metrics: Metrics,
) -> _Part:
    with metrics.stage("read"):
        table = reader.read(dataset.snapshot, split, dataset.columns)
    if dataset.udfs:
        with metrics.stage("transform"):
            place = SplitPlace(dataset.snapshot, split, identity.seed, identity.epoch)
            table = dataset.udfs.apply(table, place, dataset.used_columns)
    try:
        with metrics.stage("transform"):
            began_ns = time.perf_counter_ns()
            table, passes = choose_rows(dataset, table, metrics.leave_out)
            filtered_ns = time.perf_counter_ns()
            _check_passing(dataset, split, passes)
            keys = _keys(dataset, table, split, identity)
            frame = source_frame(table, passes, dataset.transform.columns)
            framed_ns = time.perf_counter_ns()
            frame = find_runs(frame)
            found_ns = time.perf_counter_ns()
            parts = {"(filter)": filtered_ns - began_ns, "(runs)": found_ns - framed_ns}
            count_parts("transform", parts)
            features = dataset.transform.apply(frame)
            return _Part(features, passes, keys, table.lengths)
    except ServerError as error:
        raise error.at(_row_place(dataset, split)) from error


def _row_place(dataset: BoundDataset, split: Split) -> str:
    """Where the rows of a split are, for messages that give row numbers."""
    place = describe_split(dataset.snapshot, split)
    counted = []
    if dataset.columns.grouped:
        counted.append("are in the split's lists")
    if dataset.filter is not None:
        counted.append("pass the filter")
    if dataset.sampler is not None:
        counted.append("are kept by sampling")
    if dataset.distinct_by:
        counted.append("are the first with their key")
    return f"{place} (row numbers count those that {' and '.join(counted)})" if counted else place


def _check_passing(dataset: BoundDataset, split: Split, passes: Mask) -> None:
    """Raises DataError if other rows of a row group pass than the snapshot counted."""
    if not dataset.chooses_rows or not dataset.counts_known:
        return
    promised = known_rows(dataset, [split])
    found = int(np.count_nonzero(passes))
    if promised is not None and found != promised:
        raise miscounted(
            f"{found:,} rows are to be delivered, but the snapshot counted {promised:,}"
        )


def miscounted(problem: str) -> DataError:
    """The error for counts that the rows do not bear out."""
    return DataError(
        "SNAPSHOT_CHANGED",
        f"{problem}: its counts are of other files or another server; take a new snapshot and "
        "count again",
    )


def source_frame(table: SplitTable, passes: Mask, names: Sequence[str]) -> Frame:
    """The named columns of the rows that pass; what is in no list is kept once a Parquet row."""
    rows, parquet_rows, inverse = table.rows, table.parquet_rows, table.inverse
    if not passes.all():
        rows = rows.filter(pa.array(passes))
        if inverse is not None:
            inverse = inverse[passes]
            parquet_rows, inverse = _needed(parquet_rows, inverse)
    of_rows, of_runs = _columns(rows, names), {}
    if inverse is not None:
        of_runs = _columns(parquet_rows, names)
    runs = (Runs(inverse, of_runs),) if inverse is not None and of_runs else ()
    return Frame(rows.num_rows, of_rows, runs)


def _columns(table: pa.Table, names: Sequence[str]) -> dict[str, Column]:
    there = set(table.column_names)
    return {name: arrow_to_column(table.column(name)) for name in names if name in there}


def _needed(
    table: pa.Table, inverse: npt.NDArray[np.int32]
) -> tuple[pa.Table, npt.NDArray[np.int32]]:
    """Without the Parquet rows that no row needs, where they are many: no work is done on them."""
    needed = np.zeros(table.num_rows, np.bool_)
    needed[inverse] = True
    if 2 * np.count_nonzero(needed) > len(needed):
        return table, inverse
    return table.filter(pa.array(needed)), (np.cumsum(needed) - 1).astype(np.int32)[inverse]


def _keys(
    dataset: BoundDataset, table: SplitTable, split: Split, identity: Identity
) -> npt.NDArray[np.uint64]:
    """A key for every Parquet row, equal within a group; they are delivered in order of keys."""
    if not identity.shuffle:
        return np.zeros(0, np.uint64)
    count = table.parquet_row_count
    if not dataset.group_by:
        return _shuffle_keys(dataset, split, identity, count)
    starts = np.zeros(count, np.bool_)
    for name in dataset.group_by:
        starts |= _changes(table.parquet_rows.column(name))
    groups = np.cumsum(starts)
    group_count = int(groups[-1]) + 1 if len(groups) else 0
    row_keys: npt.NDArray[np.uint64] = _shuffle_keys(dataset, split, identity, group_count)[groups]
    return row_keys


def _shuffle_keys(
    dataset: BoundDataset, split: Split, identity: Identity, count: int
) -> npt.NDArray[np.uint64]:
    group = dataset.snapshot.first_row_groups[split.file] + split.row_group
    ordinal = (group << 40) + split.first_row
    keys: npt.NDArray[np.uint64] = shuffle_keys(identity.seed, identity.epoch, ordinal, count)
    return keys


def _changes(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether each value differs from the one before it; two nulls are equal. First: False."""
    changed = np.zeros(len(column), np.bool_)
    if len(column) > 1:
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        differs = pc.fill_null(pc.not_equal(before, after), True)
        both_null = pc.and_(pc.is_null(before), pc.is_null(after))
        changed[1:] = np.asarray(pc.and_not(differs, both_null))
    return changed
