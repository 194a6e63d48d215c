"""A shuffle window: consecutive splits of a shard, read, filtered, transformed and ordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.catalog import BoundDataset
from preprocessor_server.errors import ServerError
from preprocessor_server.frame import Frame, Indices, concat_frames, frame_bytes
from preprocessor_server.kernels import shuffle_keys
from preprocessor_server.plan.identity import Identity, Split
from preprocessor_server.source.reader import SplitReader, describe_split
from preprocessor_server.telemetry import Metrics
from preprocessor_server.transform import arrow_to_column

# A row group's decoded columns and its features are in memory together for a while.
PREPARE_FACTOR = 2
# What the order of delivery takes beside them for a row: keys, order, rows, positions, offsets.
ORDER_BYTES = 48


@dataclass(frozen=True, slots=True)
class Window:
    """Feature rows that pass the filter, and the order in which they are delivered.

    rows [k] are row numbers of frame in delivery order; positions [k] count the Parquet rows of
    the window before each of them in that order, rows that the filter leaves out included.
    """

    frame: Frame
    rows: Indices
    positions: Indices
    size_bytes: int


def prepare_bytes(dataset: BoundDataset, splits: Sequence[Split]) -> int:
    """What preparing a window takes up in memory, in bytes; an estimate from the footers."""
    return sum(
        PREPARE_FACTOR * decoded_bytes(dataset, split) + ORDER_BYTES * split.row_count
        for split in splits
    )


def decoded_bytes(dataset: BoundDataset, split: Split) -> int:
    """What the needed columns of a split take up in memory, in bytes; by its share of rows."""
    groups = dataset.snapshot.row_groups
    group = dataset.snapshot.first_row_groups[split.file] + split.row_group
    rows = max(1, int(groups.rows[group]))
    return int(groups.decoded_bytes[group]) * split.row_count // rows


def prepare_window(
    reader: SplitReader,
    dataset: BoundDataset,
    splits: Sequence[Split],
    identity: Identity,
    metrics: Metrics,
) -> Window:
    """Reads a window. Raises ServerError that names the file and row group at fault."""
    frames, masks, keys = [], [], []
    for split in splits:
        frame, mask, row_keys = _prepare_split(reader, dataset, split, identity, metrics)
        frames.append(frame)
        masks.append(mask)
        keys.append(row_keys)
    passes = np.concatenate(masks)
    frame = concat_frames(frames)
    if identity.shuffle:
        order = np.argsort(np.concatenate(keys), kind="stable")
        positions = np.flatnonzero(passes[order])
        rows = (np.cumsum(passes) - 1)[order[positions]]
    else:
        positions = np.flatnonzero(passes)
        rows = np.arange(len(positions))
    size = frame_bytes(frame) + rows.nbytes + positions.nbytes
    return Window(frame, rows, positions, size)


def _prepare_split(
    reader: SplitReader,
    dataset: BoundDataset,
    split: Split,
    identity: Identity,
    metrics: Metrics,
) -> tuple[Frame, npt.NDArray[np.bool_], npt.NDArray[np.uint64]]:
    """The features of the rows that pass, which rows pass, and every row's shuffle key."""
    with metrics.stage("read"):
        table = reader.read(dataset.snapshot, split, dataset.columns)
    place = describe_split(dataset.snapshot, split)
    try:
        with metrics.stage("transform"):
            if dataset.filter is None:
                mask = np.ones(table.num_rows, np.bool_)
            else:
                mask = dataset.filter.mask(table)
            keys = _row_keys(dataset, table, split, identity)
            wanted = table.select(list(dataset.transform.columns))
            if not mask.all():
                place += " (row numbers count those that pass the filter)"
                wanted = wanted.filter(pa.array(mask))
            frame = Frame(
                row_count=wanted.num_rows,
                columns={
                    name: arrow_to_column(wanted.column(name)) for name in dataset.transform.columns
                },
            )
            return dataset.transform.apply(frame), mask, keys
    except ServerError as error:
        raise error.at(place) from error


def _row_keys(
    dataset: BoundDataset, table: pa.Table, split: Split, identity: Identity
) -> npt.NDArray[np.uint64]:
    """A key for every row, equal within a group; rows are delivered in the order of their keys."""
    if not identity.shuffle:
        return np.zeros(0, np.uint64)
    group = dataset.snapshot.first_row_groups[split.file] + split.row_group
    ordinal = (group << 40) + split.first_row
    if not dataset.group_by:
        return shuffle_keys(identity.seed, identity.epoch, ordinal, table.num_rows)
    starts = np.zeros(table.num_rows, np.bool_)
    for name in dataset.group_by:
        starts |= _changes(table.column(name))
    groups = np.cumsum(starts)
    count = int(groups[-1]) + 1 if len(groups) else 0
    keys: npt.NDArray[np.uint64] = shuffle_keys(identity.seed, identity.epoch, ordinal, count)
    row_keys: npt.NDArray[np.uint64] = keys[groups]
    return row_keys


def _changes(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether each value differs from the one before it; two nulls are equal. First: False."""
    changed = np.zeros(len(column), np.bool_)
    if len(column) > 1:
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        differs = pc.fill_null(pc.not_equal(before, after), True)
        both_null = pc.and_(pc.is_null(before), pc.is_null(after))
        changed[1:] = np.asarray(pc.and_not(differs, both_null))
    return changed
