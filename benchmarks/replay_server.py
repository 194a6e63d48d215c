"""Servers that send batches which were encoded before, at a fixed rate: a fleet that costs little.

    python benchmarks/replay_server.py data/homefeed-clustered-1000000/dataset.yaml \
        --batch-size 4096 --servers 8 --examples-per-s 25000

A server of this tree encodes some batches; then as many ports as asked for, all of this one
process, send them over and over, to whichever shards and positions are asked for. Payloads and
descriptors are as they were recorded; shard, index, cursors and the header checksum fit the
question. The first line on stdout is the target that names all ports; it ends with its stdin.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.harness import server
from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from headrace.v1 import preprocessor_service_pb2_grpc as pb_grpc
from preprocessor_server.encode.checksum import end_checksum
from preprocessor_server.service import SERVICE, announced
from tests.fakes.page import header_words, xxh64
from tests.fakes.process import python_environment
from trainer_client import Dataset

MAX_MESSAGE_BYTES = 512 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
# A server that was held up catches up at most this much.
MAX_BURST_S = 0.1
STREAM_THREADS = 80
BATCHES_A_SHARD = 1 << 20
# The tags of StreamBatchesResponse.batch: field 2, length-delimited.
_BATCH_TAG = b"\x12"


@dataclass(frozen=True, slots=True)
class Recording:
    """What a real server said: the dataset, the schema, and full batches without their payload.

    payloads [k] is the serialised payload field of headers [k].
    """

    described: pb.DescribeDatasetResponse
    schema: batch_pb2.BatchSchema
    headers: list[batch_pb2.CompactBatch]
    payloads: list[bytes]

    def message(self, shard: int, index: int) -> bytes:
        """A StreamBatchesResponse, serialised: one of the batches as that of a shard."""
        chosen = (31 * shard + index) % len(self.headers)
        header = batch_pb2.CompactBatch()
        header.CopyFrom(self.headers[chosen])
        header.shard, header.index = shard, index
        header.cursor.CopyFrom(_cursor(index, header.row_count))
        header.next_cursor.CopyFrom(_cursor(index + 1, header.row_count))
        header.header_checksum = xxh64(header_words(header))
        # Fields of a message may come in any order, so the payload is not parsed and copied again.
        head, payload = header.SerializeToString(), self.payloads[chosen]
        return b"".join((_BATCH_TAG, _varint(len(head) + len(payload)), head, payload))


def record(
    address: str, dataset: dataset_pb2.DatasetSpec, batch_size: int, batch_count: int
) -> Recording:
    """Has a server encode full batches of the first shards, as many as there are up to a number."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = pb_grpc.PreprocessorServiceStub(channel)
        described = stub.DescribeDataset(
            pb.DescribeDatasetRequest(dataset=dataset, include_snapshot=True)
        )
        identity = pb.BatchIdentity(batch_size=batch_size, shuffle=True)
        plan = stub.PlanEpoch(
            pb.PlanEpochRequest(
                dataset=dataset, snapshot_id=described.snapshot_id, identity=identity
            )
        )
        recording = Recording(described, batch_pb2.BatchSchema(), [], [])
        for shard in plan.shards:
            request = pb.StreamBatchesRequest(
                dataset=dataset,
                snapshot_id=described.snapshot_id,
                identity=plan.identity,
                shard=shard.shard,
                splits=shard.splits,
            )
            for message in stub.StreamBatches(request):
                if message.HasField("schema"):
                    recording.schema.CopyFrom(message.schema)
                elif message.HasField("batch") and message.batch.row_count == batch_size:
                    _keep(recording, message.batch)
            if len(recording.headers) >= batch_count:
                break
    if not recording.headers:
        raise ValueError(f"the dataset has no full batch of {batch_size} rows: use a smaller one")
    return recording


def _keep(recording: Recording, batch: batch_pb2.CompactBatch) -> None:
    payload = batch_pb2.CompactBatch(payload=batch.payload)
    recording.payloads.append(payload.SerializeToString())
    batch.ClearField("payload")
    recording.headers.append(batch)


def _cursor(batch: int, rows: int) -> batch_pb2.Cursor:
    return batch_pb2.Cursor(parquet_row=batch * rows, batch=batch)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


