"""A server whose every stream slot is held by a client that reads nothing still answers.

    python benchmarks/bench_stalled_streams.py [--streams 64] [--rows 1000000]

homefeed (clustered), batch 4096. Every slot is taken and left unread; then health checks and
DescribeDataset are timed, and the server's memory is read, against its --read-ahead-bytes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from yaml import safe_load

from benchmarks.harness import homefeed
from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from tests.fakes.process import ServerProcess

READ_AHEAD_BYTES = 1 << 30
CALLS = 50
LARGE_MESSAGES = [("grpc.max_receive_message_length", 512 << 20)]


def resident_mib(pid: int, field: str) -> float:
    """A memory figure of a process (VmRSS, VmHWM), in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def timed_ms(call: Callable[[], object]) -> str:
    """Median and worst time of a call, in milliseconds."""
    times = []
    for _ in range(CALLS):
        began_s = time.perf_counter()
        call()
        times.append((time.perf_counter() - began_s) * 1e3)
    return f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms of {CALLS}"


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description="Answers of a server with stalled streams")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    path = homefeed("clustered", arguments.rows) / "dataset.yaml"
    dataset = json_format.ParseDict(safe_load(path.read_text()), dataset_pb2.DatasetSpec())
    flags = ("--data-root", ".", "--data-root", "/", "--max-streams", str(arguments.streams))
    with ServerProcess(
        "--listen", "127.0.0.1:0", "--read-ahead-bytes", str(READ_AHEAD_BYTES), *flags
    ) as server:
        address, pid = server.wait_for("listening")["address"], server.process.pid
        server.wait_for("serving")
        print(f"idle        {resident_mib(pid, 'VmRSS'):,.0f} MiB")
        with grpc.insecure_channel(address, options=LARGE_MESSAGES) as channel:
            stub = pb_grpc.PreprocessorServiceStub(channel)
            described = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset))
            identity = pb.BatchIdentity(batch_size=4096, shuffle=True, num_shards=8)
            streams = [
                stub.StreamBatches(
                    pb.StreamBatchesRequest(
                        dataset=dataset,
                        snapshot_id=described.snapshot_id,
                        identity=identity,
                        shard=i % 8,
                    )
                )
                for i in range(arguments.streams)
            ]
            for stream in streams:
                next(stream)
            health: Any = health_pb2_grpc.HealthStub(channel)
            for round_name in ("filling", "stalled"):
                answer = timed_ms(lambda: health.Check(health_pb2.HealthCheckRequest()))
                print(f"{round_name:11} Health/Check     {answer}")
                answer = timed_ms(
                    lambda: stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset))
                )
                print(f"{round_name:11} DescribeDataset  {answer}")
                if round_name == "filling":
                    # Until every stream has decoded, sent what the transport takes, and stopped.
                    time.sleep(20)
            print(
                f"all stalled {resident_mib(pid, 'VmRSS'):,.0f} MiB, "
                f"peak {resident_mib(pid, 'VmHWM'):,.0f} MiB, "
                f"--read-ahead-bytes {READ_AHEAD_BYTES >> 20:,} MiB"
            )
            for stream in streams:
                stream.cancel()


if __name__ == "__main__":
    main()
