"""The row groups of a folder, in files of a few each.

    python benchmarks/peers/repack.py FOLDER OUT

For readers whose unit of work is a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

GROUPS_A_FILE = 2


def main() -> None:
    """Writes what is not there yet; a file appears under its name when it is complete."""
    folder, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for first in range(0, file.num_row_groups, GROUPS_A_FILE):
            target = out / f"{path.stem}-{first:05d}.parquet"
            if target.exists():
                continue
            draft = target.with_suffix(".draft")
            with pq.ParquetWriter(
                draft,
                file.schema_arrow,
                compression="zstd",
                compression_level=3,
                write_statistics=False,
            ) as writer:
                for number in range(first, min(first + GROUPS_A_FILE, file.num_row_groups)):
                    table = file.read_row_group(number)
                    writer.write_table(table, row_group_size=table.num_rows)
            draft.rename(target)


if __name__ == "__main__":
    main()
