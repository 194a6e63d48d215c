"""The batches of one rank in one epoch, in the schedule's order."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer_client.batch import Batch
from trainer_client.errors import RequestError
from trainer_client.prefetch import Prefetcher
from trainer_client.schedule import Schedule
from trainer_client.telemetry import Meter
from trainer_client.transport.shard_stream import Fetched, ShardStream

# The readers end by the stream's timeout and say why; this only backs them up.
TAKE_MARGIN_S = 30.0


class EpochReader:
    """Iterates over the batches that a schedule still has; close() ends its readers.

    full_size is the batch size below which batches are dropped and counted, 0 for none. reopen
    reads one batch, by shard and index, again.
    """

    def __init__(
        self,
        schedule: Schedule,
        open_stream: Callable[[int], ShardStream[Batch]],
        reopen: Callable[[int, int], ShardStream[Batch]],
        meter: Meter,
        *,
        interleave: int,
        prefetch_bytes: int,
        prefetch_factor: int,
        full_size: int,
        timeout_s: float,
    ) -> None:
        self._schedule = schedule
        self._reopen = reopen
        self._last: Batch | None = None
        self._meter = meter
        self._full_size = full_size
        self._timeout_s = timeout_s
        segments = [o.segment for o in schedule.reading_order() if schedule.remaining(o) != 0]
        self._prefetcher: Prefetcher[Fetched[Batch]] = Prefetcher(
            segments,
            open_stream,
            lanes=max(interleave, len(schedule.position.open)),
            budget_bytes=prefetch_bytes,
            items_per_lane=prefetch_factor,
            size_bytes=lambda fetched: fetched.value.nbytes,
        )

    def __iter__(self) -> EpochReader:
        return self

    def __next__(self) -> Batch:
        while (current := self._schedule.current()) is not None:
            started_s = time.monotonic()
            try:
                fetched = self._prefetcher.take(current.segment, self._timeout_s + TAKE_MARGIN_S)
            finally:
                self._meter.add(wait_s=time.monotonic() - started_s)
            if fetched is None:
                self._schedule.end()
                continue
            batch = fetched.value
            position = self._schedule.deliver(batch.next_cursor)
            if batch.batch_size < self._full_size:
                self._meter.add(dropped_batches=1, dropped_rows=batch.batch_size)
                continue
            batch = batch.but(
                position=position, server=fetched.server, wire_bytes=fetched.wire_bytes
            )
            if position.last is not None:
                self._last = batch
            return batch
        if not self._schedule.repeats:
            raise StopIteration
        last = self._last = self._last or self._read_again()
        return last.but(position=self._schedule.repeat(), padding=True)

    def _read_again(self) -> Batch:
        """The last batch, of which only the position is known."""
        last = self._schedule.position.last
        if last is None:
            raise RequestError(
                'uneven="pad" repeats a rank\'s last batch, but this rank has none: the epoch has '
                'fewer batches than ranks; use uneven="drop" or "none", or a smaller batch_size'
            )
        stream = self._reopen(*last)
        try:
            return next(iter(stream)).value
        finally:
            stream.close()

    def ready(self) -> bool:
        """Whether the next batch is at hand, and next() would not wait."""
        current = self._schedule.current()
        return current is not None and self._prefetcher.ready(current.segment)

    def close(self) -> None:
        """Ends the readers, with a bound; idempotent."""
        self._prefetcher.close()
