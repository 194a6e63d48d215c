"""Makes the batches of a shard, one after the other, for all streams that are at the same place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import NamedTuple

from headrace.v1 import batch_pb2
from preprocessor_server.budget import MemoryBudget
from preprocessor_server.cutter import BatchCutter, Cut, Shard, Start
from preprocessor_server.encode.batch import BatchEncoder
from preprocessor_server.encode.compress import Compression
from preprocessor_server.plan.identity import Cursor
from preprocessor_server.settings import Settings
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.telemetry import Metrics

# A message that is being sent is in memory twice: serialised, and in the transport's own buffer.
SEND_FACTOR = 2


class Workshop(NamedTuple):
    """What the makers of a process share.

    udf_pool prepares windows of datasets with functions: one that hangs holds up no other dataset.
    compression is by the fingerprint of a dataset: what its batches have taught stands for all.
    """

    settings: Settings
    reader: SplitReader
    pool: Executor
    budget: MemoryBudget
    metrics: Metrics
    udf_pool: Executor
    compression: Callable[[str], Compression]


class Made(NamedTuple):
    """A batch as it is sent, its rows, and the positions before and after it.

    At the end of the shard there is no message.
    """

    message: bytes
    rows: int
    before: Cursor
    after: Cursor


class _Job(NamedTuple):
    message: Future[bytes]
    rows: int
    before: Cursor
    after: Cursor


class BatchMaker:
    """Makes batches from where it starts on: encodes one ahead, and reads a window ahead.

    It rests while nobody waits for it; what it has decoded may be dropped then, to be read again.
    """

    def __init__(
        self, workshop: Workshop, shard: Shard, start: Start, codec: batch_pb2.Codec
    ) -> None:
        self._workshop = workshop
        self._shard = shard
        self._encoder = BatchEncoder(
            shard.dataset.schema,
            codec,
            workshop.compression(shard.dataset.fingerprint),
            workshop.settings.max_message_bytes,
        )
        self._making = threading.Lock()
        self._position = start
        # Where a new cutter starts: the position after the last batch that was cut.
        self._cut_position = start
        self._cutter: BatchCutter | None = None
        self._following: _Job | None = None
        self._failed = False
        self._lease = workshop.budget.open(self._drop)
        self._lease.rest()

    def is_at(self, position: Start) -> bool:
        """Whether the next batch that it makes is the one at a position."""
        return not self._failed and self._position == position

    def make(self, position: Start, last_batch: int | None) -> Made | None:
        """The batch at a position; None if another stream has had it made meanwhile.

        last_batch is the index behind the last one that is wanted, None for all of the shard. Who
        waits here waits for the making, never for another stream's client. Raises ServerError.
        """
        with self._making:
            if not self.is_at(position):
                return None
            self._lease.resume()
            try:
                made = self._next(last_batch)
            except BaseException:
                # Where its cutter stands now is not known: whoever comes starts anew.
                self._failed = True
                self._lease.close()
                raise
            self._lease.rest()
            self._position = made.after
            return made

    def close(self) -> None:
        """Gives back what it holds, at once, whatever is being made. Idempotent."""
        self._lease.close()

    def _next(self, last_batch: int | None) -> Made:
        job, self._following = self._following or self._cut(), None
        if job is None:
            before = self._position
            assert isinstance(before, Cursor)
            return Made(b"", 0, before, Cursor(len(self._shard.splits), 0, 0, before.batch))
        wanted = last_batch is None or job.after.batch < last_batch
        if wanted and self._cutter is not None and self._cutter.ready:
            self._following = self._cut()
        with self._workshop.metrics.clock.blocked("wait"):
            message = job.message.result()
        self._lease.add(-SEND_FACTOR * len(message))
        return Made(message, job.rows, job.before, job.after)

    def _cut(self) -> _Job | None:
        """Cuts the next batch and has it encoded; None at the end of the shard."""
        if self._cutter is None:
            self._cutter = BatchCutter(
                self._shard,
                self._cut_position,
                self._workshop.reader,
                self._workshop.udf_pool if self._shard.dataset.udfs else self._workshop.pool,
                self._lease,
                self._workshop.metrics,
                self._workshop.settings.max_message_bytes,
            )
        cut = self._cutter.next()
        if cut is None:
            return None
        self._cut_position = cut.after
        rows = sum(len(piece.rows) for piece in cut.pieces)
        return _Job(self._workshop.pool.submit(self._encode, cut), rows, cut.before, cut.after)

    def _encode(self, cut: Cut) -> bytes:
        """The message of a batch; what it holds is counted in place of what its rows held."""
        with self._workshop.metrics.stage("encode"):
            message = self._encoder.encode(
                cut.pieces, self._shard.number, cut.before.to_proto(), cut.after.to_proto()
            )
        self._workshop.metrics.clock.add_bytes("encode", len(message))
        self._lease.add(SEND_FACTOR * len(message) - cut.held_bytes)
        return message

    def _drop(self) -> int:
        """Lets go of decoded rows; called while this maker rests."""
        cutter = self._cutter
        if cutter is None or not cutter.settled:
            return 0
        self._cutter = None
        return cutter.held_bytes
