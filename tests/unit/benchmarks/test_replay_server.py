"""A replay server sends what a real server encoded, as any shard, to the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch

from benchmarks.replay_server import OPTIONS, Pace, Recording, ReplayServer, record
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from tests.fakes.parquet import write_dataset
from tests.fakes.process import ServerProcess
from trainer_client import BatchStream, Dataset, Dense, Label, Sparse, ops, parquet

BATCH_SIZE = 256
BATCHES = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "rows"
    write_dataset(folder)
    return Dataset(
        source=parquet(folder),
        features=(
            Dense("price"),
            Sparse("id", "seq", ops=[ops.HashBucket(1000)]),
            Label("label"),
        ),
    )


@pytest.fixture(scope="module")
def recording(dataset: Dataset) -> Recording:
    root = Path(dataset.source.paths[0]).parent
    with ServerProcess("--listen", "127.0.0.1:0", "--data-root", str(root)) as process:
        address = process.wait_for("serving")["address"]
        return record(address, dataset.to_proto(), BATCH_SIZE, BATCHES)


@pytest.fixture
def server(recording: Recording) -> Iterator[ReplayServer]:
    replayer = ReplayServer(recording, shard_count=4, pace=Pace(0))
    yield replayer
    replayer.close()


def test_only_full_batches_are_recorded(recording: Recording) -> None:
    assert len(recording.headers) == len(recording.payloads) >= BATCHES
    assert {header.row_count for header in recording.headers} == {BATCH_SIZE}
    assert not any(header.payload for header in recording.headers)


def test_payloads_and_descriptors_arrive_as_they_were_recorded(
    recording: Recording, server: ReplayServer
) -> None:
    request = pb.StreamBatchesRequest(shard=3, batch_limit=8)
    request.cursor.batch = 2
    with grpc.insecure_channel(server.address, options=OPTIONS) as channel:
        messages = list(pb_grpc.PreprocessorServiceStub(channel).StreamBatches(request))
    assert messages[0].schema == recording.schema
    assert messages[-1].end.reason == pb.END_REASON_BATCH_LIMIT
    batches = [message.batch for message in messages[1:-1]]
    assert [batch.index for batch in batches] == list(range(2, 10))
    for batch in batches:
        chosen = (31 * batch.shard + batch.index) % len(recording.headers)
        assert batch.shard == 3
        assert batch.blocks == recording.headers[chosen].blocks
        assert batch.payload_checksum == recording.headers[chosen].payload_checksum
        kept = pb.StreamBatchesResponse().batch
        kept.MergeFromString(recording.payloads[chosen])
        assert batch.payload == kept.payload


def test_the_client_takes_them_from_several_servers_in_its_usual_order(
    dataset: Dataset, recording: Recording, server: ReplayServer
) -> None:
    other = ReplayServer(recording, shard_count=4, pace=Pace(0))
    target = f"static:///{server.address},{other.address}"
    try:
        with BatchStream(dataset, target=target, batch_size=BATCH_SIZE) as stream:
            batches = [batch for batch, _ in zip(stream, range(12), strict=False)]
            servers = stream.stats().servers
    finally:
        other.close()
    assert [(batch.shard, batch.index) for batch in batches] == [
        (shard, index) for index in range(3) for shard in range(4)
    ]
    assert servers.keys() == {server.address, other.address}
    for batch in batches:
        assert batch.dense is not None
        assert batch.dense.shape == (BATCH_SIZE, 1)
        assert torch.isfinite(batch.dense).all()


def test_a_pace_spaces_batches_and_allows_a_bounded_burst() -> None:
    now_s = 100.0
    pace = Pace(10, clock=lambda: now_s)
    assert [pace.wait_s() for _ in range(4)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    now_s = 200.0
    assert [pace.wait_s() for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    assert Pace(0).wait_s() == 0.0
