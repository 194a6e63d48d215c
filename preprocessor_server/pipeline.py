"""A stream's messages: the batches of a shard in order, sent as fast as its client takes them.

A stream's own thread only waits and hands on; all work is done by the process's worker pool.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import lru_cache

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.budget import MemoryBudget
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.cutter import Shard, Start
from preprocessor_server.encode.checksum import end_checksum
from preprocessor_server.encode.compress import Compression
from preprocessor_server.errors import TemporaryError
from preprocessor_server.kept import KeptWindow
from preprocessor_server.maker import SEND_FACTOR, Workshop
from preprocessor_server.plan.identity import Cursor
from preprocessor_server.settings import Settings
from preprocessor_server.shared import SharedBatches
from preprocessor_server.telemetry import Metrics

# Of so many datasets a process knows how they are best compressed: eight bytes for each plane of
# bytes that is coded, for each kind of batch.
KNOWN_DATASETS = 64


class Pipeline:
    """What the streams of a process share: worker threads, memory, counters, and the drain.

    pool does all work, but for what functions may hold up, which udf_pool does; closing the
    pipeline ends both.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, metrics: Metrics, pool: Executor | None = None
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.metrics = metrics
        self.pool = pool or ThreadPoolExecutor(settings.cpu_threads, "worker")
        self.udf_pool = ThreadPoolExecutor(settings.cpu_threads, "udf")
        self.budget = MemoryBudget(settings.read_ahead_bytes)
        self.kept = KeptWindow(self.budget, settings.shared_bytes)
        reader = catalog.reader.sharing(self.kept)

        @lru_cache(KNOWN_DATASETS)
        def compression(fingerprint: str) -> Compression:
            del fingerprint
            return Compression(settings.zstd_level)

        workshop = Workshop(
            settings, reader, self.pool, self.budget, metrics, self.udf_pool, compression
        )
        self.batches = SharedBatches(workshop, self.kept)
        self.draining = threading.Event()
        metrics.held_bytes.set_function(lambda: self.budget.used)
        metrics.shared_bytes.set_function(lambda: self.kept.used)
        metrics.evictions.set_function(lambda: self.budget.evictions)

    def pool_of(self, dataset: BoundDataset) -> Executor:
        """Where splits of a dataset are read."""
        return self.udf_pool if dataset.udfs else self.pool

    def close(self) -> None:
        """Ends the worker threads; they finish what they are at, and nobody waits for them."""
        self.udf_pool.shutdown(wait=False, cancel_futures=True)
        self.pool.shutdown(wait=False, cancel_futures=True)


class ShardStream:
    """The messages of one stream, serialised, in order.

    batch_limit is the number of batches after which the stream ends, None for no limit.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        shard: Shard,
        start: Start,
        batch_limit: int | None,
        codec: batch_pb2.Codec,
    ) -> None:
        self._pipeline = pipeline
        self._shard = shard
        first = start if isinstance(start, int) else start.batch
        self._last_batch = None if batch_limit is None else first + batch_limit
        # Of the message that is being sent.
        self._lease = pipeline.budget.open(lambda: 0)
        self._batches = pipeline.batches.open(shard, start, codec)

    def messages(self) -> Iterator[bytes]:
        """The schema, batches, and the end. Raises ServerError."""
        metrics = self._pipeline.metrics
        shard = self._shard
        yield pb.StreamBatchesResponse(
            schema=shard.dataset.schema,
            snapshot_id=shard.dataset.snapshot.id,
            identity=shard.identity.to_proto(shard.identity.num_shards),
        ).SerializeToString()
        while (reason := self._ends()) is None:
            made = self._batches.next(self._last_batch)
            if made is None:
                reason = pb.END_REASON_SHARD_END
                break
            message, rows = made.message, made.rows
            size = len(message)
            self._lease.add(SEND_FACTOR * size)
            made = None
            with metrics.stage("send"):
                yield message
            del message
            self._lease.add(-SEND_FACTOR * size)
            metrics.rows.inc(rows)
            metrics.batches.inc()
            metrics.wire_bytes.inc(size)
            metrics.clock.add_bytes("send", size)
        position = self._batches.position
        assert isinstance(position, Cursor)
        end = pb.StreamEnd(reason=reason, cursor=position.to_proto())
        end.checksum = end_checksum(end)
        yield pb.StreamBatchesResponse(end=end).SerializeToString()

    def close(self) -> None:
        """Gives back what the stream holds. Idempotent, and safe from any thread."""
        self._batches.close()
        self._lease.close()

    def _ends(self) -> pb.EndReason | None:
        """Why the stream ends before the next batch, if it does. Raises TemporaryError."""
        position = self._batches.position
        batch = position if isinstance(position, int) else position.batch
        if batch == self._last_batch:
            return pb.END_REASON_BATCH_LIMIT
        if self._pipeline.draining.is_set():
            if not isinstance(position, Cursor):
                raise TemporaryError(
                    "DRAINING", "this server is shutting down; open the stream on another one"
                )
            return pb.END_REASON_DRAINING
        return None
