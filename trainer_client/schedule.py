"""Which segment next, and from which cursor. Pure: no clocks, no servers, no threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer_client.cursor import Cursor


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of batches of one shard, given to one rank; batch_count is None to the shard's end.

    cursor is where its first batch lies, None where only its index is known.
    """

    shard: int
    first_batch: int
    batch_count: int | None
    cursor: Cursor | None = None

    def after(self, delivered: int, cursor: Cursor | None) -> Segment:
        """What is left once some batches are delivered; cursor is where that starts, if known."""
        if not delivered:
            return self
        count = None if self.batch_count is None else self.batch_count - delivered
        return Segment(self.shard, self.first_batch + delivered, count, cursor)


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

    deals are those before the one that it goes on in, even says how that one is made (see deal).
    open are the open segments in their order, next_segment is the first unopened one, turn says
    which open one is next, delivered counts steps since the deal. last is the shard and index of
    the last batch, kept where it may have to be repeated. skipped counts steps of the epoch that
    the trainer asked to leave out. finished says that no step is left; where counts are unknown
    only the servers can tell.
    """

    epoch: int
    open: tuple[OpenSegment, ...] = ()
    next_segment: int = 0
    turn: int = 0
    delivered: int = 0
    last: tuple[int, int] | None = None
    skipped: int = 0
    finished: bool = False
    even: bool = True
    deals: tuple[Deal, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The position as JSON values; the epoch is kept by whoever keeps the position."""
        progress: dict[str, Any] = {"finished": True}
        if not self.finished:
            progress = {
                "open": [
                    [o.segment, None if o.cursor is None else o.cursor.to_json(), o.delivered]
                    for o in self.open
                ],
                "next_segment": self.next_segment,
                "turn": self.turn,
                "delivered": self.delivered,
            }
            if self.last is not None:
                progress["last"] = list(self.last)
        deals = [deal.to_json() for deal in self.deals]
        if self.skipped:
            progress["skipped"] = self.skipped
        return progress | {"even": self.even} | ({"deals": deals} if deals else {})

    @classmethod
    def from_json(cls, epoch: int, value: Mapping[str, Any]) -> Position:
        """The position that to_json wrote. ValueError, KeyError or TypeError if it is none."""
        even = bool(value["even"])
        deals = tuple(Deal.from_json(epoch, deal) for deal in value.get("deals", ()))
        skipped = int(value.get("skipped", 0))
        if value.get("finished"):
            return cls(epoch, skipped=skipped, finished=True, even=even, deals=deals)
        opened = tuple(
            OpenSegment(
                int(n), None if cursor is None else Cursor.from_json(cursor), int(delivered)
            )
            for n, cursor, delivered in value["open"]
        )
        turn = int(value["turn"])
        if not 0 <= turn <= max(0, len(opened) - 1):
            raise ValueError(f"turn {turn} of {len(opened)} open segments")
        next_segment, delivered = int(value["next_segment"]), int(value["delivered"])
        last = value.get("last")
        if last is not None:
            shard, index = last
            last = int(shard), int(index)
        return cls(
            *(epoch, opened, next_segment, turn, delivered, last, skipped), even=even, deals=deals
        )


@dataclass(frozen=True, slots=True)
class Deal:
    """What was left of an epoch, dealt to as many ranks as there are positions: how far each got.

    even says how it was dealt (see deal).
    """

    even: bool
    positions: tuple[Position, ...]

    def to_json(self) -> dict[str, Any]:
        """The deal as JSON values."""
        positions = [replace(position, deals=()).to_json() for position in self.positions]
        return {"even": self.even, "positions": positions}

    @classmethod
    def from_json(cls, epoch: int, value: Mapping[str, Any]) -> Deal:
        """The deal that to_json wrote. ValueError, KeyError or TypeError if it is none."""
        positions = tuple(Position.from_json(epoch, each) for each in value["positions"])
        if not positions:
            raise ValueError("a deal to no rank")
        return cls(bool(value["even"]), positions)


