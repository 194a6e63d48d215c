"""How fast other shapes than homefeed go: strings to hash, and a table of 200 columns.

    python benchmarks/bench_workloads.py [--quick] [--json FILE]

criteo (benchmarks/workload_criteo.py) in batches of 4,096 and of 65,536; wide
(benchmarks/workload_wide.py) with the 40 of its 200 columns that MLPerf Storage's DLRM workload
reads, and with all of them. No row group is shuffled, as the peer's are not; beside it stands our
default, which shuffles. A server a core and one client, all on this machine. A run is a fresh
epoch, after one that is not counted; workloads take turns. Beside each: Ray Data with the same
transformation in vectorised numpy (make bench-setup; benchmarks/peers/flat.py), as fast as we can
make it and by rows, as its documentation shows it (benchmarks/peers/raydata.py), timed as
benchmarks/peers/protocol.py says, and the rate at which one thread does nothing but decode the same
columns with pyarrow. Rows are compared by checksum first. --quick runs Ray Data once, for the first
case, not by rows, and compares how many ids it delivers instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch

from benchmarks.delivery import EPOCH_UNITS, expanded, one_epoch
from benchmarks.harness import (
    CACHE,
    CORES,
    arguments,
    fleet,
    measured,
    report,
    runs_of,
    shown,
    table,
    written,
)
from benchmarks.peer_process import Event, PeerError, only, python_of, run_module
from benchmarks.peers.checksum import Checksum, differences
from benchmarks.peers.homefeed import RowBatch
from trainer_client import Batch, BatchStream, Dataset

# MLPerf Storage asks this of a data path for each accelerator of the H100 class.
MLPERF_DLRM_EXAMPLES_PER_S = 1_150_000
ROWS = {"criteo": 4_000_000, "wide": 1_000_000}
QUICK_ROWS = {"criteo": 1_000_000, "wide": 200_000}
# How long a run of Ray Data lasts at least.
SECONDS, QUICK_SECONDS = 5.0, 1.0
CHECKED_ROWS = {"criteo": 200_000, "wide": 50_000}
# The forms of Ray Data, and whether they are by rows.
RAY_DATA = {"raydata": False, "raydata_rows": True}


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset of a workload's folder, in batches of a size; quick: --quick has its peer too."""

    workload: str
    dataset: str
    batch_size: int
    prefix: str = ""
    quick: bool = False

    @property
    def name(self) -> str:
        """The case for people."""
        columns = f" ({self.prefix}* only)" if self.prefix else ""
        return f"{self.workload}{columns}, batch {self.batch_size:,}"

    def columns(self, folder: Path) -> list[str]:
        """The columns of its files that it reads."""
        first = min(folder.glob("*.parquet"))
        return [name for name in pq.read_schema(first).names if name.startswith(self.prefix)]

    def raydata(self, folder: Path, *flags: str, rows: bool) -> list[Event]:
        """One process of Ray Data, by rows or not; its events. Raises PeerError."""
        settings = {
            "torch": False,
            "rows": rows,
            "flat": self.workload,
            "columns": self.columns(folder),
            "batch_size": self.batch_size,
        }
        arguments = [str(folder), "--settings", json.dumps(settings), *flags]
        return run_module(python_of("raydata"), "raydata", *arguments)


CASES = (
    Case("criteo", "dataset.yaml", 4_096, quick=True),
    Case("criteo", "dataset.yaml", 65_536),
    Case("wide", "dataset.yaml", 4_096, prefix="read_"),
    Case("wide", "dataset_all.yaml", 4_096),
)


def folder_of(workload: str, rows: int) -> Path:
    """The folder of a workload, written if it is not there."""
    return written(
        CACHE / f"{workload}-{rows}", f"workload_{workload}.py", "--rows", str(rows)
    ).resolve()


def stream_of(case: Case, folder: Path, target: str, *, shuffle: bool) -> BatchStream:
    """The stream of a case's dataset."""
    dataset = Dataset.from_yaml(folder / case.dataset)
    return BatchStream(dataset, target=target, batch_size=case.batch_size, shuffle=shuffle)


def row_batch(batch: Batch) -> RowBatch:
    """A batch as the peers deliver it: without a label, zeros."""
    assert batch.sparse is not None
    labels = torch.zeros(batch.batch_size) if batch.labels is None else batch.labels[:, 0]
    return RowBatch(batch.dense, labels, batch.sparse.values, batch.sparse.lengths)


def check(case: Case, target: str) -> None:
    """Compares the rows that both deliver. Raises PeerError with what differs."""
    folder = folder_of(case.workload, CHECKED_ROWS[case.workload])
    ours = Checksum()
    with stream_of(case, folder, target, shuffle=False) as stream:
        for batch in stream:
            ours.add(row_batch(batch))
    for form, rows in RAY_DATA.items():
        theirs = only(case.raydata(folder, "--check", rows=rows), "checksums")
        if wrong := differences(ours.as_json(), theirs):
            raise PeerError(f"{case.name}: {form} delivers other rows: {'; '.join(wrong)}")


def ids_a_row(batch: Batch) -> float:
    """How many ids a row of a batch has."""
    assert batch.sparse is not None
    return len(batch.sparse.values) / batch.batch_size


