"""What the generators of flat workloads share: files of row groups, and a command line."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def empty_folder(out: Path) -> Path:
    """The folder, made if it is not there.

    Raises FileExistsError where it holds something, since a folder is read whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: choose another folder, or empty it")
    return out


def write_files(out: Path, tables: Iterator[pa.Table], groups_a_file: int, **options: Any) -> int:
    """Writes out/part-*.parquet, each table one row group; returns the bytes written."""
    written = 0
    for index in itertools.count():
        groups = itertools.islice(tables, groups_a_file)
        if (first := next(groups, None)) is None:
            return written
        path = out / f"part-{index:05d}.parquet"
        with pq.ParquetWriter(path, first.schema, write_statistics=False, **options) as writer:
            for table in itertools.chain([first], groups):
                writer.write_table(table, row_group_size=table.num_rows)
        written += path.stat().st_size
    raise AssertionError("count() never ends")


def command_line(name: str, write: Callable[[Path, int, int], int]) -> int:
    """Writes a workload as the arguments say; the exit status."""
    parser = argparse.ArgumentParser(description=f"Write {name} as Parquet")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.rows < 1 or options.seed < 0:
        parser.error("--rows must be at least 1, --seed at least 0")
    try:
        written = write(options.out, options.rows, options.seed)
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.rows:,} rows, {written:,} bytes")
    return 0
