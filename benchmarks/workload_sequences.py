"""sequences: lists of ids whose mean length is a quarter of their maximum, seeded.

    python benchmarks/workload_sequences.py --rows 200000 --out DIR

DIR/jagged and DIR/padded hold the same rows, each with its dataset.yaml: three lists of ids from 1
to 2^18 (Zipf 1.1), of 0 to 128 elements and 32 on average, and a label. padded has every list
filled up with zeros to 128. DIR/dataset.yaml is that of jagged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.workload_criteo import zipf_ranks
from benchmarks.workload_files import command_line, empty_folder, write_files

KEYS = ("seq_0", "seq_1", "seq_2")
LONGEST = 128
IDS = 1 << 18
ROW_GROUP_ROWS = 25_000


def sequences(rows: int, seed: int, *, padded: bool) -> Iterator[pa.Table]:
    """The row groups of exactly this many rows."""
    for index, start in enumerate(range(0, rows, ROW_GROUP_ROWS)):
        rng = np.random.default_rng([seed, index])
        count = min(ROW_GROUP_ROWS, rows - start)
        columns = {"label": pa.array((rng.random(count) < 0.03).astype(np.int8))}
        for name in KEYS:
            # Beta(1/2, 3/2) has mean 1/4: many short lists, some full ones.
            lengths = np.floor(rng.beta(0.5, 1.5, count) * (LONGEST + 1)).astype(np.int64)
            ids = 1 + zipf_ranks(rng, IDS - 1, int(lengths.sum())).astype(np.int64)
            columns[name] = _padded(lengths, ids) if padded else _jagged(lengths, ids)
        yield pa.table(columns)


def _jagged(lengths: np.ndarray, ids: np.ndarray) -> pa.Array:
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))


def _padded(lengths: np.ndarray, ids: np.ndarray) -> pa.Array:
    matrix = np.zeros((len(lengths), LONGEST), np.int64)
    matrix[np.arange(LONGEST) < lengths[:, None]] = ids
    return _jagged(np.full(len(lengths), LONGEST), matrix.reshape(-1))


def write_sequences(out: Path, rows: int, seed: int = 0) -> int:
    """Writes out/jagged and out/padded; returns the bytes of Parquet.

    Raises FileExistsError where out holds something.
    """
    # Only here: it loads torch, which the generator does not need.
    from trainer_client import Dataset, Label, Sparse, parquet

    empty_folder(out)
    written = 0
    for form in ("padded", "jagged"):
        folder = empty_folder(out / form)
        tables = sequences(rows, seed, padded=form == "padded")
        written += write_files(folder, tables, 40, compression="zstd", compression_level=3)
        dataset = Dataset(
            source=parquet(folder.resolve()), features=(Sparse(*KEYS), Label("label"))
        )
        (folder / "dataset.yaml").write_text(dataset.to_yaml())
    (out / "dataset.yaml").write_text((out / "jagged" / "dataset.yaml").read_text())
    return written


if __name__ == "__main__":
    sys.exit(command_line("sequences", write_sequences))
