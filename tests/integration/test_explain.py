"""Each bottleneck, made on purpose, is named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from preprocessor_server.source.inner_rows import METADATA_KEY
from tests.chaos.proxy import Proxy
from tests.fakes.long_line import LongLine
from tests.fakes.process import ROOT, ServerProcess, python_environment
from tests.fakes.refusal import Stub
from trainer_client import Batch, BatchStream, Dataset, Dense, Label, Sparse, kernels, ops, parquet
from trainer_client.cli import cli
from trainer_client.explain import Bound, Explanation
from trainer_client.explain.bounds import BOUND_BY_STAGE

pytestmark = pytest.mark.alone

ROWS = 20_000
COPIES = 64
# So long that few batches are enough, were the machine ever so busy with other things.
DRAWN_S = 2.1

Servers = Callable[[str], str]

# What is served: every bottleneck has a dataset that makes all the rest cheap.
DATASETS = {
    # Many columns that GZIP makes small, and next to no rows pass.
    "wide": Dataset(
        source=parquet("wide"), where="id < 100", features=[Sparse("c*"), Label("label")]
    ),
    # Numbers in text, that become one bit each.
    "text": Dataset(
        source=parquet("text"),
        features=[
            Sparse("text_*", ops=[ops.Cast("int64"), ops.HashBucket(2)]),
            Sparse("cheap"),
            Label("label"),
        ],
    ),
    # Ids that nothing makes smaller.
    "ids": Dataset(source=parquet("ids"), features=[Sparse("id_*"), Label("label")]),
    # A few numbers.
    "slim": Dataset(source=parquet("slim"), features=[Dense("d*"), Label("label")]),
    # A hundred rows share their history.
    "grouped": Dataset(
        source=parquet("grouped", rows=["label"]), features=[Sparse("h*"), Label("label")]
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, ROWS).astype(np.int8)
    number = rng.integers(10**16, 10**17, (4, ROWS))
    requests = ROWS // 100
    history = pa.array([rng.integers(0, 1 << 20, 400) for _ in range(requests)])
    tables = {
        "wide": {
            "id": np.arange(ROWS),
            **{f"c{i}": rng.integers(0, 1000, ROWS) << 20 for i in range(120)},
            "label": label,
        },
        "text": {
            **{f"text_{i}": pa.array(number[i].astype(str)) for i in range(4)},
            "cheap": np.arange(ROWS) % 3,
            "label": label,
        },
        "ids": {
            **{f"id_{i}": rng.integers(0, 1 << 50, ROWS) for i in range(4)},
            "label": label,
        },
        "slim": {"d0": np.zeros(2000), "d1": np.ones(2000), "label": label[:2000]},
        "grouped": {
            **{f"h{i}": history for i in range(4)},
            "label": pa.array(np.split(label, requests)),
        },
    }
    for name, columns in tables.items():
        (root / name).mkdir()
        table = pa.table(columns)
        if name == "grouped":
            table = table.replace_schema_metadata({METADATA_KEY: json.dumps([ROWS])})
        first = root / name / "0.parquet"
        small: dict[str, Any] = {"compression": "gzip", "compression_level": 1}
        codec = small if name == "wide" else {"compression": "none"}
        pq.write_table(table, first, use_dictionary=False, **codec)
        for copy in range(1, COPIES):
            os.link(first, root / name / f"{copy}.parquet")
    return root


@pytest.fixture(scope="module")
def servers(data: Path) -> Iterator[Servers]:
    """The address of a server of a kind; each is started once, when it is first asked for."""
    kernels.load()
    started: dict[str, str] = {}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "small": {"arguments": ["--zstd-level", "19"]},
        "far": {
            "module": "tests.fakes.slow_storage",
            "environment": python_environment(READ_WAIT_S="0.06"),
        },
    }
    with ExitStack() as stack:

        def address(kind: str) -> str:
            if kind not in started:
                options = dict(kinds[kind])
                arguments = ("--listen", "127.0.0.1:0", "--data-root", str(data))
                threads = ("--cpu-threads", "2")
                more = options.pop("arguments", [])
                server = stack.enter_context(ServerProcess(*arguments, *threads, *more, **options))
                server.wait_for("serving")
                started[kind] = server.wait_for("listening")["address"]
            return started[kind]

        yield address


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def endless(stream: BatchStream) -> Iterator[Batch]:
    while True:
        yield from stream


def drawn(
    dataset: str,
    *addresses: str,
    step: Callable[[], object] = lambda: None,
    batch_size: int = 2048,
    **options: Any,
) -> Explanation:
    """Draws batches for a while, with a step after each one, and asks."""
    target = "static:///" + ",".join(addresses)
    with BatchStream(DATASETS[dataset], target=target, batch_size=batch_size, **options) as stream:
        batches = endless(stream)
        next(batches)
        stream.explain()
        deadline_s = time.monotonic() + DRAWN_S
        while time.monotonic() < deadline_s:
            next(batches)
            step()
        return stream.explain()


def check(explanation: Explanation, bound: Bound, *words: str) -> None:
    text = str(explanation)
    assert explanation.bound is bound, text
    for word in words:
        assert word in text, text
    assert max(map(len, text.splitlines())) <= 79
    assert json.loads(json.dumps(explanation.to_dict()))["bound"] == bound.value


def test_slow_storage(servers: Servers) -> None:
    check(drawn("slim", servers("far")), Bound.STORAGE, "> read (storage)", "storage")


def test_decoding_of_parquet(servers: Servers) -> None:
    check(drawn("wide", servers("plain"), batch_size=100), Bound.DECODE, "> decode", "columns")


def test_transforming(servers: Servers) -> None:
    check(drawn("text", servers("plain")), Bound.TRANSFORM, "> transform", "text_")


def test_encoding(servers: Servers) -> None:
    check(drawn("ids", servers("small")), Bound.ENCODE, "> encode", "--zstd-level")


def test_the_wire(servers: Servers) -> None:
    with Proxy(port(servers("plain"))) as proxy:
        proxy.bytes_per_s = 400_000
        check(drawn("ids", proxy.address), Bound.WIRE, "network")


def test_a_long_way_to_the_servers(servers: Servers) -> None:
    with LongLine(port(servers("plain")), 0.05) as line:
        check(drawn("ids", line.address, batch_size=8192), Bound.LATENCY, "interleave")


def test_decoding_in_the_trainer(servers: Servers) -> None:
    explanation = drawn("grouped", servers("plain"), expand=True)
    check(explanation, Bound.CLIENT, "expand=False")


def test_copying_to_a_device(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_copy(batch: Batch, device: object, non_blocking: bool = False) -> Batch:
        del device, non_blocking
        threading.Event().wait(0.05)
        return batch

    monkeypatch.setattr(Batch, "to", slow_copy)
    check(drawn("slim", servers("plain"), device="meta"), Bound.COPY, "> device copy", "pin_memory")


def test_the_training_step(servers: Servers) -> None:
    step = threading.Event()
    explanation = drawn(*("slim", servers("plain")), prefetch_factor=8, step=lambda: step.wait(0.1))
    check(explanation, Bound.STEP, "> training step", "Nothing")


def test_too_few_streams(servers: Servers) -> None:
    explanation = drawn("wide", servers("plain"), batch_size=100, interleave=1)
    check(explanation, Bound.LANES, "interleave is 1")


def test_the_first_call_in_a_loop_tells_already(servers: Servers) -> None:
    target = f"static:///{servers('far')}"
    with BatchStream(DATASETS["slim"], target=target, batch_size=2048) as stream:
        assert stream.explain().bound is Bound.UNKNOWN
        deadline_s = time.monotonic() + DRAWN_S
        for _ in endless(stream):
            if time.monotonic() > deadline_s:
                break
        check(stream.explain(), Bound.STORAGE)
        check(stream.explain(), Bound.UNKNOWN, "too few")


def test_the_command(servers: Servers, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer_client", *arguments(servers, tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=python_environment(XDG_CACHE_HOME=str(tmp_path), COLUMNS="80"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Decoding Parquet on the servers bounds the rate")
    assert max(map(len, done.stdout.splitlines())) <= 79


def test_the_command_for_programs(servers: Servers, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(cli, [*arguments(servers, tmp_path), "--json"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["bound"], found["server"]) == ("decode", "")
    (server,) = found["servers"].values()
    assert server["stages"]["decode"]["wall_s"] > server["stages"]["transform"]["wall_s"]
    parts = server["stages"]["decode"]["parts"]
    # A thread that the machine holds up for a moment makes any one column look slow.
    wide = sum(wall_s for name, wall_s in parts.items() if re.fullmatch(r"c\d+", name))
    assert wide > 0.5 * sum(parts.values())


def arguments(servers: Servers, tmp_path: Path) -> list[str]:
    path = tmp_path / "wide.yaml"
    path.write_text(DATASETS["wide"].to_yaml())
    target = f"static:///{servers('plain')}"
    return ["explain", str(path), "--target", target, "--batch-size", "100", "--seconds", "3"]


def test_the_documented_call_shows_the_counters(servers: Servers) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    (line,) = re.findall(r"^grpcurl .*GetCounters$", text, re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line.replace("HOST:50051", servers("plain")).split(),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert set(stages) == set(pb.Stage.keys()[1:])
    assert found["cpu_threads"] == 2
    assert stages["STAGE_DECODE"]["wall"].endswith("s")


def test_every_bound_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for bound in set(Bound) - set(BOUND_BY_STAGE.values()):
        assert re.search(rf"^\| .*{bound.value}", text, re.MULTILINE), bound
    assert "| storage, decode, transform, order, encode |" in text


def test_a_stream_that_is_cancelled_is_blocked_no_longer(
    data: Path, start_server: Callable[..., Server], connect: Callable[[str], Stub]
) -> None:
    stub = connect(start_server(data_root=(data,)).address)
    request = pb.StreamBatchesRequest(
        dataset=DATASETS["ids"].to_proto(), identity=pb.BatchIdentity(batch_size=ROWS, num_shards=1)
    )
    call = stub.StreamBatches(request)
    next(call)

    def sending() -> tuple[int, Duration]:
        answer = stub.GetCounters(pb.GetCountersRequest())
        (send,) = (each for each in answer.stages if each.stage == pb.STAGE_SEND)
        return answer.stream_count, send.wall

    first, second = sending(), sending()
    assert first[0] == second[0] == 1
    call.cancel()
    deadline_s = time.monotonic() + 30
    while sending()[0]:
        assert time.monotonic() < deadline_s
    first, second = sending(), sending()
    assert first == second
