"""A bounded buffer between sources that are read ahead and one consumer. Knows no gRPC.

As many lanes (threads) as segments are open at once; each reads one segment to its end, then takes
the next one. A lane holds at most its share of the budget, so memory is bounded however many
segments there are. Whoever waits, waits for one thing, and nobody is woken for another's: a thread
that wakes takes the GIL, and the consumer's program stands still meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from trainer_client.errors import HeadraceError, StreamClosedError, StreamTimeoutError

JOIN_TIMEOUT_S = 10.0

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Source(Protocol[T_co]):
    """Items in order; close() may be called from another thread and makes next() end soon."""

    def __iter__(self) -> Iterator[T_co]: ...

    def close(self) -> None:
        """Ends the iteration."""

    def rival(self, given: int) -> Source[T_co] | None:
        """Another source of the items after the first few, from elsewhere, to race with this one.

        None where there is no elsewhere, or where this source has given more items than that.
        """


class Ahead(Protocol[T_co]):
    """What reads segments ahead of one consumer: a Prefetcher, or one in another process.

    hedges counts the rivals that were asked, hedges_won those that were faster.
    """

    hedges: int
    hedges_won: int

    def take(self, segment: int, timeout_s: float, hedge_after_s: float = math.inf) -> T_co | None:
        """The next item of a segment, None at its end; see Prefetcher.take."""

    def ready(self, segment: int) -> bool:
        """Whether take would return an item without waiting."""

    def close(self) -> None:
        """Ends what reads, with a bound; idempotent."""


class _Queue(Generic[T]):
    """The items of one segment that were read and not yet taken, then how it ended.

    awaited says that the consumer waits for either. read counts items. rival races with the source
    for the next item, and is successor, with what it goes on to give, once it has won.
    """

    def __init__(self) -> None:
        self.items: deque[tuple[T, int, _Lane]] = deque()
        self.read = 0
        self.lane: _Lane | None = None
        self.rival: Source[T] | None = None
        self.successor: Iterator[T] | None = None
        self.ended = False
        self.error: BaseException | None = None
        self.awaited = False


class _Lane:
    """What one thread holds: the bytes and the number of its items that nobody has taken.

    taken tells the thread that it holds less.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.held_bytes = 0
        self.held_items = 0
        self.taken = threading.Condition(lock)


