"""One epoch, many trainers: streams that run close together share the batches of a shard.

A batch is fixed by its identity, whoever asks for it, so one that was made for a stream is kept
for a while for others. A stream that comes too late for what was kept makes its own again, as if
it were alone; nobody waits for it, and it waits for nobody's client.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

from headrace.v1 import batch_pb2
from preprocessor_server.budget import LeaseClosedError
from preprocessor_server.cutter import Shard, Start
from preprocessor_server.kept import KeptWindow
from preprocessor_server.maker import BatchMaker, Made, Workshop
from preprocessor_server.plan.identity import Cursor

_Key: TypeAlias = tuple[Hashable, ...]

# What keeping a batch takes beside its message: positions, and entries in the window. It is most
# of what batches of a few rows take.
ENTRY_BYTES = 768


class _Batches:
    """What there is of the batches of one shard: those kept, and who makes more of them."""

    def __init__(self) -> None:
        # By the position before each: a position that is none of the shard's has batches of its
        # own, and never meets those of others.
        self.made: dict[Cursor, Made] = {}
        # The positions of batches that were found by counting from the start of the shard.
        self.positions: dict[int, Cursor] = {}
        # Makers, and how many streams use each.
        self.makers: dict[BatchMaker, int] = {}
        self.readers = 0


class SharedBatches:
    """The batches of all shards that are being streamed."""

    def __init__(self, workshop: Workshop, window: KeptWindow) -> None:
        self._workshop = workshop
        self._window = window
        self._batches: dict[_Key, _Batches] = {}

    def open(self, shard: Shard, start: Start, codec: batch_pb2.Codec) -> SharedReader:
        """The batches of a shard, from a position or the batch of an index on."""
        dataset = shard.dataset
        key = (
            dataset.snapshot.id,
            dataset.fingerprint,
            shard.identity,
            shard.number,
            shard.splits,
            codec,
        )
        with self._window.lock:
            self._forget_empty()
            batches = self._batches.setdefault(key, _Batches())
            batches.readers += 1
        return SharedReader(self._workshop, self._window, batches, shard, start, codec)

    def _forget_empty(self) -> None:
        for key in [k for k, b in self._batches.items() if not b.readers and not b.made]:
            del self._batches[key]


class SharedReader:
    """The batches of a shard, for one stream."""

    def __init__(
        self,
        workshop: Workshop,
        window: KeptWindow,
        batches: _Batches,
        shard: Shard,
        start: Start,
        codec: batch_pb2.Codec,
    ) -> None:
        self._workshop = workshop
        self._window = window
        self._batches = batches
        self._shard = shard
        self._codec = codec
        self._maker: BatchMaker | None = None
        self._closed = False
        # A position that a client names may be none of the shard's; one that was counted is.
        self._counted = isinstance(start, int) or start == Cursor()
        self.position = start
        dataset = shard.dataset.fingerprint[:16]
        self._hits = workshop.metrics.shared_batches.labels(dataset, "hit")
        self._misses = workshop.metrics.shared_batches.labels(dataset, "miss")

    def next(self, last_batch: int | None) -> Made | None:
        """The next batch; None at the end of the shard. Raises ServerError, LeaseClosedError."""
        while True:
            found = self._find()
            if isinstance(found, Made):
                self._hits.inc()
                made = found
            else:
                wanted = found.make(self.position, last_batch)
                if wanted is None:
                    continue
                self._misses.inc()
                made = wanted
                self._keep(made)
            self.position = made.after
            return made if made.message else None

    def close(self) -> None:
        """Gives back what is held for this stream alone. Idempotent, and safe from any thread."""
        with self._window.lock:
            if self._closed:
                return
            self._closed = True
            self._batches.readers -= 1
            maker = self._leave()
        if maker is not None:
            maker.close()

    def _find(self) -> Made | BatchMaker:
        """The batch at the position, or else who makes it: this stream uses that one from now on.

        Raises LeaseClosedError if the stream is closed.
        """
        left = None
        try:
            with self._window.lock:
                if self._closed:
                    raise LeaseClosedError
                position = self.position
                if isinstance(position, int):
                    position = self._batches.positions.get(position, position)
                made = None if isinstance(position, int) else self._batches.made.get(position)
                if self._maker is not None and self._maker.is_at(self.position):
                    return made or self._maker
                left = self._leave()
                if made is not None:
                    return made
                makers = self._batches.makers
                maker = next((each for each in makers if each.is_at(self.position)), None)
                if maker is None:
                    maker = BatchMaker(self._workshop, self._shard, self.position, self._codec)
                makers[maker] = makers.get(maker, 0) + 1
                self._maker = maker
                return maker
        finally:
            if left is not None:
                left.close()

    def _leave(self) -> BatchMaker | None:
        """Leaves the maker; returns it if nobody else uses it."""
        maker, self._maker = self._maker, None
        if maker is None:
            return None
        self._batches.makers[maker] -= 1
        if self._batches.makers[maker]:
            return None
        del self._batches.makers[maker]
        return maker

    def _keep(self, made: Made) -> None:
        with self._window.lock:
            size_bytes = len(made.message) + ENTRY_BYTES
            self._window.put(self._batches.made, made.before, made, size_bytes)
            if self._counted:
                # Dropped with the batch, which was put just before.
                self._window.put(self._batches.positions, made.before.batch, made.before, 0)
