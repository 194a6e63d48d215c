"""A training batch as one Arrow row whose lists are the tensors, for peers that move Arrow data."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import pyarrow as pa

from benchmarks.peers.homefeed import RowBatch

SCHEMA = pa.schema(
    {
        "dense": pa.list_(pa.float32()),
        "labels": pa.list_(pa.float32()),
        "values": pa.list_(pa.int64()),
        "lengths": pa.list_(pa.int32()),
    }
)


def packed(batch: RowBatch) -> pa.RecordBatch:
    """A batch as one row of lists, without copies."""
    arrays = [batch.dense.T.ravel(), batch.labels, batch.values, batch.lengths]
    columns = [
        pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), pa.array(array))
        for array in arrays
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def unpacked(row: pa.RecordBatch) -> RowBatch:
    """The batch in a row of lists, without copies."""
    arrays: list[npt.NDArray[Any]] = [
        row.column(name).flatten().to_numpy(zero_copy_only=True) for name in SCHEMA.names
    ]
    dense, labels, values, lengths = arrays
    return RowBatch(dense.reshape(-1, len(labels)).T, labels, values, lengths)