class Pace:
    """A schedule of batches at a fixed rate; any thread may take a place. 0: as fast as it goes."""

    def __init__(self, batches_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval_s = 1 / batches_per_s if batches_per_s else 0.0
        self._lock = threading.Lock()
        self._due_s = 0.0

    def wait_s(self) -> float:
        """Takes the next place; how long until it."""
        with self._lock:
            now = self._clock()
            self._due_s = max(self._due_s, now - MAX_BURST_S) + self._interval_s
            return max(0.0, self._due_s - now)


class ReplayServer:
    """One port of this process; all its streams together keep to a pace."""

    def __init__(self, recording: Recording, shard_count: int, pace: Pace) -> None:
        self._recording = recording
        self._shard_count = shard_count
        self._pace = pace
        self._server = grpc.server(futures.ThreadPoolExecutor(STREAM_THREADS), options=OPTIONS)
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends every stream."""
        self._server.stop(None).wait()

    def _handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "DescribeDataset": grpc.unary_unary_rpc_method_handler(
                lambda _, context: announced(self._recording.described.SerializeToString(), context)
            ),
            "PlanEpoch": grpc.unary_unary_rpc_method_handler(
                self._plan, request_deserializer=pb.PlanEpochRequest.FromString
            ),
            "StreamBatches": grpc.unary_stream_rpc_method_handler(
                self._stream, request_deserializer=pb.StreamBatchesRequest.FromString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _plan(self, request: pb.PlanEpochRequest, context: grpc.ServicerContext) -> bytes:
        rows = BATCHES_A_SHARD * self._recording.headers[0].row_count
        identity = pb.BatchIdentity()
        identity.CopyFrom(request.identity)
        identity.num_shards = self._shard_count
        plan = pb.PlanEpochResponse(
            snapshot_id=self._recording.described.snapshot_id,
            identity=identity,
            row_count=self._shard_count * rows,
            batch_count=self._shard_count * BATCHES_A_SHARD,
            shard_batch_counts=[BATCHES_A_SHARD] * self._shard_count,
            shards=[
                pb.ShardPlan(
                    shard=shard,
                    splits=[pb.Split(row_count=rows)],
                    row_count=rows,
                    batch_count=BATCHES_A_SHARD,
                )
                for shard in request.shards or range(self._shard_count)
            ],
        )
        return announced(plan.SerializeToString(), context)

    def _stream(
        self, request: pb.StreamBatchesRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        ended = threading.Event()
        context.add_callback(ended.set)
        schema = pb.StreamBatchesResponse(
            schema=self._recording.schema,
            snapshot_id=request.snapshot_id,
            identity=request.identity,
        )
        yield announced(schema.SerializeToString(), context)
        first = request.first_batch or request.cursor.batch
        last = min(first + (request.batch_limit or BATCHES_A_SHARD), BATCHES_A_SHARD)
        for index in range(first, last):
            if ended.wait(self._pace.wait_s()):
                return
            yield self._recording.message(request.shard, index)
        done = last == BATCHES_A_SHARD
        end = pb.StreamEnd(
            reason=pb.END_REASON_SHARD_END if done else pb.END_REASON_BATCH_LIMIT,
            cursor=_cursor(last, self._recording.headers[0].row_count),
        )
        end.checksum = end_checksum(end)
        yield pb.StreamBatchesResponse(end=end).SerializeToString()


@contextmanager
def replay(
    dataset: Path,
    batch_size: int,
    *,
    servers: int = 1,
    examples_per_s: float = 0.0,
    together: bool = False,
) -> Iterator[tuple[list[str], int]]:
    """Replay servers in a process of their own: their addresses, and its pid.

    examples_per_s bounds each of them, or all together; 0 is no bound.
    """
    command = [sys.executable, str(Path(__file__)), str(dataset), "--batch-size", str(batch_size)]
    command += ["--servers", str(servers), "--examples-per-s", str(examples_per_s)]
    command += ["--together"] * together
    with subprocess.Popen(
        command, env=python_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        target = process.stdout.readline().strip()
        if not target:
            raise RuntimeError(f"{' '.join(command)} ended without a target: see above")
        try:
            yield target.removeprefix("static:///").split(","), process.pid
        finally:
            process.terminate()


def main() -> None:
    """Records, then replays until stdin ends."""
    parser = argparse.ArgumentParser(description="Replay encoded batches from many servers")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=48, help="how many to record")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--examples-per-s", type=float, default=0.0, help="of each; 0: no bound")
    parser.add_argument("--together", action="store_true", help="the rate is that of all servers")
    options = parser.parse_args()
    dataset = Dataset.from_yaml(options.dataset).to_proto()
    with server() as (target, _):
        address = target.removeprefix("static:///")
        recording = record(address, dataset, options.batch_size, options.batches)
    shards = max(64, options.servers)
    paces = [Pace(options.examples_per_s / options.batch_size) for _ in range(options.servers)]
    fleet = [
        ReplayServer(recording, shards, paces[0 if options.together else k])
        for k in range(options.servers)
    ]
    print("static:///" + ",".join(replayer.address for replayer in fleet), flush=True)
    sys.stdin.read()
    for replayer in fleet:
        replayer.close()


if __name__ == "__main__":
    main()
