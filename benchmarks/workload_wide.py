"""wide: a table of 200 columns after MLPerf Storage's DLRM workload, seeded.

    python benchmarks/workload_wide.py --rows 1000000 --out DIR

As that workload has it (mlcommons/storage, configs/dlio/workload/dlrm_b200.yaml): 200 numbers a
row, of 2, 4, 8 and 1 bytes in its proportions (756 bytes a row in memory), of which training reads
40, in uncompressed row groups of 6,144 rows. The integers are ids of 0 to 127, the rest are normal.

dataset.yaml delivers the 40 columns (read_*); dataset_all.yaml all 200. Integers become sparse
features hashed to 2^10, floating-point columns dense ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.workload_files import command_line, empty_folder, write_files

ROW_GROUP_ROWS = 6_144
# Small files: Ray Data reads a file in one task.
FILE_ROWS = 8 * ROW_GROUP_ROWS
BUCKETS = 1 << 10
# How many columns of a type the workload has, and how many of them training reads.
COLUMNS = {"float16": (52, 4), "float32": (56, 27), "float64": (48, 5), "int8": (44, 4)}


def column_names() -> dict[str, str]:
    """The type of each of the 200 columns, in the order of the file."""
    names: dict[str, str] = {}
    for dtype, (count, read) in COLUMNS.items():
        kind = "id" if dtype == "int8" else "dense"
        for k in range(count):
            names[f"{'read' if k < read else 'skip'}_{kind}_{dtype}_{k:02d}"] = dtype
    return names


def wide(rows: int, seed: int) -> Iterator[pa.Table]:
    """The row groups of exactly this many rows."""
    names = column_names()
    for index, start in enumerate(range(0, rows, ROW_GROUP_ROWS)):
        count = min(ROW_GROUP_ROWS, rows - start)
        rng = np.random.default_rng([seed, index])
        columns = {}
        for name, dtype in names.items():
            if dtype == "int8":
                values = rng.integers(0, 128, count, dtype=np.int8)
            else:
                values = rng.standard_normal(count, dtype=np.float32).astype(dtype)
            columns[name] = pa.array(values)
        yield pa.table(columns)


def write_wide(out: Path, rows: int, seed: int = 0) -> int:
    """Writes out/part-*.parquet, dataset.yaml and dataset_all.yaml; returns the bytes of Parquet.

    Raises FileExistsError where out holds something.
    """
    written = write_files(
        empty_folder(out),
        wide(rows, seed),
        FILE_ROWS // ROW_GROUP_ROWS,
        compression="none",
        use_dictionary=False,
    )
    (out / "dataset.yaml").write_text(wide_yaml(out, "read_"))
    (out / "dataset_all.yaml").write_text(wide_yaml(out, ""))
    return written


def wide_yaml(folder: Path, prefix: str) -> str:
    """The dataset of the columns whose names start with a prefix."""
    # Only here: it loads torch, which the generator does not need.
    from trainer_client import Dataset, Dense, Sparse, ops, parquet

    dataset = Dataset(
        source=parquet(folder.resolve()),
        features=(
            Dense(f"{prefix}*dense_*"),
            Sparse(f"{prefix}*id_*", ops=[ops.HashBucket(BUCKETS)]),
        ),
    )
    return dataset.to_yaml()


if __name__ == "__main__":
    sys.exit(command_line("wide", write_wide))