def whole_shards(batch_counts: Sequence[int | None]) -> list[Segment]:
    """The segments of an epoch of which nothing was delivered; a count is None if unknown."""
    return [Segment(shard, 0, count) for shard, count in enumerate(batch_counts) if count != 0]


def deal(
    segments: Sequence[Segment], world_size: int, *, even: bool
) -> tuple[list[list[Segment]], list[Segment]]:
    """The segments of every rank, and what is left out.

    Where every count is known, whole segments are dealt round-robin while they fit what a rank
    still lacks, and the rest is cut at batch boundaries. If even, every rank gets the same number
    of batches, and fewer than world_size are left out; else nothing is, and the first ranks get
    one more. Where a count is unknown, ranks get whole segments, and nothing is left out.
    """
    counts = [segment.batch_count for segment in segments]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return [list(segments[rank::world_size]) for rank in range(world_size)], []
    share, over = divmod(sum(known), world_size)
    lacking = [share + (not even and rank < over) for rank in range(world_size)]
    dealt: list[list[Segment]] = [[] for _ in range(world_size)]
    rest: list[Segment] = []
    turn = 0
    for segment, count in zip(segments, known, strict=True):
        order = (*range(turn, world_size), *range(turn))
        taker = next((r for r in order if lacking[r] >= count), None)
        if taker is None:
            rest.append(segment)
            continue
        dealt[taker].append(segment)
        lacking[taker] -= count
        turn = (taker + 1) % world_size
    rest.reverse()
    for r in range(world_size):
        while lacking[r]:
            segment = rest.pop()
            assert segment.batch_count is not None
            taken = min(lacking[r], segment.batch_count)
            dealt[r].append(replace(segment, batch_count=taken))
            lacking[r] -= taken
            if taken < segment.batch_count:
                rest.append(segment.after(taken, None))
    return dealt, rest[::-1]


def left_of(segments: Sequence[Segment], position: Position) -> list[Segment]:
    """What a rank with these segments has not delivered at a position.

    Raises ValueError if the position is one in other segments.
    """
    if position.finished:
        return []
    unopened = position.next_segment
    if unopened > len(segments) or any(o.segment >= unopened for o in position.open):
        raise ValueError(f"a position in other segments than these {len(segments)}")
    left = [segments[o.segment].after(o.delivered, o.cursor) for o in position.open]
    if any(segment.batch_count is not None and segment.batch_count < 0 for segment in left):
        raise ValueError("a position behind the end of its segment")
    return [*(segment for segment in left if segment.batch_count != 0), *segments[unopened:]]


def undelivered(shards: Sequence[Segment], deals: Sequence[Deal]) -> list[Segment]:
    """What is left of an epoch's whole shards after some deals, in the order for the next one.

    Part-read shards come first, by number. Raises ValueError if a position does not fit its deal.
    """
    whole, segments = set(shards), list(shards)
    for each in deals:
        dealt, left = deal(segments, len(each.positions), even=each.even)
        for given, position in zip(dealt, each.positions, strict=True):
            left += left_of(given, position)
        segments = _joined(left)
        segments.sort(key=lambda segment: (segment in whole, segment.shard, segment.first_batch))
    return segments


@dataclass(frozen=True, slots=True)
class Share:
    """What falls to a rank, its steps, and what no rank gets; steps is None where counts are not.

    rest is what an even deal leaves out. batches counts those of every rank, unknown ones as none.
    """

    segments: list[Segment]
    rest: list[Segment]
    steps: int | None
    batches: list[int]


def share(
    batch_counts: Sequence[int | None],
    deals: Sequence[Deal],
    rank: int,
    world_size: int,
    *,
    even: bool,
    pad: bool,
) -> Share:
    """The share of a rank in what is left of an epoch after some deals, by batches of each shard.

    With pad, ranks take as many steps as the one with most batches. Raises ValueError if the deals
    do not fit the epoch.
    """
    left = undelivered(whole_shards(batch_counts), deals)
    dealt, rest = deal(left, world_size, even=even)
    batches = [sum(segment.batch_count or 0 for segment in segments) for segments in dealt]
    steps = None
    if None not in batch_counts:
        steps = max(batches) if pad else batches[rank]
    return Share(dealt[rank], rest, steps, batches)


