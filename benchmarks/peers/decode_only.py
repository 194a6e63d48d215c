"""pyarrow doing nothing but decode the columns of homefeed: the bound of whoever reads Parquet.

Settings: threads (each decodes its own row groups). Rows and values of the files count, so that
a grouped file's are comparable; nothing is transformed and no batch is made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import tree_cpu_s
from benchmarks.peers import protocol
from benchmarks.peers.homefeed import COLUMNS, LABEL, Split, dealt, splits


def rows_of(table: pa.Table) -> int:
    """The rows of a table; of a grouped one, those in its lists."""
    labels = table[LABEL]
    if not pa.types.is_list(labels.type):
        return int(table.num_rows)
    return sum(len(chunk.flatten()) for chunk in labels.chunks)


def decode_part(wanted: Sequence[Split]) -> int:
    """Decodes row groups and drops them, the columns of each one after the other; their rows."""
    path, file, rows = "", None, 0
    for split_path, number in wanted:
        if file is None or split_path != path:
            path, file = split_path, pq.ParquetFile(split_path)
        rows += rows_of(file.read_row_group(number, list(COLUMNS), use_threads=False))
    return rows


def decode(wanted: Sequence[Split], threads: int) -> int:
    """One pass; the rows it decoded."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(decode_part, [dealt(wanted, k, threads) for k in range(threads)]))


def main() -> None:
    """One run, after a pass that does not count."""
    options = protocol.arguments()
    protocol.say("ready", settings=options.settings, versions=protocol.versions("pyarrow"))
    wanted = splits(options.folder)[: options.row_groups]
    decode(wanted[: protocol.WARM_UP_SPLITS], options.settings["threads"])
    began_s, spent_s, rows = time.monotonic(), tree_cpu_s(os.getpid()), 0
    while time.monotonic() - began_s < options.seconds:
        rows += decode(wanted, options.settings["threads"])
    protocol.say(
        "run",
        rows=rows,
        values=0,
        seconds=time.monotonic() - began_s,
        cpu_s={"server": tree_cpu_s(os.getpid()) - spent_s, "client": 0.0},
        wire_bytes=None,
    )


if __name__ == "__main__":
    main()
