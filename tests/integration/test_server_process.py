"""The server as a process: what it logs, how it starts, drains and ends."""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from tests.fakes.process import ServerProcess, python_environment
from tests.fakes.wire import canonical, receive, shard_requests, spec

Connect = Callable[[str], pb_grpc.PreprocessorServiceStub]


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        return int(answer.status)


def test_starts_serves_and_drains_a_stream_at_a_batch_boundary(
    dataset_root: Path, connect: Connect
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments) as server:
        address = server.wait_for("listening")["address"]
        assert not address.endswith(":0")
        server.wait_for("serving")
        for service in ("", "headrace.v1.PreprocessorService"):
            assert health(address, service) == health_pb2.HealthCheckResponse.SERVING
        stub = connect(address)
        (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=16, num_shards=1))
        whole = receive(stub, request)
        stream = stub.StreamBatches(request, timeout=60)
        assert next(stream).HasField("schema")
        first = next(stream).batch
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        rest = list(stream)
        end = rest[-1].end
        got = [first, *(message.batch for message in rest[:-1])]
        assert end.reason == pb.END_REASON_DRAINING
        assert end.cursor == got[-1].next_cursor
        assert len(got) < len(whole.batches)
        assert [canonical(b) for b in got] == [canonical(b) for b in whole.batches[: len(got)]]
        assert server.wait() == 0
        assert server.log[-1]["event"] == "stopped"


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the kernel is not Linux")
def test_threads_that_serve_interrupt_nobody(dataset_root: Path, connect: Connect) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments) as server:
        stub = connect(server.wait_for("listening")["address"])
        before = tasks_of(server)
        (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=16, num_shards=1))
        receive(stub, request)
        policies = {os.sched_getscheduler(server.process.pid)}
        for task in tasks_of(server) - before:
            with contextlib.suppress(ProcessLookupError):
                policies.add(os.sched_getscheduler(task))
        assert policies == {os.SCHED_BATCH}


def tasks_of(server: ServerProcess) -> set[int]:
    return {int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()}


def test_a_signal_to_any_of_its_threads_ends_it(dataset_root: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments, module="tests.fakes.signalled") as server:
        assert server.wait() == 0
        assert server.log[-1]["event"] == "stopped"


def test_a_stream_that_nobody_reads_does_not_hold_up_the_end(
    dataset_root: Path, connect: Connect
) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments, "--drain-timeout-s", "0.5") as server:
        stub = connect(server.wait_for("listening")["address"])
        request = pb.StreamBatchesRequest(
            dataset=spec(), identity=pb.BatchIdentity(batch_size=1000, num_shards=1)
        )
        stream = stub.StreamBatches(request)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_health_watch_does_not_hold_up_the_end(dataset_root: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments, "--drain-timeout-s", "3600") as server:
        address = server.wait_for("serving")["address"]
        with grpc.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert server.wait() == 0


def test_ends_when_nobody_holds_its_lifeline(dataset_root: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "lifeline"
    os.mkfifo(fifo)
    # Held before the server starts; opened for reading too, since nobody reads it yet.
    writer = os.open(fifo, os.O_RDWR)
    with ServerProcess(
        "--listen",
        f"unix:{tmp_path}/socket",
        "--data-root",
        str(dataset_root),
        "--lifeline",
        str(fifo),
    ) as server:
        server.wait_for("serving")
        assert health(f"unix:{tmp_path}/socket") == health_pb2.HealthCheckResponse.SERVING
        os.close(writer)
        assert server.wait() == 0


def test_ends_at_once_when_the_holder_of_its_lifeline_is_gone_already(
    dataset_root: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "lifeline"
    os.mkfifo(fifo)
    arguments = ("--listen", "127.0.0.1:0", "--data-root", str(dataset_root))
    with ServerProcess(*arguments, "--lifeline", str(fifo)) as server:
        assert server.wait() == 0


def test_metrics_are_served(dataset_root: Path, connect: Connect) -> None:
    with ServerProcess(
        "--listen",
        "127.0.0.1:0",
        "--data-root",
        str(dataset_root),
        "--metrics-listen",
        "127.0.0.1:0",
    ) as server:
        stub = connect(server.wait_for("listening")["address"])
        (request,) = shard_requests(stub, spec(), pb.BatchIdentity(batch_size=100, num_shards=1))
        receive(stub, request)
        port = server.wait_for("metrics")["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    assert "headrace_server_rows_total 10000.0" in text
    assert 'headrace_server_stage_seconds_total{stage="encode"}' in text


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, ["--data-root", "required"]),
        (["--data-root", "/nowhere/at/all"], {}, ["--data-root", "/nowhere/at/all"]),
        (["--data-root", "/", "--cpu-threads", "0"], {}, ["--cpu-threads=0", "greater"]),
        (["--data-root", "/"], {"HEADRACE_CPU_THREDS": "2"}, ["HEADRACE_CPU_THREDS"]),
        (["--data-root", "/"], {"HEADRACE_ZSTD_LEVEL": "max"}, ["HEADRACE_ZSTD_LEVEL=max"]),
        (["--data-root", "/", "--listen", "50051"], {}, ["--listen=50051", "host:port"]),
        (["--data-root", "/", "--lifeline", "/no/fifo"], {}, ["--lifeline=/no/fifo"]),
    ],
)
def test_wrong_settings_are_named(
    arguments: list[str], environment: dict[str, str], words: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "preprocessor_server", "serve", *arguments],
        env=python_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_port_that_is_taken(dataset_root: Path) -> None:
    arguments = ("--data-root", str(dataset_root), "--listen")
    with ServerProcess(*arguments, "127.0.0.1:0") as server:
        address = server.wait_for("listening")["address"]
        with ServerProcess(*arguments, address) as second:
            assert second.wait() == 2
            assert any(address in line.get("text", "") for line in second.log)
