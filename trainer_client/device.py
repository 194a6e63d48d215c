"""Moving batches to a device, one ahead of the trainer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

import torch

from trainer_client.batch import Batch
from trainer_client.loop_clock import LoopClock


class DeviceMover:
    """Batches on a device; the copy of the next one runs while the trainer works on this one.

    ready says whether the source has a batch at hand: only then is the next one taken early, so
    that no batch ever waits for the one after it. How the source ends is told in its turn, after
    the batch at hand. On a CPU nothing is copied and nothing is ahead. Copies are asynchronous only
    from pinned memory. The clock is told what copying takes.
    """

    def __init__(
        self,
        source: Iterator[Batch],
        device: torch.device,
        ready: Callable[[], bool],
        clock: LoopClock | None = None,
    ) -> None:
        self._source = source
        self._device = device
        self._ready = ready
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._clock = clock or LoopClock()
        # The beginnings and ends of copies on the device's own clock, until they are over.
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._ahead: Batch | None = None
        self._end: Exception | None = None

    def __iter__(self) -> DeviceMover:
        return self

    def __next__(self) -> Batch:
        if self._end is not None:
            raise self._end
        batch = self._ahead if self._ahead is not None else self._move(next(self._source))
        self._ahead = None
        if self._copies is not None:
            # The trainer's stream waits for the copy, the trainer's thread does not.
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._copies)
            batch.record_stream(current)
        if self._device.type != "cpu" and self._ready():
            try:
                self._ahead = self._move(next(self._source))
            except Exception as end:  # noqa: BLE001 - StopIteration too; raised by the next call
                self._end = end
        return batch

    def _move(self, batch: Batch) -> Batch:
        began_s = time.perf_counter()
        try:
            if self._copies is None:
                return batch.to(self._device, non_blocking=True)
            self._count_copies()
            ends = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            with torch.cuda.stream(self._copies):
                ends[0].record()
                moved = batch.to(self._device, non_blocking=True)
                ends[1].record()
            self._under_way.append(ends)
            return moved
        finally:
            self._clock.add(copied_s=time.perf_counter() - began_s)

    def _count_copies(self) -> None:
        """Counts what the copies that are over took on the device."""
        while self._under_way and self._under_way[0][1].query():
            began, ended = self._under_way.popleft()
            self._clock.add(device_copy_s=began.elapsed_time(ended) / 1e3)
