"""Memory for tensors, used again once nobody can see it any more.

Large memory that is new costs more than what is written into it: the operating system clears every
page when it is first touched. A freed arena comes back here instead, its pages still there.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
# What is kept for later use, at most; memory that is in use is not counted.
IDLE_BYTES = 128 << 20
# Less than this malloc hands out again by itself.
SMALLEST_BYTES = 64 << 10
# Larger than any message of a few thousand rows.
FREED_BLOCK_BYTES = 8 << 20

Bytes = npt.NDArray[np.uint8]


class Memory(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """Memory, or a part of it that is lent.

    A class of its own, since an array refers to what it is a view of only down to the first one of
    another class: so plain arrays refer to the part, and not past it to the memory.
    """

    # Its first aligned byte: asking an array for its address takes longer than all else here.
    start: int = 0


class _Lease(weakref.ref[Bytes]):
    """Notices that a part of memory is gone, and keeps the memory."""

    memory: Memory


class ArenaPool:
    """Arrays of bytes, 64-byte aligned; any thread may use it.

    The memory of an array is used again when the array, its views, and tensors of any of them are
    gone.
    """

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self._idle_limit = idle_bytes
        self._smallest = SMALLEST_BYTES
        self._allocate: Callable[[int], Memory] = _allocate
        self._lock = threading.Lock()
        # By identity: weak references are equal if what they refer to is, and arrays are compared
        # element by element.
        self._leases: dict[int, _Lease] = {}
        # Leases that ended. Appending is atomic: it happens wherever an array dies, be it in the
        # middle of a method of this pool.
        self._ended: deque[_Lease] = deque()
        # Those that were used last are at the end: they may still be in a cache.
        self._idle: list[Memory] = []
        self._idle_bytes = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes kept for later use."""
        with self._lock:
            self._take_back()
            return self._idle_bytes

    def allocate_by(self, allocate: Callable[[int], Memory]) -> None:
        """Takes all memory from a function of its size from now on, small arrays' too."""
        self._allocate, self._smallest = allocate, 0

    def take(self, size: int) -> Bytes:
        """An array uint8 [size], of which nothing is set."""
        if size < self._smallest:
            small = np.empty(size + ALIGNMENT, np.uint8)
            start = _start_of(small)
            return small[start : start + size]
        wanted = _class_bytes(max(size, SMALLEST_BYTES)) + ALIGNMENT
        with self._lock:
            self._take_back()
            memory = self._pop(wanted)
        if memory is None:
            memory = self._allocate(wanted)
        part = memory[memory.start : memory.start + size]
        lease = _Lease(part, self._end)
        lease.memory = memory
        with self._lock:
            self._leases[id(lease)] = lease
        return part.view(np.ndarray)

    def reset_after_fork(self) -> None:
        """Makes a lock that another thread held in the parent usable in a forked child."""
        self._lock = threading.Lock()

    def _end(self, lease: _Lease) -> None:
        self._ended.append(lease)
        # Never waits: it may interrupt the very thread that holds the lock. Whoever does looks
        # again after letting go, or the next to take something does.
        while self._ended and self._lock.acquire(blocking=False):
            try:
                self._take_back()
            finally:
                self._lock.release()

    def _take_back(self) -> None:
        while self._ended:
            lease = self._ended.popleft()
            del self._leases[id(lease)]
            self._idle.append(lease.memory)
            self._idle_bytes += lease.memory.nbytes
        while self._idle_bytes > self._idle_limit:
            self._idle_bytes -= self._idle.pop(0).nbytes

    def _pop(self, wanted: int) -> Memory | None:
        for i in range(len(self._idle) - 1, -1, -1):
            if self._idle[i].nbytes == wanted:
                self._idle_bytes -= wanted
                return self._idle.pop(i)
        return None


def _allocate(size: int) -> Memory:
    memory = Memory(size, np.uint8)
    memory.start = _start_of(memory)
    return memory


def _class_bytes(size: int) -> int:
    """The size rounded up to one of eight steps between powers of two: batches differ a little."""
    step = 1 << (size.bit_length() - 4)
    return -(-size // step) * step


def _start_of(memory: Bytes) -> int:
    return int(-memory.ctypes.data % ALIGNMENT)


def keep_freed_messages() -> None:
    """Has glibc's malloc keep messages that were decoded for those that come; idempotent.

    They are memory of gRPC and of Python. glibc gives back to the kernel what is larger than any
    block that this process has freed before, up to 32 MiB. So one is freed here, and never touched:
    blocks of up to its size are kept from now on, at most twice its size at the end of each heap
    (mallopt(3), M_MMAP_THRESHOLD). Where the environment says how (MALLOC_TRIM_THRESHOLD_ and the
    like), that stays; other mallocs take no notice.
    """
    np.empty(FREED_BLOCK_BYTES, np.uint8)


POOL = ArenaPool()
os.register_at_fork(after_in_child=POOL.reset_after_fork)
