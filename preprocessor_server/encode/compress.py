"""Arenas to ZSTD frames; the level decides how many bytes and how much time, and nothing else."""

from __future__ import annotations

import itertools
import threading
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

Level: TypeAlias = int | Literal["auto"]

# The levels that auto chooses from: without and with coding of single bytes (docs/decisions).
QUICK, SMALL = -1, 1
# Quick is taken where its payloads are at most this much larger.
MAX_GROWTH = 1.05
# Both are tried on the first batch of a stream, and again after so many.
TRY_EVERY = 64


class _Worker(threading.local):
    """What a worker thread uses again for every batch."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_worker = _Worker()


class Compression:
    """Compresses the payloads of one stream, at a level or at the better of two; thread-safe."""

    def __init__(self, level: Level) -> None:
        self._auto = level == "auto"
        self._level = SMALL if level == "auto" else level
        self._numbers = itertools.count()

    def compress(self, arena: npt.NDArray[np.uint8]) -> bytes:
        """One ZSTD frame that states its content size."""
        if not self._auto or next(self._numbers) % TRY_EVERY:
            return _compress(arena, self._level)
        quick, small = _compress(arena, QUICK), _compress(arena, SMALL)
        self._level = QUICK if len(quick) <= MAX_GROWTH * len(small) else SMALL
        return quick if self._level == QUICK else small


def _compress(arena: npt.NDArray[np.uint8], level: int) -> bytes:
    if level not in _worker.compressors:
        made = zstandard.ZstdCompressor(level=level, write_content_size=True)
        _worker.compressors[level] = made
    return _worker.compressors[level].compress(arena.data)


def compress_bound(size: int) -> int:
    """What ZSTD makes of so many bytes at most: ZSTD_COMPRESSBOUND of its manual."""
    return size + size // 256 + max(0, 2**17 - size) // 2**11
