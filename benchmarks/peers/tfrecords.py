"""homefeed as TFRecords, written once: one tf.train.Example a row, packed to be read fast.

    python -m benchmarks.peers.tfrecords FOLDER OUT

"cat" holds the 26 categoricals of a row in KEYS' order and "dense" the 13 floats with NaN for null,
which parses several times faster than a feature a column; each sequence is a feature of its own.
One file a row group, without compression, in the order of the Parquet files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf  # type: ignore[import-untyped]

from benchmarks.peers import homefeed
from benchmarks.peers.homefeed import CATEGORICAL, DENSE, LABEL, SEQUENCES, Split


def stacked(rows: pa.RecordBatch, names: Sequence[str]) -> npt.NDArray[Any]:
    """Columns side by side, [rows, columns]; null floats are NaN."""
    columns = [rows.column(name).to_numpy(zero_copy_only=False) for name in names]
    return np.stack(columns, axis=1)


def write_split(split: Split, path: Path) -> None:
    """One row group as one file; it appears under its name when it is complete."""
    (table,) = homefeed.row_groups([split], threads=False)
    (rows,) = table.combine_chunks().to_batches()
    # Python's own numbers, which protobuf takes faster than numpy's.
    cat = stacked(rows, CATEGORICAL).tolist()
    dense = stacked(rows, DENSE).tolist()
    label = rows.column(LABEL).to_pylist()
    lists = {name: rows.column(name).to_pylist() for name in SEQUENCES}
    draft = path.with_suffix(".draft")
    with tf.io.TFRecordWriter(str(draft)) as writer:
        for row in range(rows.num_rows):
            example = tf.train.Example()
            feature = example.features.feature
            feature["cat"].int64_list.value.extend(cat[row])
            feature["dense"].float_list.value.extend(dense[row])
            feature["label"].float_list.value.append(label[row])
            for name in SEQUENCES:
                feature[name].int64_list.value.extend(lists[name][row])
            writer.write(example.SerializeToString())
    draft.rename(path)


def main() -> None:
    """Writes what is not there yet."""
    folder, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(write_split, split, path)
            for number, split in enumerate(homefeed.splits(folder))
            if not (path := out / f"{number:05d}.tfrecord").exists()
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
