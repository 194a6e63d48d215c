"""How long until a started server is SERVING, and until an opened stream has its first batch.

    python benchmarks/bench_startup.py [--quick] [--json FILE]

A start is a new server process whose compiled kernels are cached (one before it is not counted),
until gRPC health says SERVING. A first batch is that of a new stream to a warm server: from
BatchStream(...), its connection and its plan included, to per-row tensors. homefeed, batch 4096;
every stream has a seed and so an order of its own, layouts take turns.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.delivery import expanded
from benchmarks.harness import arguments, homefeed, measured, report, runs_of, server, shown, table
from benchmarks.workloads import LAYOUTS
from trainer_client import BatchStream, Dataset

BATCH_SIZE = 4096


def start_s() -> float:
    """Seconds from a server's start until it says that it serves."""
    began_s = time.monotonic()
    with server() as (target, _):
        address = target.removeprefix("static:///")
        with grpc.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest())
        took_s = time.monotonic() - began_s
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError(f"a server that logged that it serves says {answer.status}")
    return took_s


def first_batch_s(dataset: Dataset, target: str, seed: int) -> float:
    """Seconds from opening a stream until the tensors of its first batch are there."""
    began_s = time.monotonic()
    with BatchStream(dataset, target=target, batch_size=BATCH_SIZE, seed=seed) as stream:
        expanded(next(iter(stream)))
        return time.monotonic() - began_s


def measure(rows: int, runs: int) -> list[dict[str, Any]]:
    """Every start and every first batch, in seconds."""
    times: dict[str, list[float]] = defaultdict(list)
    for run in range(runs + 1):
        took_s = start_s()
        if run:
            times["server SERVING"].append(took_s)
    datasets = {
        layout: Dataset.from_yaml(homefeed(layout, rows) / "dataset.yaml") for layout in LAYOUTS
    }
    with server() as (target, _):
        for run in range(runs + 1):
            for layout, dataset in datasets.items():
                took_s = first_batch_s(dataset, target, seed=run)
                if run:
                    times[f"first batch, {layout}"].append(took_s)
    return [{"what": what, "seconds": measured(runs, "s")} for what, runs in times.items()]


def main() -> None:
    """Measures and reports."""
    options = arguments("Time to SERVING, and to the first batch").parse_args()
    rows = 400_000 if options.quick else 4_000_000
    results = measure(rows, runs_of(options))
    table(
        f"homefeed, {rows:,} rows, batch {BATCH_SIZE}",
        ("from start or opening to", "seconds"),
        [(result["what"], shown(result["seconds"], 2)) for result in results],
    )
    report(options, "bench_startup", results)


if __name__ == "__main__":
    main()
