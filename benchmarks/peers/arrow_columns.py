"""Transformed rows as an Arrow table, a column a feature, and training batches made of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers.homefeed import LABEL, RowBatch


def to_rows(batch: RowBatch, lists: int) -> pa.Table:
    """The rows of a batch: the ids of its last keys as lists, of others as a number or null."""
    count = len(batch)
    columns = {f"dense_{k}": pa.array(column) for k, column in enumerate(batch.dense.T)}
    lengths = batch.lengths.reshape(-1, count)
    end = 0
    for k, of_rows in enumerate(lengths):
        offsets = np.zeros(count + 1, np.int32)
        np.cumsum(of_rows, out=offsets[1:])
        start, end = end, end + int(offsets[-1])
        ids = batch.values[start:end]
        if k >= len(lengths) - lists:
            column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
        elif len(ids) == count:
            column = pa.array(ids)
        else:
            there = of_rows > 0
            numbers = np.zeros(count, np.int64)
            numbers[there] = ids
            column = pa.array(numbers, mask=~there)
        columns[f"ids_{k}"] = column
    return pa.table(columns | {LABEL: pa.array(batch.labels)})


def to_batch(rows: pa.Table) -> RowBatch:
    """The training batch of rows as to_rows() makes them: one dense matrix, one jagged block."""
    (record,) = rows.combine_chunks().to_batches()
    dense, values, lengths = [], [], []
    for name, column in zip(record.schema.names, record.columns, strict=True):
        if name.startswith("dense_"):
            dense.append(column.to_numpy())
        elif pa.types.is_list(column.type):
            values.append(column.flatten().to_numpy())
            lengths.append(pc.list_value_length(column).to_numpy())
        elif name != LABEL:
            there = column.is_valid() if column.null_count else None
            values.append((column if there is None else column.drop_null()).to_numpy())
            lengths.append(
                np.ones(len(rows), np.int32)
                if there is None
                else there.cast(pa.int32()).to_numpy(zero_copy_only=False)
            )
    return RowBatch(
        np.stack(dense).T,
        record.column(LABEL).to_numpy(),
        np.concatenate(values),
        np.concatenate(lengths),
    )