def start_of(position: Position, segments: Sequence[Segment], *, even: bool, pad: bool) -> Position:
    """Where a rank with these segments starts that was restored to a position.

    Raises ValueError if the position is one in other segments.
    """
    start = replace(position, even=even)
    left_of(segments, start)
    if pad and start.last is None and not start.delivered:
        # What any rank had last before this deal will do: it is marked as padding.
        start = replace(start, last=last_of(position.deals))
    return start


def last_of(deals: Sequence[Deal]) -> tuple[int, int] | None:
    """The shard and index of a batch that some rank had last in earlier deals, if one is known."""
    lasts = (p.last for each in reversed(deals) for p in each.positions if p.last is not None)
    return next(lasts, None)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same batches, with segments that follow each other in a shard made one."""
    joined: list[Segment] = []
    for segment in sorted(segments, key=lambda each: (each.shard, each.first_batch)):
        before = joined[-1] if joined else None
        if (
            before is not None
            and before.batch_count is not None
            and segment.batch_count is not None
            and before.shard == segment.shard
            and before.first_batch + before.batch_count == segment.first_batch
        ):
            count = before.batch_count + segment.batch_count
            joined[-1] = replace(before, batch_count=count)
        else:
            joined.append(segment)
    return joined


class Schedule:
    """The order in which a rank takes batches from its segments.

    Round-robin over interleave open segments; the slot of one that has ended goes to the next
    unopened segment at once, and is closed when there is none, or when more segments are open than
    interleave (a position restored from a larger one). steps are those that the rank takes; where
    it has fewer batches, the last one is repeated. None takes as many as there are batches. With
    keep_last positions say which batch came last.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        interleave: int,
        position: Position,
        steps: int | None = None,
        *,
        keep_last: bool = False,
    ) -> None:
        self.segments = segments
        self._interleave = interleave
        self._open = list(position.open)
        self._start = position
        self._next = position.next_segment
        self._turn = position.turn
        self._delivered = position.delivered
        self._last = position.last
        self._steps = steps
        self._keep_last = keep_last
        while len(self._open) < interleave and self._next < len(segments):
            self._open.append(OpenSegment(self._next))
            self._next += 1

    @property
    def position(self) -> Position:
        """The state from which the same rest follows."""
        start = self._start
        return Position(
            epoch=start.epoch,
            open=tuple(self._open),
            next_segment=self._next,
            turn=self._turn,
            delivered=self._delivered,
            last=self._last,
            skipped=start.skipped,
            finished=self.finished,
            even=start.even,
            deals=start.deals,
        )

    @property
    def finished(self) -> bool:
        """Whether every step that is known to be there was taken."""
        return self._exhausted and not self.repeats

    @property
    def repeats(self) -> int:
        """How often the last batch is still to be repeated, once there is no other."""
        return 0 if self._steps is None else max(0, self._steps - self._delivered)

    @property
    def _exhausted(self) -> bool:
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

    def deliver(self, next_cursor: Cursor, *, dropped: bool = False) -> Position:
        """Takes a batch from the current segment; the position after it.

        One that is dropped is none to repeat.
        """
        now = self._open[self._turn]
        if self._keep_last and not dropped:
            segment = self.segments[now.segment]
            self._last = segment.shard, segment.first_batch + now.delivered
        self._open[self._turn] = OpenSegment(now.segment, next_cursor, now.delivered + 1)
        self._turn = (self._turn + 1) % len(self._open)
        self._delivered += 1
        return self.position

    def repeat(self) -> Position:
        """Takes the last batch once more; the position after it."""
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
