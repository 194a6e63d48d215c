"""Small Parquet data that tests read: known rows, several files, uneven row groups."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_COUNT = 10_000
FILE_ROWS = (4_000, 1_000, 5_000)
ROW_GROUP_ROWS = 700


def make_table(row_count: int = ROW_COUNT, seed: int = 0) -> pa.Table:
    """Rows with every shape that features come in.

    id int64 0, 1, 2 …; request int64 (runs of 1 to 5 rows); user int64; city string with nulls;
    seq list<int64> with empty and null lists; tags list<string>; dense float64 with nulls, NaN
    and infinities; price float32; label int8.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 8, row_count)
    values = rng.integers(0, 2**40, lengths.sum())
    bounds = np.cumsum(lengths)[:-1]
    lists = [part.tolist() for part in np.split(values, bounds)]
    seq = [None if i % 17 == 0 else part for i, part in enumerate(lists)]
    dense = rng.lognormal(size=row_count)
    dense[::101], dense[::103] = np.nan, np.inf
    return pa.table(
        {
            "id": pa.array(np.arange(row_count)),
            "request": np.repeat(np.arange(row_count), rng.integers(1, 6, row_count))[:row_count],
            "user": rng.integers(0, 2**63 - 1, row_count),
            "city": pa.array([None if i % 13 == 0 else f"city {i % 50}" for i in range(row_count)]),
            "seq": pa.array(seq, pa.list_(pa.int64())),
            "tags": pa.array([[f"t{i % 7}", f"u{i % 11}"][: i % 3] for i in range(row_count)]),
            "dense": pa.array(dense, mask=rng.random(row_count) < 0.05),
            "price": rng.random(row_count).astype(np.float32),
            "label": rng.integers(0, 2, row_count).astype(np.int8),
        }
    )


def write_dataset(
    folder: Path, table: pa.Table | None = None, row_group_rows: int = ROW_GROUP_ROWS
) -> int:
    """Writes a table as the files of a folder; returns its number of rows."""
    table = make_table() if table is None else table
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for i, rows in enumerate(FILE_ROWS):
        pq.write_table(
            table.slice(start, rows),
            folder / f"part-{i}.parquet",
            row_group_size=row_group_rows,
            compression="zstd",
        )
        start += rows
    return start
