"""The bytes of column chunks: those that lie side by side in a file are read together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from preprocessor_server.source.chunk_form import ChunkForm
from preprocessor_server.stage_clock import READING, count_bytes

Octets = npt.NDArray[np.uint8]

# Small enough to stay in a core's own cache until it is decoded; larger chunks are read alone.
_TOGETHER_BYTES = 512 << 10


class _Worker(threading.local):
    """What a worker thread uses again for every read."""

    def __init__(self) -> None:
        self.room = np.empty(_TOGETHER_BYTES, np.uint8)


_worker = _Worker()


class ChunkBytes:
    """Chunks of a file, by its descriptor; to be asked for in the order in which they lie there."""

    def __init__(self, file: int, forms: Iterable[ChunkForm]) -> None:
        self._file = file
        # By where a chunk begins: where what is read together with it ends.
        self._ends: dict[int, int] = {}
        begins = end = 0
        # From the last one, so that the end is known.
        for form in sorted(forms, key=lambda form: form.start, reverse=True):
            stop = form.start + form.size_bytes
            if stop != begins or end - form.start > _TOGETHER_BYTES:
                end = stop
            self._ends[form.start] = end
            begins = form.start
        self._start = 0
        self._found = np.empty(0, np.uint8)

    def read(self, form: ChunkForm) -> Octets | None:
        """A chunk uint8 [size_bytes]; None if the file ends before it does.

        It is there until the next chunk is asked for, by any reader of this thread. Raises OSError
        if the file cannot be read.
        """
        at = form.start - self._start
        if not 0 <= at <= at + form.size_bytes <= len(self._found):
            self._start, at = form.start, 0
            self._found = self._read(form.start, self._ends[form.start] - form.start)
        if at + form.size_bytes > len(self._found):
            return None
        return self._found[at : at + form.size_bytes]

    def _read(self, start: int, size: int) -> Octets:
        large = size > _TOGETHER_BYTES
        room = np.empty(size, np.uint8) if large else _worker.room[:size]
        with READING:
            found = room[: os.preadv(self._file, [room.data], start)] if size else room
        count_bytes("read", len(found))
        return found
