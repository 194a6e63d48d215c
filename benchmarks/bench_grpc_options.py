"""Which gRPC options carry batches at the least cost.

    python benchmarks/bench_grpc_options.py [--quick] [--runs N] [--json FILE]

A server process streams messages of a batch's size to a client that only receives them, over
loopback, once with the product's options and once with each candidate beside them. The table shows
the rate and the CPU time of both processes for each GB.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from benchmarks.harness import arguments, measured, report, runs_of, shown, table, tree_cpu_s
from trainer_client.transport.channels import OPTIONS

Options: TypeAlias = tuple[tuple[str, int], ...]

METHOD = "/benchmark/Stream"
MESSAGE_BYTES = {"clustered, 4096 rows": 400_000, "logged, 4096 rows": 1_200_000}
CANDIDATES: dict[str, Options] = {
    "as shipped": (),
    "optimization_target=throughput": (("grpc.optimization_target", 2),),
    "max_frame_size 1 MiB": (("grpc.http2.max_frame_size", 1 << 20),),
    "lookahead_bytes 64 KiB": (("grpc.http2.lookahead_bytes", 64 << 10),),
    "lookahead_bytes 4 MiB": (("grpc.http2.lookahead_bytes", 4 << 20),),
    "bdp_probe": (("grpc.http2.bdp_probe", 1),),
    "write_buffer_size 1 MiB": (("grpc.http2.write_buffer_size", 1 << 20),),
    "tcp_read_chunk_size 256 KiB": (
        ("grpc.experimental.tcp_read_chunk_size", 256 << 10),
        ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
    ),
}


def serve(candidate: str) -> None:
    """A server that streams as many messages as asked for, until its standard input closes."""

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        del context
        count, size = map(int, request.split())
        message = bytes(size)
        for _ in range(count):
            yield message

    handler = grpc.method_handlers_generic_handler(
        "benchmark", {"Stream": grpc.unary_stream_rpc_method_handler(stream)}
    )
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[("grpc.max_send_message_length", 1 << 28), *CANDIDATES[candidate]],
    )
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None).wait()


@contextmanager
def running(candidate: str) -> Iterator[tuple[int, int]]:
    """The port and pid of a server with a candidate's options."""
    command = [sys.executable, "-m", "benchmarks.bench_grpc_options", "--serve", candidate]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.stdin.close()


def receive(
    port: int, pid: int, candidate: str, size: int, total: int
) -> tuple[float, float, float]:
    """GB a second, and the CPU seconds a GB of client and server."""
    options = [*OPTIONS, *CANDIDATES[candidate]]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHOD)
        for _ in call(f"10 {size}".encode()):
            pass
        began_s, server_s, client_s = time.monotonic(), tree_cpu_s(pid), time.process_time()
        received = sum(len(message) for message in call(f"{total // size} {size}".encode()))
        took_s = time.monotonic() - began_s
        gigabytes = received / 1e9
        return (
            gigabytes / took_s,
            (time.process_time() - client_s) / gigabytes,
            (tree_cpu_s(pid) - server_s) / gigabytes,
        )


def main() -> None:
    """Measures and reports."""
    parser = arguments("Which gRPC options carry batches at the least cost")
    parser.add_argument("--serve", choices=list(CANDIDATES), help="used by itself")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    total = 400_000_000 if options.quick else 2_000_000_000
    results: list[dict[str, Any]] = []
    for name, size in MESSAGE_BYTES.items():
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CANDIDATES}
        for _ in range(runs_of(options)):
            for candidate in CANDIDATES:
                with running(candidate) as (port, pid):
                    figures[candidate].append(receive(port, pid, candidate, size, total))
        for candidate, runs in figures.items():
            rate, client, server = zip(*runs, strict=True)
            results.append(
                {
                    "messages": name,
                    "options": candidate,
                    "rate": measured(rate, "GB/s"),
                    "client_cpu": measured(client, "CPU-s/GB"),
                    "server_cpu": measured(server, "CPU-s/GB"),
                }
            )
    table(
        "gRPC options, loopback; median (min-max)",
        ("messages", "options", "GB/s", "client CPU-s/GB", "server CPU-s/GB"),
        [
            (
                result["messages"],
                result["options"],
                *(shown(result[key], 2) for key in ("rate", "client_cpu", "server_cpu")),
            )
            for result in results
        ],
    )
    report(options, "grpc_options", results)


if __name__ == "__main__":
    main()
