"""Serves health on --listen and lives by --lifeline; STAND_IN=die makes it fail at its start."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


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
    if os.environ.get("STAND_IN") == "die":
        sys.stderr.write("the setting is wrong\n")
        return 3
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(options.listen)
    server.start()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    lifeline = os.open(options.lifeline, os.O_RDONLY)
    while os.read(lifeline, 1):
        pass
    server.stop(grace=0).wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
