"""Whether one client grows with its servers, and what each of them costs it.

    python benchmarks/bench_fan_in.py [--quick] [--layout clustered] [--json FILE]

1 to 64 servers (benchmarks/replay_server.py) send encoded batches of homefeed to one client in
another process of this machine. In "growing" each sends 25,000 examples/s at most, so that
twice the servers should be twice the rate, for as long as client and machine can. In "parted" all
of them together send 200,000 examples/s, so what the client's CPU and memory grow by from row to
row is what a server costs it. A run is a new stream, of which the first second does not count;
memory is what the process has more than before it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    arguments,
    homefeed,
    measured,
    memory_mib,
    report,
    runs_of,
    shown,
    table,
)
from benchmarks.replay_server import replay
from trainer_client import BatchStream, Dataset

BATCH_SIZE = 4096
COUNTS, QUICK_COUNTS = (1, 2, 4, 8, 16, 32, 64), (1, 8, 64)
EXAMPLES_PER_S = 25_000
PARTED_EXAMPLES_PER_S = 200_000
WARM_UP_S = 1.0


def one_run(dataset: Dataset, addresses: Sequence[str], seconds: float) -> dict[str, float]:
    """Rate, and what the client spent, of a new stream over some servers."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # Else what former runs held and gave back would count.
    before_mib = memory_mib(os.getpid())
    with BatchStream(
        dataset,
        target="static:///" + ",".join(addresses),
        batch_size=BATCH_SIZE,
        interleave=max(4, len(addresses)),
    ) as stream:
        rows, began_s, cpu_s = 0, 0.0, 0.0
        batches = iter(stream)
        end_of_warm_up_s = time.monotonic() + WARM_UP_S
        for batch in batches:
            now_s = time.monotonic()
            if not began_s and now_s > end_of_warm_up_s:
                began_s, cpu_s = now_s, time.process_time()
            elif began_s:
                rows += batch.batch_size
                if now_s > began_s + seconds:
                    break
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        return {
            "examples_per_s": rows / took_s,
            "client_cpu_s_per_million": cpu_s / rows * 1e6,
            "client_cpu_share": cpu_s / took_s,
            "client_mib": memory_mib(os.getpid()) - before_mib,
            "client_threads": len(os.listdir("/proc/self/task")),
        }


UNITS = {
    "examples_per_s": "examples/s",
    "client_cpu_s_per_million": "s/million examples",
    "client_cpu_share": "cores",
    "client_mib": "MiB",
    "client_threads": "threads",
}


def measure(
    folder: Path, mode: str, counts: Sequence[int], runs: int, seconds: float
) -> list[dict[str, Any]]:
    """Every number of servers, interleaved run by run."""
    dataset = Dataset.from_yaml(folder / "dataset.yaml")
    figures: dict[int, dict[str, list[float]]] = {n: defaultdict(list) for n in counts}
    growing = mode == "growing"
    with replay(
        folder / "dataset.yaml",
        BATCH_SIZE,
        servers=max(counts),
        examples_per_s=EXAMPLES_PER_S if growing else PARTED_EXAMPLES_PER_S,
        together=not growing,
    ) as (addresses, _):
        for _ in range(runs):
            for n in counts:
                for name, value in one_run(dataset, addresses[:n], seconds).items():
                    figures[n][name].append(value)
    return [
        {"mode": mode, "servers": n}
        | {name: measured(values, UNITS[name]) for name, values in figures[n].items()}
        for n in counts
    ]


def main() -> None:
    """Measures and reports."""
    parser = arguments("1 to 64 rate-limited servers into one client")
    parser.add_argument("--layout", default="clustered")
    options = parser.parse_args()
    folder = homefeed(options.layout, 400_000)
    counts = QUICK_COUNTS if options.quick else COUNTS
    results = []
    for mode in ("growing", "parted"):
        print(f"{mode} …", file=sys.stderr)
        found = measure(folder, mode, counts, runs_of(options), 1.2 if options.quick else 5.0)
        results += found
        table(
            f"{mode}, homefeed {options.layout}, batch {BATCH_SIZE}",
            ("servers", "examples/s", "of linear", "client CPU s/M", "cores", "MiB", "threads"),
            [
                (
                    str(result["servers"]),
                    shown(result["examples_per_s"]),
                    f"{result['examples_per_s']['median'] / _linear(result):.0%}",
                    shown(result["client_cpu_s_per_million"], 2),
                    shown(result["client_cpu_share"], 2),
                    shown(result["client_mib"]),
                    shown(result["client_threads"]),
                )
                for result in found
            ],
        )
    report(options, "bench_fan_in", results)


def _linear(result: dict[str, Any]) -> float:
    """The rate that the servers are limited to."""
    return float(
        result["servers"] * EXAMPLES_PER_S if result["mode"] == "growing" else PARTED_EXAMPLES_PER_S
    )


if __name__ == "__main__":
    main()
