"""The stages of a stream, overlapped: read and transform a window ahead, encode a batch ahead.

A stream's own thread only waits and hands on; all work is done by the process's worker pool, in
whatever order, and leaves in the order of the shard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from headrace.v1 import batch_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.budget import MemoryBudget
from preprocessor_server.catalog import Catalog
from preprocessor_server.cutter import BatchCutter, Cut, Shard, Start
from preprocessor_server.encode.batch import BatchEncoder
from preprocessor_server.encode.checksum import end_checksum
from preprocessor_server.errors import TemporaryError
from preprocessor_server.plan.identity import Cursor
from preprocessor_server.settings import Settings
from preprocessor_server.telemetry import Metrics

# A message that is being sent is in memory twice: serialised, and in the transport's own buffer.
SEND_FACTOR = 2


class Pipeline:
    """What the streams of a process share: worker threads, memory, counters, and the drain."""

    def __init__(self, settings: Settings, catalog: Catalog, metrics: Metrics) -> None:
        self.settings = settings
        self.catalog = catalog
        self.metrics = metrics
        self.pool = ThreadPoolExecutor(settings.cpu_threads, "worker")
        self.budget = MemoryBudget(settings.read_ahead_bytes)
        self.draining = threading.Event()
        metrics.held_bytes.set_function(lambda: self.budget.used)
        metrics.evictions.set_function(lambda: self.budget.evictions)

    def close(self) -> None:
        """Ends the worker threads; they finish what they are at, and nobody waits for them."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class _Job(NamedTuple):
    message: Future[bytes]
    rows: int


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
        self._batch = start if isinstance(start, int) else start.batch
        self._last_batch = None if batch_limit is None else self._batch + batch_limit
        self._encoder = BatchEncoder(
            shard.dataset.schema,
            codec,
            pipeline.settings.zstd_level,
            pipeline.settings.max_message_bytes,
        )
        self._lease = pipeline.budget.open(self._drop)
        # Where a new cutter starts: the position after the last batch that was cut.
        self._position = start
        self._cutter: BatchCutter | None = None
        self._end: pb.EndReason | None = None

    def messages(self) -> Iterator[bytes]:
        """The schema, batches, and the end. Raises ServerError."""
        metrics = self._pipeline.metrics
        shard = self._shard
        yield pb.StreamBatchesResponse(
            schema=shard.dataset.schema,
            snapshot_id=shard.dataset.snapshot.id,
            identity=shard.identity.to_proto(shard.identity.num_shards),
        ).SerializeToString()
        job = self._cut()
        while job is not None:
            ready = self._cutter is not None and self._cutter.ready
            following = self._cut() if ready else None
            message, rows = job.message.result(), job.rows
            size = len(message)
            self._lease.rest()
            job = None
            with metrics.stage("send"):
                yield message
            del message
            self._lease.resume()
            self._lease.add(-SEND_FACTOR * size)
            metrics.rows.inc(rows)
            metrics.batches.inc()
            metrics.wire_bytes.inc(size)
            job = following or self._cut()
        assert self._end is not None
        assert isinstance(self._position, Cursor)
        end = pb.StreamEnd(reason=self._end, cursor=self._position.to_proto())
        end.checksum = end_checksum(end)
        yield pb.StreamBatchesResponse(end=end).SerializeToString()

    def close(self) -> None:
        """Gives back what the stream holds. Idempotent, and safe from any thread."""
        self._lease.close()

    def _cut(self) -> _Job | None:
        """Cuts the next batch and has it encoded; None, and why in _end, where there is none."""
        if self._end is not None:
            return None
        if self._batch == self._last_batch:
            self._end = pb.END_REASON_BATCH_LIMIT
            return None
        if self._pipeline.draining.is_set():
            if not isinstance(self._position, Cursor):
                raise TemporaryError(
                    "DRAINING", "this server is shutting down; open the stream on another one"
                )
            self._end = pb.END_REASON_DRAINING
            return None
        if self._cutter is None:
            self._cutter = BatchCutter(
                self._shard,
                self._position,
                self._pipeline.catalog.reader,
                self._pipeline.pool,
                self._lease,
                self._pipeline.metrics,
                self._pipeline.settings.max_message_bytes,
            )
        cut = self._cutter.next()
        if cut is None:
            self._end = pb.END_REASON_SHARD_END
            self._position = Cursor(len(self._shard.splits), 0, 0, self._batch)
            return None
        self._position = cut.after
        self._batch += 1
        rows = sum(len(piece.rows) for piece in cut.pieces)
        return _Job(self._pipeline.pool.submit(self._encode, cut), rows)

    def _encode(self, cut: Cut) -> bytes:
        """The message of a batch; what it holds is counted in place of what its rows held."""
        with self._pipeline.metrics.stage("encode"):
            message = self._encoder.encode(
                cut.pieces, self._shard.number, cut.before.to_proto(), cut.after.to_proto()
            )
        self._lease.add(SEND_FACTOR * len(message) - cut.held_bytes)
        return message

    def _drop(self) -> int:
        """Lets go of decoded rows; called while this stream is blocked in sending."""
        cutter = self._cutter
        if cutter is None or not cutter.settled:
            return 0
        self._cutter = None
        return cutter.held_bytes