def raydata_run(
    case: Case, folder: Path, form: str, expected_ids: float, seconds: float
) -> dict[str, float]:
    """One run of a form of Ray Data. Raises PeerError if it has another number of ids a row."""
    run = only(case.raydata(folder, "--seconds", str(seconds), rows=RAY_DATA[form]), "run")
    ids = run["values"] / run["rows"]
    if abs(ids / expected_ids - 1) > 0.01:
        raise PeerError(f"{case.name}: {form} delivered {ids:.2f}, not {expected_ids:.2f} ids")
    return {
        f"{form}_examples_per_s": run["rows"] / run["seconds"],
        f"{form}_cpu_s_per_million": sum(run["cpu_s"].values()) / run["rows"] * 1e6,
    }


def decode_alone(folder: Path, columns: list[str]) -> float:
    """Rows a second that one thread decodes with pyarrow."""
    rows, began_s = 0, time.monotonic()
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path, pre_buffer=True)
        for group in range(file.num_row_groups):
            rows += file.read_row_group(group, columns, use_threads=False).num_rows
    return rows / (time.monotonic() - began_s)


# What is told of shuffled epochs too.
SHUFFLED = ("examples_per_s", "server_cpu_s_per_million", "client_cpu_s_per_million")
UNITS = EPOCH_UNITS | {
    **{f"shuffled_{name}": EPOCH_UNITS[name] for name in SHUFFLED},
    "decode_rows_per_s": "rows/s",
    **{f"{form}_examples_per_s": "examples/s" for form in RAY_DATA},
    **{f"{form}_cpu_s_per_million": "s/million examples" for form in RAY_DATA},
}

Figures = dict[Case, dict[str, list[float]]]


class Fed(NamedTuple):
    """A stream that does not shuffle, one that does, and their servers' processes."""

    stream: BatchStream
    shuffled: BatchStream
    pids: list[int]

    def epoch(self) -> dict[str, float]:
        """An epoch of either."""
        found = one_epoch(self.stream, self.pids, expanded)
        shuffled = one_epoch(self.shuffled, self.pids, expanded)
        return found | {f"shuffled_{name}": shuffled[name] for name in SHUFFLED}


def measure(options: Namespace) -> Figures:
    """The runs of every figure of every case. Raises PeerError."""
    rows = QUICK_ROWS if options.quick else ROWS
    seconds = QUICK_SECONDS if options.quick else SECONDS
    folders = {name: folder_of(name, count) for name, count in rows.items()}
    peers = [case for case in CASES if case.quick or not options.quick]
    figures: Figures = {case: defaultdict(list) for case in CASES}
    with ExitStack() as stack:
        target, pids = stack.enter_context(fleet(CORES))
        for case in () if options.quick else peers:
            check(case, target)
        fed = {}
        for case in CASES:
            unshuffled, shuffled = (
                stack.enter_context(
                    stream_of(case, folders[case.workload], target, shuffle=shuffle)
                )
                for shuffle in (False, True)
            )
            fed[case] = Fed(unshuffled, shuffled, pids)
        ids = {case: ids_a_row(next(iter(each.stream))) for case, each in fed.items()}
        for run in range(runs_of(options) + 1):
            forms = [
                form for form in RAY_DATA if not options.quick or (form, run) == ("raydata", 1)
            ]
            for case in CASES:
                folder = folders[case.workload]
                found = fed[case].epoch()
                if not run:
                    continue
                found["decode_rows_per_s"] = decode_alone(folder, case.columns(folder))
                for form in forms if case in peers else ():
                    found |= raydata_run(case, folder, form, ids[case], seconds)
                for name, value in found.items():
                    figures[case][name].append(value)
    return figures


def show(figures: Figures) -> None:
    """The table."""
    header = (
        "case",
        "examples/s",
        "shuffled",
        "Ray Data",
        "times",
        "Ray Data by rows",
        "times",
        "server CPU s/M",
        "client",
        "Ray Data",
        "by rows",
    )
    cells = []
    for case, runs in figures.items():
        found = {name: measured(values, UNITS[name]) for name, values in runs.items()}
        rate = found["examples_per_s"]
        peers = [found.get(f"{form}_examples_per_s") for form in RAY_DATA]
        spent = [found.get(f"{form}_cpu_s_per_million") for form in RAY_DATA]
        beside = [
            (shown(peer), f"{rate['median'] / peer['median']:.2f}") if peer else ("-", "-")
            for peer in peers
        ]
        cells.append(
            (
                case.name,
                shown(rate),
                shown(found["shuffled_examples_per_s"]),
                *chain.from_iterable(beside),
                shown(found["server_cpu_s_per_million"], 2),
                shown(found["client_cpu_s_per_million"], 2),
                *(shown(each, 2) if each else "-" for each in spent),
                f"{found['wire_bytes_per_example']['median']:.0f}",
                shown(found["decode_rows_per_s"]),
            )
        )
    cores = len(os.sched_getaffinity(0))
    title = f"servers and one client on {cores} cores"
    table(title, (*header, "wire B/ex", "decode alone"), cells)
    print(
        f"MLPerf Storage's DLRM workload asks {MLPERF_DLRM_EXAMPLES_PER_S:,} samples/s for each "
        "H100-class accelerator, of the 40 columns."
    )


def main() -> int:
    """Measures and reports."""
    options = arguments("criteo and the wide table").parse_args()
    try:
        figures = measure(options)
    except PeerError as error:
        print(f"bench_workloads: {error}", file=sys.stderr)
        return 1
    show(figures)
    results: list[dict[str, Any]] = [
        {
            "workload": case.workload,
            "case": case.name,
            "batch_size": case.batch_size,
        }
        | {name: measured(values, UNITS[name]) for name, values in runs.items()}
        for case, runs in figures.items()
    ]
    report(options, "bench_workloads", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
