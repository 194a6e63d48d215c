"""Streams that are opened and left unread, as by trainers that have stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from benchmarks.harness import memory_mib
from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc

BATCH_SIZE = 4096
SHARDS = 8
OPTIONS = [("grpc.max_receive_message_length", 512 << 20)]
# Stalled streams fill what they may fill, and then nothing moves any more.
SETTLED_S, SETTLE_TIMEOUT_S, POLL_S = 2.0, 20.0, 0.25


@contextmanager
def stalled(target: str, dataset: dataset_pb2.DatasetSpec, count: int) -> Iterator[grpc.Channel]:
    """Streams of a dataset's shards, each of which has sent its first message: their channel."""
    with grpc.insecure_channel(target.removeprefix("static:///"), options=OPTIONS) as channel:
        stub = pb_grpc.PreprocessorServiceStub(channel)
        identity = pb.BatchIdentity(batch_size=BATCH_SIZE, shuffle=True, num_shards=SHARDS)
        streams = [
            stub.StreamBatches(
                pb.StreamBatchesRequest(dataset=dataset, identity=identity, shard=number % SHARDS)
            )
            for number in range(count)
        ]
        for stream in streams:
            next(stream)
        yield channel
        for stream in streams:
            stream.cancel()


def wait_until_settled(pid: int) -> None:
    """Waits until a process's memory has stayed within 1 % for a while, with a bound."""
    began_s = changed_s = time.monotonic()
    seen_mib = memory_mib(pid)
    while time.monotonic() < min(began_s + SETTLE_TIMEOUT_S, changed_s + SETTLED_S):
        time.sleep(POLL_S)
        now_mib = memory_mib(pid)
        if abs(now_mib - seen_mib) > 0.01 * seen_mib:
            seen_mib, changed_s = now_mib, time.monotonic()
