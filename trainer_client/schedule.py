"""Which segment next, and from which cursor. Pure: no clocks, no servers, no threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_client.cursor import Cursor


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of batches of one shard, given to one rank; batch_count is None to the shard's end."""

    shard: int
    first_batch: int
    batch_count: int | None


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """A segment being read: its number, where it goes on, how many of its batches are delivered.

    cursor is None while no batch was delivered.
    """

    segment: int
    cursor: Cursor | None = None
    delivered: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a rank stands in an epoch.

    open are the open segments in their order, next_segment is the first unopened one, turn says
    which open one is next, delivered counts batches. finished says that no batch is left; where
    counts are unknown only the servers can tell.
    """

    epoch: int
    open: tuple[OpenSegment, ...] = ()
    next_segment: int = 0
    turn: int = 0
    delivered: int = 0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        """The position as JSON values; the epoch is kept by whoever keeps the position."""
        return {
            "open": [
                [o.segment, None if o.cursor is None else o.cursor.to_json(), o.delivered]
                for o in self.open
            ],
            "next_segment": self.next_segment,
            "turn": self.turn,
            "delivered": self.delivered,
        }

    @classmethod
    def from_json(cls, epoch: int, value: Mapping[str, Any]) -> Position:
        """The position that to_json wrote. ValueError, KeyError or TypeError if it is none."""
        opened = tuple(
            OpenSegment(
                int(n), None if cursor is None else Cursor.from_json(cursor), int(delivered)
            )
            for n, cursor, delivered in value["open"]
        )
        position = cls(
            epoch, opened, int(value["next_segment"]), int(value["turn"]), int(value["delivered"])
        )
        if not 0 <= position.turn <= max(0, len(opened) - 1):
            raise ValueError(f"turn {position.turn} of {len(opened)} open segments")
        return position


def deal(batch_counts: Sequence[int], world_size: int) -> tuple[list[list[Segment]], list[Segment]]:
    """The segments of every rank where the batches of every shard are known, and what is left out.

    Every rank gets sum(batch_counts) // world_size batches: whole shards are dealt round-robin
    while they fit what a rank still lacks, the rest is cut at batch boundaries; fewer than
    world_size batches are left out.
    """
    lacking = [sum(batch_counts) // world_size] * world_size
    segments: list[list[Segment]] = [[] for _ in range(world_size)]
    rest: list[tuple[int, int, int]] = []
    turn = 0
    for shard, count in enumerate(batch_counts):
        if not count:
            continue
        order = (*range(turn, world_size), *range(turn))
        taker = next((r for r in order if lacking[r] >= count), None)
        if taker is None:
            rest.append((shard, 0, count))
            continue
        segments[taker].append(Segment(shard, 0, count))
        lacking[taker] -= count
        turn = (taker + 1) % world_size
    rest.reverse()
    for r in range(world_size):
        while lacking[r]:
            shard, first, count = rest.pop()
            taken = min(lacking[r], count)
            segments[r].append(Segment(shard, first, taken))
            lacking[r] -= taken
            if taken < count:
                rest.append((shard, first + taken, count - taken))
    return segments, [Segment(*piece) for piece in reversed(rest)]


def assign_whole_shards(num_shards: int, rank: int, world_size: int) -> list[Segment]:
    """The segments of a rank where counts are unknown: shards rank, rank + world_size, ..."""
    return [Segment(shard, 0, None) for shard in range(rank, num_shards, world_size)]


class Schedule:
    """The order in which a rank takes batches from its segments.

    Round-robin over interleave open segments; the slot of one that has ended goes to the next
    unopened segment at once, and is closed when there is none, or when more segments are open than
    interleave (a position restored from a larger one).
    """

    def __init__(self, segments: Sequence[Segment], interleave: int, position: Position) -> None:
        self.segments = segments
        self._interleave = interleave
        self._open = list(position.open)
        self._epoch = position.epoch
        self._next = position.next_segment
        self._turn = position.turn
        self._delivered = position.delivered
        while len(self._open) < interleave and self._next < len(segments):
            self._open.append(OpenSegment(self._next))
            self._next += 1

    @property
    def position(self) -> Position:
        """The state from which the same rest follows."""
        return Position(
            self._epoch,
            tuple(self._open),
            self._next,
            self._turn,
            self._delivered,
            self.finished,
        )

    @property
    def finished(self) -> bool:
        """Whether every batch that is known to be there was delivered."""
        return self._next == len(self.segments) and all(self.remaining(o) == 0 for o in self._open)

    def reading_order(self) -> list[OpenSegment]:
        """The segments still to be read, open ones first."""
        unopened = (OpenSegment(n) for n in range(self._next, len(self.segments)))
        return [*self._open, *unopened]

    def remaining(self, segment: OpenSegment) -> int | None:
        """The batches that a segment still has, None where that is unknown."""
        count = self.segments[segment.segment].batch_count
        return None if count is None else count - segment.delivered

    def current(self) -> OpenSegment | None:
        """The segment whose turn it is, None at the end of the epoch."""
        while self._open and self.remaining(self._open[self._turn]) == 0:
            self.end()
        return self._open[self._turn] if self._open else None

    def deliver(self, next_cursor: Cursor) -> Position:
        """Takes a batch from the current segment; the position after it."""
        now = self._open[self._turn]
        self._open[self._turn] = OpenSegment(now.segment, next_cursor, now.delivered + 1)
        self._turn = (self._turn + 1) % len(self._open)
        self._delivered += 1
        return self.position

    def end(self) -> None:
        """Ends the current segment: its slot goes to the next unopened one."""
        if self._next < len(self.segments) and len(self._open) <= self._interleave:
            self._open[self._turn] = OpenSegment(self._next)
            self._next += 1
            return
        del self._open[self._turn]
        if self._turn >= len(self._open):
            self._turn = 0
