"""What was made for one and may serve others: a sliding window in bytes, within the budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

from preprocessor_server.budget import MemoryBudget

T = TypeVar("T")


class _Kept(NamedTuple):
    owner: dict[Any, Any]
    key: Hashable
    size_bytes: int


class KeptWindow:
    """The values that were kept last, oldest dropped first; whoever needs memory goes before them.

    A value lies in a dict of its owner's, who reads that under the budget's lock.
    """

    def __init__(self, budget: MemoryBudget, capacity_bytes: int) -> None:
        self.budget = budget
        self.capacity = capacity_bytes
        self.used = 0
        self.lock = budget.lock
        self._kept: deque[_Kept] = deque()
        self._lease = budget.keep(self._drop)

    def put(self, owner: dict[Any, Any], key: Hashable, value: object, size_bytes: int) -> None:
        """Keeps a value under a key of its owner's, unless it is too large or there already."""
        with self.lock:
            if size_bytes > self.capacity or key in owner:
                return
            self._lease.add(-self._drop(self.used + size_bytes - self.capacity))
            owner[key] = value
            self._kept.append(_Kept(owner, key, size_bytes))
            self.used += size_bytes
            self._lease.add(size_bytes)

    def _drop(self, size_bytes: int) -> int:
        """Drops the oldest values, of so many bytes if there are; how many they had."""
        freed = 0
        while freed < size_bytes and self._kept:
            oldest = self._kept.popleft()
            del oldest.owner[oldest.key]
            freed += oldest.size_bytes
        self.used -= freed
        return freed


class KeptValues(Generic[T]):
    """Values that are made once, for all who ask for them together or soon after."""

    def __init__(self, window: KeptWindow) -> None:
        self._window = window
        self._values: dict[Hashable, T] = {}
        self._making: dict[Hashable, Future[T]] = {}
        self._lease = window.budget.open(lambda: 0)

    def get(
        self, key: Hashable, size_bytes: int, make: Callable[[], T], measure: Callable[[T], int]
    ) -> T | None:
        """The value of a key, which takes so many bytes while it is made, later what it measures.

        None if there is no room for it. Raises what make raises, to all who wait for it.
        """
        with self._window.lock:
            if key in self._values:
                return self._values[key]
            others = self._making.get(key)
            if others is None:
                if size_bytes > self._window.capacity or not self._lease.try_acquire(size_bytes):
                    return None
                future: Future[T] = Future()
                self._making[key] = future
        if others is not None:
            return others.result()
        try:
            value = make()
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            self._window.put(self._values, key, value, measure(value))
            future.set_result(value)
            return value
        finally:
            with self._window.lock:
                del self._making[key]
            self._lease.add(-size_bytes)