class Prefetcher(Generic[T]):
    """Reads segments ahead, each on its own lane, and hands out their items in order.

    segments are numbered in the order in which they will be asked for; open makes the source of
    one; size_bytes says what an item holds. A lane holds at most budget_bytes / lanes and
    items_per_lane items, but always lets the segment it reads have one. told is called, one call at
    a time, with the number of a segment and each item that it has to take, and at its end with
    neither an item nor, unless one ended it, an error.
    """

    def __init__(
        self,
        segments: Sequence[int],
        open_source: Callable[[int], Source[T]],
        *,
        lanes: int,
        budget_bytes: int,
        items_per_lane: int,
        size_bytes: Callable[[T], int],
        told: Callable[[int, T | None, BaseException | None], None] | None = None,
    ) -> None:
        self._pending = deque(segments)
        self._open_source = open_source
        self._size_bytes = size_bytes
        self._told = told
        self._lane_bytes = budget_bytes // max(1, lanes)
        self._lane_items = items_per_lane
        # Reentrant: a signal handler that closes may interrupt the thread that holds it.
        self._lock = threading.RLock()
        # Tells the consumer that the queue which it waits for has changed.
        self._arrived = threading.Condition(self._lock)
        self._queues: dict[int, _Queue[T]] = {n: _Queue() for n in segments}
        self._sources: dict[int, Source[T]] = {}
        self._closed = False
        self._lanes = [_Lane(self._lock) for _ in range(min(lanes, len(self._pending)))]
        self.hedges = self.hedges_won = 0
        self._rivals: list[threading.Thread] = []
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"headrace-lane-{i}", daemon=True)
            for i, lane in enumerate(self._lanes)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, segment: int, timeout_s: float, hedge_after_s: float = math.inf) -> T | None:
        """The next item of a segment, None at its end.

        Where none arrives for hedge_after_s, a rival of its source is asked for it too. Raises what
        its source raised once the items before are taken, StreamClosedError once it is closed, and
        StreamTimeoutError if there is nothing after timeout_s.
        """
        queue = self._queues[segment]
        with self._lock:
            arrived = bool(queue.items) or self._arrives(queue, min(timeout_s, hedge_after_s))
            if not arrived and hedge_after_s < timeout_s:
                self.hedge(segment)
                arrived = self._arrives(queue, timeout_s - hedge_after_s)
            # A closed source ends too: that is not the end of its segment.
            if self._closed:
                raise StreamClosedError("the stream was closed meanwhile")
            if not arrived:
                raise StreamTimeoutError(
                    f"segment {segment} gave no batch for {timeout_s:.0f} s, and its reader did "
                    "not say why: this is a fault of this client, please report it"
                )
            if queue.items:
                item, size, lane = queue.items.popleft()
                lane.held_bytes -= size
                lane.held_items -= 1
                lane.taken.notify()
                return item
            if queue.error is not None:
                raise queue.error
            return None

    def ready(self, segment: int) -> bool:
        """Whether take would return an item without waiting."""
        with self._lock:
            return bool(self._queues[segment].items)

    def hedge(self, segment: int) -> None:
        """Has another source race for the next item of a segment that has none to take."""
        queue = self._queues[segment]
        with self._lock:
            source = self._sources.get(segment)
            busy = queue.items or queue.ended or queue.rival is not None
            if source is None or busy or self._closed:
                return
            rival = None
            # Who cannot say where else to look has nobody to race with.
            with contextlib.suppress(HeadraceError):
                rival = source.rival(queue.read)
            if rival is None:
                return
            queue.rival = rival
            self.hedges += 1
            thread = threading.Thread(
                target=self._race, args=(segment, queue, rival), name="headrace-hedge", daemon=True
            )
            self._rivals = [*(thread for thread in self._rivals if thread.is_alive()), thread]
            thread.start()

    def close(self) -> None:
        """Closes every source and ends the lanes; waits for them, with a bound."""
        with self._lock:
            self._closed = True
            self._pending.clear()
            sources = list(self._sources.values())
            sources += [queue.rival for queue in self._queues.values() if queue.rival]
            for lane in self._lanes:
                lane.taken.notify()
            self._arrived.notify()
        for source in sources:
            source.close()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for thread in (*self._threads, *self._rivals):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for queue in self._queues.values():
                queue.items.clear()

    def _arrives(self, queue: _Queue[T], timeout_s: float) -> bool:
        """Waits until a queue has something to take, or its end; whether it has in time."""
        queue.awaited = True
        try:
            return self._arrived.wait_for(
                lambda: bool(queue.items) or queue.ended or self._closed, timeout_s
            )
        finally:
            queue.awaited = False

    def _run(self, lane: _Lane) -> None:
        while (segment := self._next_segment()) is not None:
            queue = self._queues[segment]
            error: BaseException | None = None
            try:
                self._read(segment, queue, lane)
            except BaseException as caught:  # noqa: BLE001 - raised by take in its turn
                error = caught
            with self._lock:
                self._sources.pop(segment, None)
                queue.error = error
                queue.ended = True
                if self._told is not None:
                    self._told(segment, None, error)
                if queue.awaited:
                    self._arrived.notify()
            if error is not None:
                return

    def _race(self, segment: int, queue: _Queue[T], rival: Source[T]) -> None:
        """Takes one item from a rival; if it is the first, the rival takes its source's place."""
        items = iter(rival)
        item: T | None = None
        # One that fails, for whatever reason, has lost: the source is still at it.
        with contextlib.suppress(Exception):
            item = next(items, None)
        with self._lock:
            won = item is not None and queue.rival is rival and not queue.ended
            if queue.rival is rival:
                queue.rival = None
            loser: Source[T] = rival
            if won and item is not None:
                assert queue.lane is not None
                self.hedges_won += 1
                queue.successor = items
                loser, self._sources[segment] = self._sources[segment], rival
                self._put(segment, queue.lane, item, self._size_bytes(item))
        loser.close()

    def _put(self, segment: int, lane: _Lane, item: T, size: int) -> None:
        queue = self._queues[segment]
        queue.items.append((item, size, lane))
        queue.read += 1
        lane.held_bytes += size
        lane.held_items += 1
        if self._told is not None:
            self._told(segment, item, None)
        if queue.awaited:
            self._arrived.notify()

    def _next_segment(self) -> int | None:
        with self._lock:
            return self._pending.popleft() if self._pending else None

    def _read(self, segment: int, queue: _Queue[T], lane: _Lane) -> None:
        source = self._open_source(segment)
        with self._lock:
            if self._closed:
                source.close()
                return
            self._sources[segment] = source
            queue.lane = lane
        items = iter(source)
        # What the next item will hold is not known before it is there: as much as the last.
        expected = 0
        while True:
            with self._lock:
                while not self._closed and not self._room(queue, lane, expected):
                    lane.taken.wait()
                if self._closed:
                    return
            item: T | None = None
            error: BaseException | None = None
            try:
                item = next(items, None)
            except BaseException as caught:  # noqa: BLE001 - unless a rival goes on, raised below
                error = caught
            with self._lock:
                successor, queue.successor = queue.successor, None
                if successor is None and item is not None:
                    expected = self._size_bytes(item)
                    self._put(segment, lane, item, expected)
                rival, queue.rival = queue.rival, None
            if rival is not None:
                rival.close()
            if successor is not None:
                # The source was closed: a rival was faster, and goes on in its place.
                items = successor
            elif error is not None:
                raise error
            elif item is None:
                return
            # It is not held up by this frame once it was taken.
            del item

    def _room(self, queue: _Queue[T], lane: _Lane, expected: int) -> bool:
        if not queue.items:
            return True
        return lane.held_items < self._lane_items and lane.held_bytes + expected <= self._lane_bytes
