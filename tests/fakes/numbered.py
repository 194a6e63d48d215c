"""Batches that are known by shard and index alone, and readers of them: all of the client but gRPC.

EpochReader, its Prefetcher and their threads are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer_client.cursor import Cursor
from trainer_client.epoch import EpochReader
from trainer_client.prefetch import Prefetcher
from trainer_client.schedule import Position, Schedule
from trainer_client.telemetry import Meter
from trainer_client.transport.shard_stream import Fetched

FULL_SIZE = 2
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class NumberedBatch:
    """A batch of FULL_SIZE rows, or of fewer."""

    shard: int
    index: int
    batch_size: int = FULL_SIZE
    position: Position | None = None
    padding: bool = False
    server: str = ""
    wire_bytes: int = 0
    nbytes: int = 1

    @property
    def key(self) -> tuple[int, int]:
        return self.shard, self.index

    @property
    def next_cursor(self) -> Cursor:
        return Cursor(0, self.index + 1, 0, self.index + 1)

    def but(self, **changes: Any) -> NumberedBatch:
        """The same with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class NumberedShard:
    """So many batches, the last of them perhaps short."""

    batch_count: int
    short: bool = False

    def batch(self, shard: int, index: int) -> NumberedBatch:
        last = index == self.batch_count - 1
        return NumberedBatch(shard, index, FULL_SIZE - (last and self.short))


class NumberedSource:
    """The batches of a shard from one on, as a ShardStream gives them."""

    def __init__(
        self, number: int, shard: NumberedShard, start: Cursor | int, count: int | None
    ) -> None:
        first = start if isinstance(start, int) else start.batch
        end = shard.batch_count if count is None else first + count
        assert end <= shard.batch_count
        self._batches = [shard.batch(number, index) for index in range(first, end)]

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            value: Any = batch
            yield Fetched(value, "a:1", 1)

    def close(self) -> None:
        """Holds nothing."""

    def rival(self, given: int) -> None:
        """There is only one server."""


def reader_of(
    shards: Sequence[NumberedShard],
    schedule: Schedule,
    interleave: int,
    meter: Meter,
    *,
    drop_last: bool,
) -> EpochReader:
    """What a Session opens for a schedule."""
    at = {o.segment: o for o in schedule.reading_order()}
    left = {n: schedule.remaining(o) for n, o in at.items()}

    def open_stream(number: int) -> Any:
        segment = schedule.segments[number]
        start = at[number].cursor or segment.cursor or segment.first_batch or Cursor()
        return NumberedSource(segment.shard, shards[segment.shard], start, left[number])

    def reopen(shard: int, batch: int) -> Any:
        return NumberedSource(shard, shards[shard], batch, 1)

    prefetcher: Prefetcher[Fetched[Any]] = Prefetcher(
        [n for n, count in left.items() if count != 0],
        open_stream,
        lanes=max(interleave, len(schedule.position.open)),
        budget_bytes=1 << 20,
        items_per_lane=2,
        size_bytes=lambda fetched: fetched.value.nbytes,
    )
    return EpochReader(
        *(schedule, prefetcher, reopen, meter),
        full_size=FULL_SIZE if drop_last else 0,
        timeout_s=TIMEOUT_S,
        hedge=False,
    )
