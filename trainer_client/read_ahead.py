"""What an epoch reads ahead: which segments, from where, and how much of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.v1 import preprocessor_service_pb2
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.prefetch import Prefetcher
from trainer_client.transport.shard_stream import Fetched, Job, ShardStream

Told = Callable[[int, Fetched[Batch] | None, BaseException | None], None]


@dataclass(frozen=True, slots=True)
class SegmentRead:
    """A segment by number, and what is still to be read of its shard, as ShardStream takes it."""

    number: int
    shard: int
    splits: Sequence[preprocessor_service_pb2.Split]
    start: Cursor | int
    batch_count: int | None


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """Segments in the order in which they will be asked for, and the bounds of a Prefetcher."""

    segments: Sequence[SegmentRead]
    lanes: int
    budget_bytes: int
    items_per_lane: int


def prefetch(
    job: Job[Batch], ahead: ReadAhead, told: Told | None = None
) -> Prefetcher[Fetched[Batch]]:
    """Starts to read; told is the Prefetcher's."""
    by_number = {segment.number: segment for segment in ahead.segments}

    def open_stream(number: int) -> ShardStream[Batch]:
        segment = by_number[number]
        place = segment.shard, segment.splits, segment.start, segment.batch_count
        return ShardStream(job, *place)

    return Prefetcher(
        list(by_number),
        open_stream,
        lanes=ahead.lanes,
        budget_bytes=ahead.budget_bytes,
        items_per_lane=ahead.items_per_lane,
        size_bytes=lambda fetched: fetched.value.nbytes,
        told=told,
    )
