"""Memory of two processes: one writes batches into it, the other looks at them where they are.

It is a file that has no name, far larger than any machine's memory: only what is written to takes
up memory, and what is given back takes up none again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from collections import deque
from itertools import pairwise

import numpy as np

from trainer_client.arena_pool import Bytes, Memory
from trainer_client.errors import DeploymentError

# Of the machine's memory: pieces of many sizes leave gaps.
CAPACITY_FACTOR = 4
PAGE_BYTES = mmap.PAGESIZE


def create() -> int:
    """A new file, by its descriptor, which a process that is started inherits only if told to.

    Raises DeploymentError.
    """
    size = CAPACITY_FACTOR * os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    descriptor = os.memfd_create("headrace-batches", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        raise _limited(size, error, "ulimit -f") from error
    return descriptor


def _mapped(descriptor: int) -> mmap.mmap:
    """The whole file; the descriptor is no longer needed. Raises DeploymentError."""
    size = os.fstat(descriptor).st_size
    try:
        return mmap.mmap(descriptor, size)
    except OSError as error:
        raise _limited(size, error, "ulimit -v") from error


def _limited(size: int, error: OSError, limit: str) -> DeploymentError:
    return DeploymentError(
        f"reader_process=True: {size:,} bytes of addresses for shared memory cannot be had "
        f"({error.strerror}): lift the trainer's limit ({limit} unlimited); memory is taken up "
        "only by what is read ahead"
    )


def _give_back(mapped: mmap.mmap, start: int, size: int) -> None:
    """Gives memory back to the system. If that cannot take it, it is in use until lent again."""
    if size > 0:
        with contextlib.suppress(OSError):
            mapped.madvise(mmap.MADV_REMOVE, start, size)


class Lender:
    """Gives out pieces of the memory; any thread may use it."""

    def __init__(self, descriptor: int) -> None:
        self._map = _mapped(descriptor)
        self._address = np.frombuffer(self._map, np.uint8).ctypes.data
        self._lock = threading.Lock()
        self._free = [(0, len(self._map))]
        # Appending is atomic: it happens wherever an array dies.
        self._returned: deque[tuple[int, int]] = deque()

    def allocate(self, size: int) -> Memory:
        """An array uint8 [size]; once it is gone, its memory is given back to the system."""
        taken = -(-size // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            self._take_back()
            place = next((i for i, (a, b) in enumerate(self._free) if b - a >= taken), None)
            if place is None:
                raise MemoryError(f"{size} bytes of shared memory: all is in use")
            start, end = self._free[place]
            self._free[place] = (start + taken, end)
        memory = Memory(size, np.uint8, self._map, start)
        weakref.finalize(memory, self._give_back, start, taken).atexit = False
        return memory

    def start_of(self, address: int) -> int:
        """Where in the memory an address is, in bytes."""
        return address - self._address

    def _give_back(self, start: int, size: int) -> None:
        _give_back(self._map, start, size)
        self._returned.append((start, start + size))

    def _take_back(self) -> None:
        if not self._returned:
            return
        while self._returned:
            self._free.append(self._returned.popleft())
        self._free.sort()
        merged = self._free[:1]
        for (_, end), (start, new_end) in pairwise(self._free):
            if start == end:
                merged[-1] = (merged[-1][0], new_end)
            else:
                merged.append((start, new_end))
        self._free = merged


class _Loan(weakref.ref[Bytes]):
    """Notices that an array is gone."""

    number: int
    place: tuple[int, int]


class Borrower:
    """Shows pieces of the memory, and notices when nobody looks at one any more."""

    def __init__(self, descriptor: int) -> None:
        self._map = _mapped(descriptor)
        # Of a class of its own, so that a view of a piece refers to the piece, and not past it.
        self._whole = np.frombuffer(self._map, np.uint8).view(Memory)
        self._loans: dict[int, _Loan] = {}
        self._ended: deque[_Loan] = deque()

    def borrow(self, number: int, start: int, size: int) -> Bytes:
        """An array uint8 [size]; number is among returned() once it, and its views, are gone."""
        part = self._whole[start : start + size]
        loan = _Loan(part, self._ended.append)
        loan.number, loan.place = number, (start, start + size)
        self._loans[number] = loan
        return part.view(np.ndarray)

    def returned(self) -> list[int]:
        """The numbers of arrays that are gone since the last call."""
        numbers = []
        while self._ended:
            number = self._ended.popleft().number
            del self._loans[number]
            numbers.append(number)
        return numbers

    def keep_loans_only(self) -> None:
        """Gives back all memory but that of loans; whoever lent it is gone, and writes no more."""
        self.returned()
        places = sorted(loan.place for loan in list(self._loans.values()))
        free_from = 0
        for start, end in [*places, (len(self._map), 0)]:
            _give_back(self._map, free_from, start // PAGE_BYTES * PAGE_BYTES - free_from)
            free_from = max(free_from, -(-end // PAGE_BYTES) * PAGE_BYTES)
