"""Arenas to ZSTD frames; levels decide how many bytes and how much time, and nothing else."""

from __future__ import annotations

import itertools
import threading
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

Level: TypeAlias = int | Literal["auto"]
Arena: TypeAlias = npt.NDArray[np.uint8]
# Where the planes of buffers begin and end: kernels.Layouts.
Planes: TypeAlias = npt.NDArray[np.int64]

# What auto chooses from: a level that codes no single bytes, and the parameters of one that does
# (docs/decisions). Planes that it pays for repeat little: a small table finds that out sooner.
QUICK = -1
CODED = zstandard.ZstdCompressionParameters.from_level(1, hash_log=6)
# Coding a plane takes time for its table and for each byte that the search leaves. It pays where it
# saves that many bytes, and that share of what was left.
LEAST_SAVED_BYTES, LEAST_SAVED_SHARE = 1000, 1 / 6
# Both are tried on the first batch of a kind, and again after so many.
TRY_EVERY = 256
# Of so many kinds it is known. A dataset's batches differ in their size, and in which features they
# send once a run.
KNOWN_KINDS = 128


class _Worker(threading.local):
    """What a worker thread uses again for every batch: compressors by level, and one that codes."""

    def __init__(self) -> None:
        self.coder = zstandard.ZstdCompressor(compression_params=CODED)
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_worker = _Worker()


class _Learned:
    """Which planes of batches of one kind are coded: int32 [n, 2], (buffer, plane) of each."""

    def __init__(self, arena: Arena, planes: Planes) -> None:
        large = np.argwhere(_are_large(planes)).astype(np.int32)
        worth = [
            _is_worth_coding(arena[planes[buffer, plane] : planes[buffer, plane + 1]])
            for buffer, plane in large.tolist()
        ]
        self.coded = large[np.array(worth, np.bool_)]
        self.uses = itertools.count(1)


class Compression:
    """Compresses the payloads of a dataset, at a level or each plane at its own; thread-safe."""

    def __init__(self, level: Level) -> None:
        self._level = level
        # By what batches of a kind have in common: their buffers, and about their size. Those
        # learned last.
        self._learned: dict[tuple[int, int], _Learned] = {}
        self._learning = threading.Lock()

    def compress(self, arena: Arena, planes: Planes) -> list[bytes]:
        """ZSTD frames, one behind the other, each of which states its content size."""
        if self._level != "auto":
            return [_compress(arena, self._level)]
        kind = len(planes), len(arena).bit_length()
        learned = self._learned.get(kind)
        if learned is None or next(learned.uses) % TRY_EVERY == 0:
            learned = self._learn(kind, arena, planes)
        frames, done = [], 0
        for buffer, plane in learned.coded.tolist():
            start, end = planes.item(buffer, plane), planes.item(buffer, plane + 1)
            if end - start <= LEAST_SAVED_BYTES:
                continue
            if done < start:
                frames.append(_compress(arena[done:start], QUICK))
            frames.append(_worker.coder.compress(arena[start:end].data))
            done = end
        if done < len(arena) or not frames:
            frames.append(_compress(arena[done:], QUICK))
        return frames

    def _learn(self, kind: tuple[int, int], arena: Arena, planes: Planes) -> _Learned:
        learned = _Learned(arena, planes)
        with self._learning:
            self._learned.pop(kind, None)
            self._learned[kind] = learned
            if len(self._learned) > KNOWN_KINDS:
                del self._learned[next(iter(self._learned))]
        return learned


def _are_large(planes: Planes) -> npt.NDArray[np.bool_]:
    return planes[:, 1:] - planes[:, :-1] > LEAST_SAVED_BYTES


def _is_worth_coding(plane: Arena) -> bool:
    """Whether a plane is so much smaller with single bytes coded that it pays."""
    left = len(_compress(plane, QUICK))
    saved = left - len(_worker.coder.compress(plane.data))
    return saved >= LEAST_SAVED_BYTES + LEAST_SAVED_SHARE * left


def _compress(content: Arena, level: int) -> bytes:
    if level not in _worker.compressors:
        made = zstandard.ZstdCompressor(level=level, write_content_size=True)
        _worker.compressors[level] = made
    return _worker.compressors[level].compress(content.data)


def compress_bound(size: int, planes: Planes) -> int:
    """What compress() makes of an arena of so many bytes and its planes, at most.

    Every frame is at most ZSTD_COMPRESSBOUND of its manual: size + size // 256, and up to 64 bytes.
    """
    frames = 2 * int(np.count_nonzero(_are_large(planes))) + 1
    return size + size // 256 + 64 * frames
