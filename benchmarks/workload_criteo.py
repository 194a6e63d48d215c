"""criteo: the shape of the Criteo click logs, seeded, so that others can write the same bytes.

    python benchmarks/workload_criteo.py --rows 1000000 --out DIR

13 dense columns of small integers with nulls, 26 categoricals as 8-digit hexadecimal strings, and
a label, in row groups of 50,000 rows. Every categorical has as many values as in the Kaggle display
advertising data, and a few of them are most of its rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.workload_files import command_line, empty_folder, write_files

ROW_GROUP_ROWS = 50_000
# Small files: Ray Data reads a file in one task.
FILE_ROWS = 2 * ROW_GROUP_ROWS
DENSE_COUNT = 13
NULL_SHARES = (0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.77, 0.22)
# Distinct values of C1 to C26: https://www.kaggle.com/c/criteo-display-ad-challenge.
CARDINALITIES = (
    *(1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194),
    *(27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)
CATEGORICAL_NULL_SHARE = 0.03
LABEL_SHARE = 0.26
ZIPF_EXPONENT = 1.1
BUCKETS = 1 << 20

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def criteo(rows: int, seed: int) -> Iterator[pa.Table]:
    """The row groups of exactly this many rows."""
    for index, start in enumerate(range(0, rows, ROW_GROUP_ROWS)):
        rng = np.random.default_rng([seed, index])
        yield _row_group(rng, min(ROW_GROUP_ROWS, rows - start))


def _row_group(rng: np.random.Generator, rows: int) -> pa.Table:
    columns = {"label": pa.array((rng.random(rows) < LABEL_SHARE).astype(np.int8))}
    for k, share in enumerate(NULL_SHARES):
        values = np.floor(np.exp(1.5 * rng.standard_normal(rows))).astype(np.int32)
        columns[f"dense_{k}"] = pa.array(values, mask=rng.random(rows) < share)
    for k, cardinality in enumerate(CARDINALITIES):
        # An odd factor scatters the ranks one to one over 32 bits.
        ids = (zipf_ranks(rng, cardinality, rows) + np.uint32(k << 24)) * np.uint32(0x9E3779B1)
        columns[f"cat_{k}"] = hexadecimal(ids, rng.random(rows) < CATEGORICAL_NULL_SHARE)
    return pa.table(columns)


def zipf_ranks(rng: np.random.Generator, support: int, count: int) -> npt.NDArray[np.uint32]:
    """Ranks from 0 that follow Zipf's law over a bounded support, by its continuous inverse."""
    power = 1.0 - ZIPF_EXPONENT
    largest = (support + 1.0) ** power
    ranks = (1.0 - rng.random(count) * (1.0 - largest)) ** (1.0 / power)
    numbers: npt.NDArray[np.uint32] = (np.minimum(ranks, support) - 1.0).astype(np.uint32)
    return numbers


def hexadecimal(
    numbers: npt.NDArray[np.uint32], null: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """Each number as 8 hexadecimal digits, a string column with nulls where null is true."""
    shifts = np.arange(28, -1, -4, dtype=np.uint32)
    digits = _DIGITS[(numbers[:, None] >> shifts) & np.uint32(15)]
    offsets = np.arange(0, 8 * len(numbers) + 1, 8, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())]
    if null is not None:
        buffers[0] = pa.py_buffer(np.packbits(~null, bitorder="little").tobytes())
    return pa.StringArray.from_buffers(len(numbers), buffers[1], buffers[2], buffers[0])


def write_criteo(out: Path, rows: int, seed: int = 0) -> int:
    """Writes out/part-*.parquet (ZSTD) and dataset.yaml; returns the bytes of Parquet.

    Raises FileExistsError where out holds something.
    """
    written = write_files(
        empty_folder(out),
        criteo(rows, seed),
        FILE_ROWS // ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=3,
    )
    (out / "dataset.yaml").write_text(criteo_yaml(out))
    return written


def criteo_yaml(folder: Path) -> str:
    """The dataset of a folder that holds criteo: nulls to 0 and log1p, strings hashed."""
    # Only here: it loads torch, which the generator does not need.
    from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet

    dataset = Dataset(
        source=parquet(folder.resolve()),
        features=(
            Dense("dense_*", ops=[ops.FillNull(0), ops.Log1p()]),
            Sparse("cat_*", ops=[ops.HashBucket(BUCKETS)]),
            Label("label"),
        ),
    )
    return dataset.to_yaml()


if __name__ == "__main__":
    sys.exit(command_line("criteo", write_criteo))
