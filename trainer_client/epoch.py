"""The batches of one rank in one epoch, in the schedule's order."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from trainer_client.batch import Batch
from trainer_client.errors import RequestError
from trainer_client.ledger.writer import Ledger
from trainer_client.prefetch import Ahead
from trainer_client.schedule import Schedule
from trainer_client.telemetry import Meter
from trainer_client.transport.shard_stream import Fetched, ShardStream

# The readers end by the stream's timeout and say why; this only backs them up.
TAKE_MARGIN_S = 30.0
# More rows than this share left out by drop_last are worth a word.
MANY_DROPPED = 0.01


class Hedger:
    """How long a batch is waited for before a second server is asked for it.

    Three times the wait that 19 of 20 of the last batches did not exceed, once enough of them are
    known, and as long as the hedges are at most one in twenty batches.
    """

    MIN_AFTER_S = 0.1
    MIN_WAITS = 20
    SHARE = 0.05

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=200)
        self._batches = 0

    def after_s(self, hedges: int) -> float:
        """Seconds until the next hedge, infinity where there is to be none."""
        if len(self._waits) < self.MIN_WAITS or hedges + 1 > self.SHARE * self._batches:
            return math.inf
        ordered = sorted(self._waits)
        return max(self.MIN_AFTER_S, 3 * ordered[int(0.95 * (len(ordered) - 1))])

    def waited(self, seconds: float) -> None:
        """Notes how long a batch was waited for."""
        self._waits.append(seconds)
        self._batches += 1


class EpochReader:
    """Iterates over the batches that a schedule still has; close() ends its readers.

    prefetcher has the segments that the schedule still reads, and is closed with this. full_size is
    the batch size below which batches are dropped and counted, 0 for none. reopen reads one batch,
    by shard and index, again. With hedge, a segment that holds up the others is
    read from a second server too. A ledger is told what the servers alone know: which batches are
    dropped, and where a shard whose count was unknown ends.
    """

    def __init__(
        self,
        schedule: Schedule,
        prefetcher: Ahead[Fetched[Batch]],
        reopen: Callable[[int, int], ShardStream[Batch]],
        meter: Meter,
        *,
        full_size: int,
        timeout_s: float,
        hedge: bool,
        ledger: Ledger | None = None,
    ) -> None:
        self._schedule = schedule
        self._reopen = reopen
        self._last: Batch | None = None
        self._meter = meter
        self._ledger = ledger
        self._full_size = full_size
        self._timeout_s = timeout_s
        self._hedger = Hedger() if hedge else None
        self._counted = 0, 0
        self._rows = self._dropped_rows = 0
        self._prefetcher = prefetcher

    def __iter__(self) -> EpochReader:
        return self

    def __next__(self) -> Batch:
        while (current := self._schedule.current()) is not None:
            fetched = self._take(current.segment)
            if fetched is None:
                if self._ledger is not None:
                    segment = self._schedule.segments[current.segment]
                    batches = segment.first_batch + current.delivered
                    self._ledger.shard_ended(self._schedule.position.epoch, segment.shard, batches)
                self._schedule.end()
                continue
            batch = fetched.value
            dropped = batch.batch_size < self._full_size
            position = self._schedule.deliver(batch.next_cursor, dropped=dropped)
            self._rows += batch.batch_size
            if dropped:
                self._dropped_rows += batch.batch_size
                self._meter.add(dropped_batches=1, dropped_rows=batch.batch_size)
                if self._ledger is not None:
                    self._ledger.dropped(position.epoch, batch)
                continue
            batch = batch.but(
                position=position, server=fetched.server, wire_bytes=fetched.wire_bytes
            )
            if position.last is not None:
                self._last = batch
            return batch
        if not self._schedule.repeats:
            self._warn_of_dropped_rows()
            raise StopIteration
        last = self.last()
        if last is None:
            raise RequestError(
                'uneven="pad" repeats a rank\'s last batch, but this rank has none: fewer batches '
                'are left than there are ranks; use uneven="drop" or "none"'
            )
        return last.but(position=self._schedule.repeat(), padding=True)

    def last(self) -> Batch | None:
        """The last batch of this rank, read again if need be; None if there was none."""
        last = self._schedule.position.last
        if self._last is None and last is not None:
            stream = self._reopen(*last)
            try:
                fetched = next(iter(stream))
            finally:
                stream.close()
            # Whoever repeats it has no other, but is still in the epoch.
            position = replace(self._schedule.position, finished=False)
            self._last = fetched.value.but(position=position, server=fetched.server)
        return self._last

    def _warn_of_dropped_rows(self) -> None:
        dropped, rows = self._dropped_rows, self._rows
        self._dropped_rows = 0
        if dropped > MANY_DROPPED * rows:
            warnings.warn(
                f"drop_last left out {dropped:,} of {rows:,} rows of this rank: where a filter "
                "decides how many rows a shard has, each shard's last batch is short; use fewer "
                "shards (num_shards), a smaller batch_size, or drop_last=False",
                UserWarning,
                stacklevel=2,
            )

    def _take(self, segment: int) -> Fetched[Batch] | None:
        """The next batch of a segment, None at its end."""
        hedger, prefetcher = self._hedger, self._prefetcher
        hedge_after_s = hedger.after_s(prefetcher.hedges) if hedger else math.inf
        started_s = time.perf_counter()
        fetched: Fetched[Batch] | None = None
        try:
            fetched = prefetcher.take(segment, self._timeout_s + TAKE_MARGIN_S, hedge_after_s)
            return fetched
        finally:
            ended_s = time.perf_counter()
            waited_s = ended_s - started_s
            if fetched is not None:
                self._meter.clock.waited((started_s, ended_s), fetched.lane, fetched.server)
            self._meter.add(wait_s=waited_s)
            if hedger is not None:
                hedger.waited(waited_s)
                hedges, won = prefetcher.hedges, prefetcher.hedges_won
                self._meter.add(hedges=hedges - self._counted[0], hedges_won=won - self._counted[1])
                self._counted = hedges, won

    def ready(self) -> bool:
        """Whether the next batch is at hand, and next() would not wait."""
        current = self._schedule.current()
        return current is not None and self._prefetcher.ready(current.segment)

    def close(self) -> None:
        """Ends the readers, with a bound; idempotent."""
        self._prefetcher.close()
