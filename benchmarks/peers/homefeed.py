"""homefeed's transformation in vectorised numpy, for peers whose transformations are Python.

Null to 0, log1p, float32 for dense columns; the last 50 of a sequence; every id to one of 2^20
buckets by the hash of docs/ops.md. All features of a batch go into one key-major jagged block, as
Headrace's do, so that ids are hashed in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DENSE = tuple(f"dense_{k}" for k in range(13))
CATEGORICAL = (*(f"user_cat_{k}" for k in range(10)), *(f"item_cat_{k}" for k in range(16)))
SEQUENCES = ("seq_pin_ids", "seq_board_ids", "seq_action")
KEYS = (*CATEGORICAL, *SEQUENCES)
LABEL = "label"
COLUMNS = (*DENSE, *KEYS, LABEL)
ROW_LEVEL = (*DENSE, *(name for name in CATEGORICAL if name.startswith("item_")), LABEL)

BATCH_SIZE = 4096
TAIL = 50
BUCKET_BITS = 20

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
# Values and scratch of one pass stay in a core's L1 and L2 cache.
PASS = 16_384

Ints = npt.NDArray[np.int64]
Split = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """What every system delivers: numpy arrays, or tensors of any library in host memory.

    dense float32 [B, 13], labels float32 [B], and one jagged block of KEYS in their order: values
    int64 [n], lengths int32 [29 * B], key-major; None where a system delivers another form.
    """

    dense: Any
    labels: Any
    values: Any
    lengths: Any

    def __len__(self) -> int:
        return len(self.dense)


def splits(folder: Path) -> list[Split]:
    """Every row group of a folder's Parquet files, in order: path and number."""
    return [
        (str(path), number)
        for path in sorted(folder.glob("*.parquet"))
        for number in range(pq.ParquetFile(path).num_row_groups)
    ]


def row_groups(wanted: Iterable[Split], *, threads: bool) -> Iterator[pa.Table]:
    """The columns of each row group, as rows; threads says whether columns decode in parallel."""
    path, file = "", None
    for split_path, number in wanted:
        if file is None or split_path != path:
            path, file = split_path, pq.ParquetFile(split_path)
        yield exploded(file.read_row_group(number, list(COLUMNS), use_threads=threads))


def exploded(table: pa.Table) -> pa.Table:
    """The rows of a grouped table, one a request; a table of rows as it is."""
    if not pa.types.is_list(table.schema.field(LABEL).type):
        return table
    table = table.combine_chunks()
    parents = pc.list_parent_indices(table[LABEL])
    columns = [
        pc.list_flatten(table[name]) if name in ROW_LEVEL else table[name].take(parents)
        for name in COLUMNS
    ]
    return pa.table(columns, names=list(COLUMNS))


def batches(tables: Iterable[pa.Table], size: int = BATCH_SIZE) -> Iterator[pa.RecordBatch]:
    """The rows of the tables in batches of exactly size, across their ends; the last as it comes.

    Slices without copies, but for the batches that span two tables.
    """
    rest: list[pa.RecordBatch] = []
    for table in tables:
        (rows,) = table.combine_chunks().to_batches()
        start = 0
        if rest:
            start = min(size - sum(part.num_rows for part in rest), rows.num_rows)
            rest.append(rows.slice(0, start))
            if sum(part.num_rows for part in rest) < size:
                continue
            yield pa.concat_batches(rest)
        whole = start + (rows.num_rows - start) // size * size
        for at in range(start, whole, size):
            yield rows.slice(at, size)
        rest = [rows.slice(whole)] if whole < rows.num_rows else []
    if rest:
        yield pa.concat_batches(rest)


def transform(rows: pa.RecordBatch) -> RowBatch:
    """The batch that rows of COLUMNS become, in numpy."""
    count = rows.num_rows
    dense = filled(rows, DENSE)
    np.log1p(dense, out=dense)
    sequences = [rows.column(name) for name in SEQUENCES]
    tails = [tail(column.offsets.to_numpy(), column.values.to_numpy()) for column in sequences]
    scalars = len(CATEGORICAL) * count
    values = np.empty(scalars + sum(len(kept) for kept, _ in tails), np.int64)
    lengths = np.empty(len(KEYS) * count, np.int32)
    for k, name in enumerate(CATEGORICAL):
        values[k * count : (k + 1) * count] = rows.column(name).to_numpy()
    lengths[:scalars] = 1
    np.concatenate([kept for kept, _ in tails], out=values[scalars:])
    np.concatenate([of_rows for _, of_rows in tails], out=lengths[scalars:])
    hash_in_place(values)
    labels = rows.column(LABEL).to_numpy().astype(np.float32)
    return RowBatch(dense.T, labels, values, lengths)


def filled(rows: pa.RecordBatch, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Columns as float32 [columns, rows], nulls as 0."""
    dense = np.empty((len(names), rows.num_rows), np.float32)
    for k, name in enumerate(names):
        column = rows.column(name)
        if column.null_count:
            column = pc.fill_null(column, 0)
        dense[k] = column.to_numpy(zero_copy_only=False)
    return dense


def tail(offsets: npt.NDArray[np.int32], values: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """The last TAIL values of every list, and how many those are, int32."""
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, TAIL)
    # Of every list first what is dropped, then what is kept.
    runs = np.empty((len(lengths), 2), np.int32)
    np.subtract(lengths, kept, out=runs[:, 0])
    runs[:, 1] = kept
    chosen = np.repeat(np.tile(np.array([False, True]), len(lengths)), runs.ravel())
    return values[offsets[0] : offsets[-1]][chosen], kept


def hash_in_place(values: Ints, bucket_bits: int = BUCKET_BITS) -> None:
    """Every value becomes its bucket of 2^bucket_bits: SplitMix64 with seed 0, its high bits."""
    words = values.view(np.uint64)
    scratch = np.empty(min(PASS, len(words)), np.uint64)
    for start in range(0, len(words), PASS):
        z = words[start : start + PASS]
        shifted = scratch[: len(z)]
        z += _GAMMA
        for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
            np.right_shift(z, np.uint64(shift), out=shifted)
            z ^= shifted
            z *= factor
        np.right_shift(z, np.uint64(31), out=shifted)
        z ^= shifted
        z >>= np.uint64(64 - bucket_bits)


def dealt(wanted: Sequence[Split], part: int, parts: int) -> Sequence[Split]:
    """The splits of one of several readers."""
    return wanted[part::parts]
