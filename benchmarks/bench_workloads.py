"""How fast other shapes than homefeed go: strings to hash, and a table of 200 columns.

    python benchmarks/bench_workloads.py [--quick] [--json FILE]

criteo (benchmarks/workload_criteo.py) in batches of 4,096 and of 65,536; wide
(benchmarks/workload_wide.py) with the 40 of its 200 columns that MLPerf Storage's DLRM workload
reads, and with all of them. One server and one client, both on this machine. A run is a fresh
epoch, after one that is not counted; workloads take turns. Beside each: the rate at which one
thread does nothing but decode the same columns with pyarrow.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.delivery import expanded
from benchmarks.harness import (
    CACHE,
    arguments,
    measured,
    report,
    runs_of,
    server,
    shown,
    table,
    tree_cpu_s,
    written,
)
from trainer_client import Batch, BatchStream, Dataset

# MLPerf Storage asks this of a data path for each accelerator of the H100 class.
MLPERF_DLRM_EXAMPLES_PER_S = 1_150_000


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset of a workload's folder, in batches of a size."""

    workload: str
    dataset: str
    batch_size: int
    prefix: str = ""

    @property
    def name(self) -> str:
        """The case for people."""
        columns = f" ({self.prefix}* only)" if self.prefix else ""
        return f"{self.workload}{columns}, batch {self.batch_size:,}"


CASES = (
    Case("criteo", "dataset.yaml", 4_096),
    Case("criteo", "dataset.yaml", 65_536),
    Case("wide", "dataset.yaml", 4_096, prefix="read_"),
    Case("wide", "dataset_all.yaml", 4_096),
)


def folder(workload: str, rows: int) -> Path:
    """The folder of a workload, written if it is not there."""
    return written(
        CACHE / f"{workload}-{rows}", f"workload_{workload}.py", "--rows", str(rows)
    ).resolve()


def one_epoch(stream: BatchStream, server_pid: int) -> dict[str, float]:
    """Rate, and what both sides spent."""
    before, began_s = stream.stats(), time.monotonic()
    server_s, client_s = tree_cpu_s(server_pid), time.process_time()
    for batch in stream:
        check(batch)
    took_s = time.monotonic() - began_s
    client_s, server_s = time.process_time() - client_s, tree_cpu_s(server_pid) - server_s
    after = stream.stats()
    rows = after.rows - before.rows
    return {
        "examples_per_s": rows / took_s,
        "server_cpu_s_per_million": server_s / rows * 1e6,
        "client_cpu_s_per_million": client_s / rows * 1e6,
        "wire_bytes_per_example": (after.wire_bytes - before.wire_bytes) / rows,
    }


def check(batch: Batch) -> None:
    """Takes every tensor of a batch. Raises RuntimeError if there is none."""
    if not expanded(batch):
        raise RuntimeError("a batch without tensors: the dataset has no features")


def decode_alone(files: Path, prefix: str) -> float:
    """Rows a second that one thread decodes with pyarrow."""
    rows, began_s = 0, time.monotonic()
    for path in sorted(files.glob("*.parquet")):
        file = pq.ParquetFile(path, pre_buffer=True)
        columns = [name for name in file.schema_arrow.names if name.startswith(prefix)]
        for group in range(file.num_row_groups):
            rows += file.read_row_group(group, columns, use_threads=False).num_rows
    return rows / (time.monotonic() - began_s)


UNITS = {
    "examples_per_s": "examples/s",
    "decode_rows_per_s": "rows/s",
    "server_cpu_s_per_million": "s/million examples",
    "client_cpu_s_per_million": "s/million examples",
    "wire_bytes_per_example": "bytes",
}


def main() -> None:
    """Measures and reports."""
    options = arguments("criteo and the wide table").parse_args()
    rows = {"criteo": 400_000, "wide": 200_000} if options.quick else {}
    folders = {name: folder(name, rows.get(name, 2_000_000)) for name in ("criteo", "wide")}
    figures: dict[Case, dict[str, list[float]]] = {case: defaultdict(list) for case in CASES}
    with ExitStack() as stack:
        target, pid = stack.enter_context(server())
        streams = {
            case: stack.enter_context(
                BatchStream(
                    Dataset.from_yaml(folders[case.workload] / case.dataset),
                    target=target,
                    batch_size=case.batch_size,
                )
            )
            for case in CASES
        }
        for run in range(runs_of(options) + 1):
            for case, stream in streams.items():
                found = one_epoch(stream, pid)
                found["decode_rows_per_s"] = decode_alone(folders[case.workload], case.prefix)
                for name, value in found.items() if run else ():
                    figures[case][name].append(value)
    results: list[dict[str, Any]] = [
        {"workload": case.workload, "case": case.name, "batch_size": case.batch_size}
        | {name: measured(values, UNITS[name]) for name, values in figures[case].items()}
        for case in CASES
    ]
    table(
        f"one server, one client, {len(os.sched_getaffinity(0))} cores",
        ("case", "examples/s", "server CPU s/M", "client CPU s/M", "wire B/ex", "decode alone"),
        [
            (
                result["case"],
                shown(result["examples_per_s"]),
                shown(result["server_cpu_s_per_million"], 2),
                shown(result["client_cpu_s_per_million"], 2),
                f"{result['wire_bytes_per_example']['median']:.0f}",
                shown(result["decode_rows_per_s"]),
            )
            for result in results
        ],
    )
    print(
        f"MLPerf Storage's DLRM workload asks {MLPERF_DLRM_EXAMPLES_PER_S:,} samples/s for each "
        "H100-class accelerator, of the 40 columns."
    )
    report(options, "bench_workloads", results)


if __name__ == "__main__":
    main()
