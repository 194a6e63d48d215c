"""One memory budget a process: what streams hold is bounded in bytes, however many they are.

A stream whose client reads nothing keeps what it has decoded only until somebody else needs the
memory: it can read the same rows again from its cursor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from preprocessor_server.errors import TemporaryError

# A stream that has been blocked in sending for this long is stalled, and gives way to others.
STALLED_AFTER_S = 1.0
ACQUIRE_TIMEOUT_S = 30.0


class LeaseClosedError(Exception):
    """The stream that asks for memory has been cancelled: nobody waits for its answer."""


class MemoryBudget:
    """Bytes shared by all streams of a process."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self.evictions = 0
        self._used = 0
        self._leases: list[Lease] = []
        self._kept: list[tuple[Lease, Callable[[int], int]]] = []
        # Reentrant: whoever lets go of memory under it may count that at once.
        self._changed = threading.Condition(threading.RLock())

    @property
    def used(self) -> int:
        """Bytes held by all streams."""
        return self._used

    def open(self, drop: Callable[[], int]) -> Lease:
        """A new stream's lease, holding nothing.

        drop is called while the stream is stalled and others need memory: it lets go of what the
        stream can make again and returns those bytes, or 0 if it can let go of nothing now.
        """
        lease = Lease(self, drop)
        with self._changed:
            self._leases.append(lease)
        return lease

    def keep(self, drop: Callable[[int], int]) -> Lease:
        """A lease of what is kept only in case that it is needed again.

        drop is called before anybody waits for memory: it lets go of so many bytes, or of all that
        it has, and returns how many these were.
        """
        lease = Lease(self, lambda: 0)
        with self._changed:
            self._kept.append((lease, drop))
        return lease

    @property
    def lock(self) -> threading.Condition:
        """Held while anything is dropped; whoever takes up what may be dropped holds it too."""
        return self._changed

    def _acquire(self, lease: Lease, size: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._reclaim(self._used + size - self.capacity)
            while lease.closed or self._used + size > self.capacity:
                now = time.monotonic()
                if lease.closed or now >= deadline:
                    return False
                if not self._evict(now):
                    # Somebody may become stalled without telling, so look again in time.
                    self._changed.wait(min(deadline - now, STALLED_AFTER_S))
            self._add(lease, size)
            return True

    def _reclaim(self, size: int) -> None:
        for lease, drop in self._kept:
            if size > 0:
                freed = drop(size)
                self._add(lease, -freed)
                size -= freed

    def _evict(self, now: float) -> bool:
        """Lets the stream that has been stalled longest drop what it holds."""
        stalled = [
            lease
            for lease in self._leases
            if lease.idle_since is not None and now - lease.idle_since >= STALLED_AFTER_S
        ]
        for lease in sorted(stalled, key=lambda lease: lease.idle_since or 0.0):
            freed = lease.drop()
            if freed:
                self._add(lease, -freed)
                self.evictions += 1
                return True
        return False

    def _add(self, lease: Lease, size: int) -> None:
        lease.held += size
        self._used += size


class Lease:
    """What one stream holds of the budget."""

    def __init__(self, budget: MemoryBudget, drop: Callable[[], int]) -> None:
        self._budget = budget
        self.drop = drop
        self.held = 0
        self.idle_since: float | None = None
        self.closed = False

    def acquire(self, size: int) -> None:
        """Takes size bytes, waiting for others if need be.

        The caller must hold nothing that others may wait for. Raises TemporaryError if there is
        no room in time, LeaseClosedError if the stream is cancelled meanwhile.
        """
        if not self._budget._acquire(self, size, ACQUIRE_TIMEOUT_S):
            if self.closed:
                raise LeaseClosedError
            raise TemporaryError(
                "SERVER_BUSY",
                f"no {size:,} bytes came free within {ACQUIRE_TIMEOUT_S:.0f} s, of the "
                f"{self._budget.capacity:,} that this server has for rows (--read-ahead-bytes); "
                "add servers or memory",
            )

    def try_acquire(self, size: int) -> bool:
        """Takes size bytes if they are free now."""
        return self._budget._acquire(self, size, 0.0)

    def add(self, size: int) -> None:
        """Counts size bytes more (or fewer) than before, whether or not there is room."""
        with self._budget._changed:
            if not self.closed:
                self._budget._add(self, size)
                if size < 0:
                    self._budget._changed.notify_all()

    def rest(self) -> None:
        """Tells that the stream is blocked in sending: what it holds may be dropped."""
        with self._budget._changed:
            self.idle_since = time.monotonic()

    def resume(self) -> None:
        """Tells that the stream goes on: nothing is dropped from now on."""
        with self._budget._changed:
            self.idle_since = None

    def close(self) -> None:
        """Gives everything back. Idempotent."""
        with self._budget._changed:
            if not self.closed:
                self._budget._add(self, -self.held)
                self.closed = True
                self._budget._leases.remove(self)
                self._budget._changed.notify_all()
