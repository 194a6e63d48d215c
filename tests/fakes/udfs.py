"""Functions that servers of tests run: some do what they declare, the others each fail in a way."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_kept: list[bytearray] = []


def noisy(batch: pa.RecordBatch, rng: np.random.Generator) -> pa.RecordBatch:
    """The price less the block's mean, with noise; the size of the block; the city's letters."""
    price = batch.column("price").to_numpy()
    centred = price - price.mean() + rng.standard_normal(len(price))
    letters = pa.array(
        [list(city.encode()) for city in batch.column("city").fill_null("").to_pylist()]
    )
    return pa.RecordBatch.from_pydict(
        {
            "centred": pa.array(centred.astype(np.float32)),
            "block_rows": pa.array(np.full(len(price), len(price), np.int64)),
            "letters": letters.cast(pa.list_(pa.int64())),
        }
    )


def halved(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Half of what another function made; what it was handed comes back too."""
    half = pc.divide(batch.column("centred"), pa.scalar(2, pa.float32()))
    return batch.append_column("half", half)


def mean_of_block(batch: pa.RecordBatch) -> pa.RecordBatch:
    mean = batch.column("id").to_numpy().mean()
    return batch.append_column("mean", pa.array(np.full(batch.num_rows, mean)))


def spread(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Of a column of the Parquet row and one of the row: both are there once a row."""
    total = pc.add(batch.column("age"), batch.column("price"))
    return batch.append_column("total", total.cast(pa.float32()))


def same(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("made", batch.column("price"))


def raises(batch: pa.RecordBatch) -> pa.RecordBatch:
    if batch.column("id")[0].as_py() >= 400:
        raise ValueError("the ids are bad here")
    return batch.append_column("made", batch.column("price"))


def no_batch(batch: pa.RecordBatch) -> dict[str, int]:
    return {"made": batch.num_rows}


def wrong_column(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"mode": batch.column("price")})


def wrong_length(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"made": batch.column("price")[:-1]})


def wrong_type(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"made": batch.column("price").cast(pa.float64())})


def hangs(batch: pa.RecordBatch) -> pa.RecordBatch:
    while batch:
        time.sleep(3600)
    raise AssertionError


def hungry(batch: pa.RecordBatch) -> pa.RecordBatch:
    filled = np.ones(1 << 30)
    return batch.append_column("made", pa.array(filled[: batch.num_rows]))


def leaks(batch: pa.RecordBatch) -> pa.RecordBatch:
    _kept.append(bytearray(120 << 20))
    return same(batch)


def exits(batch: pa.RecordBatch) -> pa.RecordBatch:
    sys.stdout.write("last words\n")
    sys.stdout.flush()
    os._exit(batch.num_columns + 5)


def crashes(batch: pa.RecordBatch) -> pa.RecordBatch:
    ctypes.string_at(batch.num_columns)
    raise AssertionError
