"""Server and client without a network, on one thread: what each stage costs, and real batches."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import grpc
import pyarrow.parquet as pq

from benchmarks.harness import homefeed
from headrace.v1 import batch_pb2, dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.catalog import Catalog
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.service import PreprocessorService
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics
from trainer_client import Batch, Dataset
from trainer_client.decode import Decoder
from trainer_client.transport.wire import read_response

P = ParamSpec("P")
T = TypeVar("T")
# The levels of other forms of a batch beside ours, which is compressed as servers do it by default:
# each plane at one of these.
RIVAL_ZSTD_LEVELS = (1, -1)


class StageClock(Metrics):
    """Counts a stage's CPU seconds of the calling thread."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_s: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what is inside; of sending, nothing, since that is what the reader does."""
        began_s = time.thread_time()
        try:
            yield
        finally:
            if name != "send":
                self.cpu_s[name] += time.thread_time() - began_s


class _Inline(Executor):
    """Runs everything at once, in the calling thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised by result(), as by any executor
            future.set_exception(error)
        return future


class _Context:
    """A call that nobody cancels."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        del callback
        return True

    def is_active(self) -> bool:
        return True

    def invocation_metadata(self) -> None:
        """It brings none."""

    def send_initial_metadata(self, metadata: object) -> None:
        del metadata

    def abort_with_status(self, status: grpc.Status) -> None:
        raise RuntimeError(status.details)


class InlineServer:
    """The server's own code, all of it in the calling thread; clock counts its stages."""

    def __init__(self) -> None:
        # Nothing is kept: what is measured is made.
        settings = Settings(data_root=(Path("/"),), cpu_threads=1, shared_bytes=0)
        self.clock = StageClock()
        self._catalog = Catalog(settings)
        self._pipeline = Pipeline(settings, self._catalog, self.clock, _Inline())
        self._service = PreprocessorService(self._pipeline)

    def describe(self, dataset: dataset_pb2.DatasetSpec) -> pb.DescribeDatasetResponse:
        """What a dataset names."""
        return self._service.describe_dataset(pb.DescribeDatasetRequest(dataset=dataset))

    def messages(self, dataset: dataset_pb2.DatasetSpec, batch_size: int) -> Iterator[bytes]:
        """Every message of an epoch, shuffled, serialised, shard by shard."""
        identity = pb.BatchIdentity(batch_size=batch_size, shuffle=True)
        plan = self._service.plan_epoch(pb.PlanEpochRequest(dataset=dataset, identity=identity))
        for shard in plan.shards:
            request = pb.StreamBatchesRequest(
                dataset=dataset,
                snapshot_id=plan.snapshot_id,
                identity=plan.identity,
                shard=shard.shard,
                splits=shard.splits,
                accepted_codecs=[batch_pb2.CODEC_ZSTD],
            )
            yield from self._service.stream_batches(
                request.SerializeToString(), cast(Any, _Context())
            )

    def close(self) -> None:
        """Lets everything go."""
        self._pipeline.close()
        self._catalog.close()


def parse(data: bytes) -> batch_pb2.CompactBatch:
    """The batch of a message, payload and all; without rows if it is another message."""
    return pb.StreamBatchesResponse.FromString(data).batch


def decoded(decoder: Decoder, data: bytes) -> Batch:
    """The batch of a message that has one, taken apart and decoded as the client does it."""
    response = read_response(data)
    assert response.batch is not None
    return decoder(response.batch)


def full_batches(
    dataset: Dataset, batch_size: int, count: int
) -> tuple[batch_pb2.BatchSchema, list[bytes]]:
    """The schema, and the messages of the first full batches of an epoch as servers send them."""
    server = InlineServer()
    schema, found = batch_pb2.BatchSchema(), []
    try:
        for data in server.messages(dataset.to_proto(), batch_size):
            message = pb.StreamBatchesResponse.FromString(data)
            if message.HasField("schema"):
                schema = message.schema
            elif message.batch.row_count == batch_size:
                found.append(data)
                if len(found) == count:
                    break
    finally:
        server.close()
    return schema, found


def layout_batches(
    layout: str, rows: int, batch_size: int, count: int
) -> tuple[Dataset, Decoder, list[bytes]]:
    """The dataset of a layout of homefeed, a decoder of its batches, and the first full ones.

    These are messages as full_batches finds them.
    """
    dataset = Dataset.from_yaml(homefeed(layout, rows) / "dataset.yaml")
    schema, messages = full_batches(dataset, batch_size, count)
    return dataset, Decoder(schema), messages


def decode_files_cpu_s(folder: Path, columns: list[str]) -> tuple[float, int, int]:
    """(CPU seconds, bytes in Arrow memory, bytes of Parquet) of nothing but pyarrow's decoding."""
    began_s, size, file_bytes = time.thread_time(), 0, 0
    for path in sorted(folder.glob("*.parquet")):
        file_bytes += path.stat().st_size
        file = pq.ParquetFile(path, pre_buffer=True)
        for group in range(file.num_row_groups):
            size += file.read_row_group(group, columns, use_threads=False).nbytes
    return time.thread_time() - began_s, size, file_bytes


def needed_columns(dataset: Dataset) -> list[str]:
    """The columns that a server reads of a dataset."""
    server = InlineServer()
    try:
        described = server.describe(dataset.to_proto())
    finally:
        server.close()
    return [column.name for column in described.source_columns if column.needed]
