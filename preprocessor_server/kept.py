"""What was made for one and may serve others: a sliding window in bytes, within the budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from preprocessor_server.budget import MemoryBudget


class _Kept(NamedTuple):
    owner: dict[Any, Any]
    key: Hashable
    size_bytes: int


class KeptWindow:
    """The values that were kept last, oldest dropped first; whoever needs memory goes before them.

    A value lies in a dict of its owner's, who reads that under the budget's lock.
    """

    def __init__(self, budget: MemoryBudget, capacity_bytes: int) -> None:
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
