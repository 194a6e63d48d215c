"""A bounded buffer between sources that are read ahead and one consumer. Knows no gRPC.

As many lanes (threads) as segments are open at once; each reads one segment to its end, then takes
the next one. A lane holds at most its share of the budget, so memory is bounded however many
segments there are. Whoever waits, waits for one thing, and nobody is woken for another's: a thread
that wakes takes the GIL, and the consumer's program stands still meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from trainer_client.errors import StreamTimeoutError

JOIN_TIMEOUT_S = 10.0

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Source(Protocol[T_co]):
    """Items in order; close() may be called from another thread and makes next() end soon."""

    def __iter__(self) -> Iterator[T_co]: ...

    def close(self) -> None:
        """Ends the iteration."""


class _Queue(Generic[T]):
    """The items of one segment that were read and not yet taken, then how it ended.

    arrived tells the consumer of either, and is there while it waits.
    """

    def __init__(self) -> None:
        self.items: deque[tuple[T, int, _Lane]] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.arrived: threading.Condition | None = None


class _Lane:
    """What one thread holds: the bytes and the number of its items that nobody has taken.

    taken tells the thread that it holds less.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.held_bytes = 0
        self.held_items = 0
        self.taken = threading.Condition(lock)


class Prefetcher(Generic[T]):
    """Reads segments ahead, each on its own lane, and hands out their items in order.

    segments are numbered in the order in which they will be asked for; open makes the source of
    one; size_bytes says what an item holds. A lane holds at most budget_bytes / lanes and
    items_per_lane items, but always lets the segment it reads have one.
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
    ) -> None:
        self._pending = deque(segments)
        self._open_source = open_source
        self._size_bytes = size_bytes
        self._lane_bytes = budget_bytes // max(1, lanes)
        self._lane_items = items_per_lane
        self._lock = threading.Lock()
        self._queues: dict[int, _Queue[T]] = {n: _Queue() for n in segments}
        self._sources: dict[int, Source[T]] = {}
        self._closed = False
        self._lanes = [_Lane(self._lock) for _ in range(min(lanes, len(self._pending)))]
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"headrace-lane-{i}", daemon=True)
            for i, lane in enumerate(self._lanes)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, segment: int, timeout_s: float) -> T | None:
        """The next item of a segment, None at its end.

        Raises what its source raised once the items before are taken, and StreamTimeoutError if
        there is nothing after timeout_s.
        """
        queue = self._queues[segment]
        with self._lock:
            if not queue.items and not self._arrives(queue, timeout_s):
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

    def close(self) -> None:
        """Closes every source and ends the lanes; waits for them, with a bound."""
        with self._lock:
            self._closed = True
            self._pending.clear()
            sources = list(self._sources.values())
            for lane in self._lanes:
                lane.taken.notify()
            for queue in self._queues.values():
                if queue.arrived is not None:
                    queue.arrived.notify()
        for source in sources:
            source.close()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for queue in self._queues.values():
                queue.items.clear()

    def _arrives(self, queue: _Queue[T], timeout_s: float) -> bool:
        """Waits until a queue has something to take, or its end; whether it has in time."""
        queue.arrived = threading.Condition(self._lock)
        try:
            return queue.arrived.wait_for(
                lambda: bool(queue.items) or queue.ended or self._closed, timeout_s
            )
        finally:
            queue.arrived = None

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
                if queue.arrived is not None:
                    queue.arrived.notify()
            if error is not None:
                return

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
        items = iter(source)
        # What the next item will hold is not known before it is there: as much as the last.
        expected = 0
        while True:
            with self._lock:
                while not self._closed and not self._room(queue, lane, expected):
                    lane.taken.wait()
                if self._closed:
                    return
            item = next(items, None)
            if item is None:
                return
            expected = self._size_bytes(item)
            with self._lock:
                queue.items.append((item, expected, lane))
                lane.held_bytes += expected
                lane.held_items += 1
                if queue.arrived is not None:
                    queue.arrived.notify()
            # It is not held up by this frame once it was taken.
            del item

    def _room(self, queue: _Queue[T], lane: _Lane, expected: int) -> bool:
        if not queue.items:
            return True
        return lane.held_items < self._lane_items and lane.held_bytes + expected <= self._lane_bytes
