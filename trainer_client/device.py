"""Moving batches to a device, one ahead of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from trainer_client.batch import Batch


class DeviceMover:
    """Batches on a device; the copy of the next one runs while the trainer works on this one.

    ready says whether the source has a batch at hand: only then is the next one taken early, so
    that no batch ever waits for the one after it. How the source ends is told in its turn, after
    the batch at hand. On a CPU nothing is copied and nothing is ahead. Copies are asynchronous only
    from pinned memory.
    """

    def __init__(
        self, source: Iterator[Batch], device: torch.device, ready: Callable[[], bool]
    ) -> None:
        self._source = source
        self._device = device
        self._ready = ready
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
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
        if self._copies is None:
            return batch.to(self._device, non_blocking=True)
        with torch.cuda.stream(self._copies):
            return batch.to(self._device, non_blocking=True)
