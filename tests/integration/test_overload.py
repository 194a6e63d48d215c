"""A server whose every stream slot is held by a client that reads nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.server import Server
from tests.fakes.wire import canonical, receive, spec

pytestmark = pytest.mark.alone

ROWS = 1_000_000
SLOTS = 9


def test_stalled_streams_harm_nobody_and_give_way(
    tmp_path: Path,
    start_server: Callable[..., Server],
    connect: Callable[[str], pb_grpc.PreprocessorServiceStub],
) -> None:
    (tmp_path / "ids").mkdir()
    # Spread over 64 bits, so that no id is narrowed.
    ids = (np.arange(ROWS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    pq.write_table(pa.table({"id": ids}), tmp_path / "ids" / "x.parquet", row_group_size=ROWS // 4)
    dataset = spec(
        source={"parquet": {"paths": ["ids"]}}, features=[{"sparse": {"columns": ["id"]}}]
    )
    # Room for two windows at once: nine streams cannot all keep what they have decoded.
    capacity = 40 << 20
    server = start_server(data_root=(tmp_path,), max_streams=SLOTS, read_ahead_bytes=capacity)
    stub = connect(server.address)
    # Uncompressed, an epoch is more than any transport buffers for a client that does not read.
    # Of an epoch each: batches of one epoch are made for all of its streams at once.
    request, *requests = (
        pb.StreamBatchesRequest(
            dataset=dataset,
            identity=pb.BatchIdentity(batch_size=65_536, num_shards=1, shuffle=True, epoch=epoch),
            accepted_codecs=[batch_pb2.CODEC_NONE],
        )
        for epoch in range(SLOTS)
    )
    stalled = [stub.StreamBatches(each) for each in requests]
    for stream in stalled:
        next(stream)
        next(stream)
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    described = stub.DescribeDataset(pb.DescribeDatasetRequest(dataset=dataset), timeout=10)
    assert described.parquet_row_count == ROWS
    # The ninth gets the memory of those that stalled, again and again.
    whole = receive(stub, request)
    assert sum(batch.row_count for batch in whole.batches) == ROWS
    assert server.budget.evictions > 0
    assert server.budget.used <= capacity
    # A stalled one goes on as if nothing had been taken from it.
    first = stalled.pop(0)
    rest = [message.batch for message in first if message.HasField("batch")]
    again = receive(stub, requests[0])
    assert [canonical(b) for b in rest] == [canonical(b) for b in again.batches[1:]]
    for stream in stalled:
        stream.cancel()
