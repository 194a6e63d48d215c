"""Serves health on --listen and lives by --lifeline.

STAND_IN=die makes it fail at its start, "hang" never serve, and "compile" serve when somebody asks
again after a first wait, in which it logs something, as servers that compile kernels do.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class SlowHealth(health_pb2_grpc.HealthServicer):
    """Serves from the second call on, if at all."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._calls = 0

    def Watch(  # noqa: N802 - gRPC's name
        self, _: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        self._calls += 1
        compiles = self._mode == "compile"
        if compiles:
            sys.stderr.write("compiling\n")
            sys.stderr.flush()
        answer = health_pb2.HealthCheckResponse
        serving = compiles and self._calls > 1
        yield answer(status=answer.SERVING if serving else answer.NOT_SERVING)
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--listen", required=True)
    parser.add_argument("--data-root", action="append", required=True)
    parser.add_argument("--cpu-threads", type=int, required=True)
    parser.add_argument("--log-format", choices=["json"], required=True)
    parser.add_argument("--lifeline", required=True)
    options = parser.parse_args()
    settings = sorted(
        "=".join(item) for item in os.environ.items() if item[0].startswith("HEADRACE_")
    )
    sys.stderr.write(f"pid {os.getpid()}\nroots {options.data_root}\nsettings {settings}\n")
    sys.stderr.flush()
    mode = os.environ.get("STAND_IN", "")
    if mode == "die":
        sys.stderr.write("the setting is wrong\n")
        return 3
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    servicer = SlowHealth(mode) if mode else health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(options.listen)
    server.start()
    lifeline = os.open(options.lifeline, os.O_RDONLY)
    while os.read(lifeline, 1):
        pass
    server.stop(grace=0).wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
