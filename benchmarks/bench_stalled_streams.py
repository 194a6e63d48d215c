"""A server whose every stream slot is held by a client that reads nothing still answers.

    python benchmarks/bench_stalled_streams.py [--streams 64] [--quick] [--json FILE]

homefeed (clustered), batch 4096. Every slot is taken and left unread; health checks and
DescribeDataset are timed while the streams fill, and again when nothing moves any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.harness import (
    Measured,
    arguments,
    homefeed,
    measured,
    memory_mib,
    report,
    server,
    shown,
    table,
)
from benchmarks.stalled import stalled, wait_until_settled
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from trainer_client import Dataset

CALLS = 50


def timed_ms(call: Callable[[], object]) -> Measured:
    """Times of a call, in milliseconds."""
    times = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        call()
        times.append((time.perf_counter() - began_s) * 1e3)
    return measured(times, "ms")


def measure(streams: int, rows: int) -> list[dict[str, Any]]:
    """Times of both calls, and memory, while streams fill and when they are full."""
    dataset = Dataset.from_yaml(homefeed("clustered", rows) / "dataset.yaml").to_proto()
    described = pb.DescribeDatasetRequest(dataset=dataset)
    results = []
    with (
        server("--max-streams", str(streams)) as (target, pid),
        stalled(target, dataset, streams) as channel,
    ):
        stub = pb_grpc.PreprocessorServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        for state in ("filling", "stalled"):
            if state == "stalled":
                wait_until_settled(pid)
            results.append(
                {
                    "streams": streams,
                    "state": state,
                    "health_ms": timed_ms(lambda: health.Check(health_pb2.HealthCheckRequest())),
                    "describe_ms": timed_ms(lambda: stub.DescribeDataset(described)),
                    "server_peak_mib": memory_mib(pid, "VmHWM"),
                }
            )
    return results


def main() -> None:
    """Measures and reports."""
    parser = arguments("Answers of a server with stalled streams")
    parser.add_argument("--streams", type=int, default=64)
    options = parser.parse_args()
    results = measure(options.streams, 400_000 if options.quick else 1_000_000)
    table(
        f"{options.streams} streams that nobody reads, {CALLS} calls",
        ("streams are", "Health/Check ms", "DescribeDataset ms", "server's peak MiB"),
        [
            (
                result["state"],
                shown(result["health_ms"], 1),
                shown(result["describe_ms"], 1),
                f"{result['server_peak_mib']:,.0f}",
            )
            for result in results
        ],
    )
    report(options, "bench_stalled_streams", results)


if __name__ == "__main__":
    main()
