"""Levels of Parquet pages: which values are null, and where lists begin.

apache/parquet-format, README.md, "Nested Encoding". Nothing outside the given bytes is read,
whatever they are: kernels say False where they end early or hold what cannot be.

Hot loops count in uint64: numba compares signed indices with 0 at every access, which would stop
LLVM from vectorising them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._hybrid import end_of_packed, head_of_run
from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels._memory import load_word, store_word

# Levels are written in words of eight, so there must be room behind them.
LEVEL_ROOM = 16

_ENDS_EARLY = -1
# Some levels are none of those that are expected.
_OTHERS = -2

_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_6 = np.uint64(6)
_7 = np.uint64(7)
_8 = np.uint64(8)
_12 = np.uint64(12)
_14 = np.uint64(14)
_24 = np.uint64(24)
_28 = np.uint64(28)

_ONES = np.uint64(0x0101010101010101)
# Eight values of one bit, spread over eight bytes in three steps; then eight of two bits.
_HALVES_1 = np.uint64(0x0000000F0000000F)
_QUARTERS_1 = np.uint64(0x0003000300030003)
_HALVES_2 = np.uint64(0x000000FF000000FF)
_QUARTERS_2 = np.uint64(0x000F000F000F000F)
_OCTETS_2 = np.uint64(0x0303030303030303)


@inner
def _unpack(
    data: npt.NDArray[np.uint8],
    at: np.uint64,
    end: np.uint64,
    width: np.uint64,
    groups: np.uint64,
    to: np.uint64,
) -> None:
    """Groups of eight levels of one or two bits to eight bytes each; the last may be cut off."""
    if width == _1:
        for g in range(groups):
            word = np.uint64(data[at + g])
            word = (word | (word << _28)) & _HALVES_1
            word = (word | (word << _14)) & _QUARTERS_1
            store_word(to + (g << _3), (word | (word << _7)) & _ONES)
    else:
        for g in range(groups):
            low = at + (g << _1)
            word = np.uint64(data[low])
            if low + _1 < end:
                word |= np.uint64(data[low + _1]) << _8
            word = (word | (word << _24)) & _HALVES_2
            word = (word | (word << _12)) & _QUARTERS_2
            store_word(to + (g << _3), (word | (word << _6)) & _OCTETS_2)


@inner
def _read(
    data: npt.NDArray[np.uint8],
    start: np.uint64,
    end: np.uint64,
    width: np.uint64,
    count: np.uint64,
    levels: npt.NDArray[np.uint8],
) -> bool:
    to = np.uint64(levels.ctypes.data)
    at, done = start, _0
    while done < count:
        head, at = head_of_run(data, at, end)
        if at == _0:
            return False
        size, left = head >> _1, count - done
        if head & _1:
            groups = min(size, (left + _7) >> _3)
            size = min(groups << _3, left)
            if (size * width + _7) >> _3 > end - at:
                return False
            _unpack(data, at, end, width, groups, to + done)
            at = end_of_packed(at, end, head >> _1, width)
        else:
            size = min(size, left)
            if at >= end or np.uint64(data[at]) >> width:
                return False
            word = np.uint64(data[at]) * _ONES
            at += _1
            for g in range((size + _7) >> _3):
                store_word(to + done + (g << _3), word)
        done += size
    return True


@inner
def _compare(levels: npt.NDArray[np.uint8], least: int, top: int) -> int:
    """Makes each level whether it is top; how many are, or _OTHERS if some are none of these."""
    low, high = np.uint8(least), np.uint8(top)
    others, tops = np.uint8(0), _0
    for i in range(np.uint64(len(levels))):
        level = levels[i]
        others |= np.uint8(level < low) | np.uint8(level > high)
        levels[i] = level == high
        tops += np.uint64(level == high)
    return _OTHERS if others else int(tops)


@kernel(
    types.int64(
        array(types.uint8),
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        out(types.uint8),
    )
)
def _read_levels(
    data: npt.NDArray[np.uint8],
    start: int,
    end: int,
    width: int,
    least: int,
    top: int,
    levels: npt.NDArray[np.uint8],
) -> int:
    count = len(levels) - LEVEL_ROOM
    bounds = np.uint64(start), np.uint64(end), np.uint64(width), np.uint64(count)
    if not _read(data, bounds[0], bounds[1], bounds[2], bounds[3], levels):
        return _ENDS_EARLY
    return _compare(levels[:count], least, top) if top else 0


@kernel(
    types.bool_(
        array(types.uint8),
        array(types.uint8),
        types.uint64,
        types.uint64,
        out(types.int32),
        out(types.int64),
    )
)
def _read_lists(
    reps: npt.NDArray[np.uint8],
    defs: npt.NDArray[np.uint8],
    element: np.uint64,
    top: np.uint64,
    offsets: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
) -> bool:
    from_reps, from_defs = np.uint64(reps.ctypes.data), np.uint64(defs.ctypes.data)
    tops = top * _ONES
    count, room = np.uint64(len(defs)), np.uint64(len(offsets))
    rows, elements, values = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2])
    # Whether the last list has elements, and may have more.
    is_open = state[3] != 0
    at = _0
    while at < count:
        stop = min(at + _8, count)
        if at + _8 <= count and load_word(from_defs + at) == tops:
            # Eight values; lists begin where the level of repetition is 0.
            more = load_word(from_reps + at)
            if more == _ONES and is_open:
                elements += _8
                values += _8
                at = stop
                continue
            if (is_open or more & _1 == _0) and rows + _8 < room:
                for k in range(_8):
                    offsets[rows] = elements + k
                    rows += _1 - ((more >> (k << _3)) & _1)
                elements += _8
                values += _8
                is_open = True
                at = stop
                continue
        while at < stop:
            level = np.uint64(defs[at])
            there = level >= element
            if level > top:
                return False
            if reps[at] == 0:
                if rows >= room:
                    return False
                offsets[rows] = elements
                rows += _1
                is_open = there
            elif not (is_open and there):
                return False
            elements += np.uint64(there)
            values += np.uint64(level == top)
            at += _1
    state[0], state[1], state[2], state[3] = rows, elements, values, is_open
    return True


@kernel(types.void(array(types.uint8), types.uint64, types.uint64, out(types.uint8)))
def _element_mask(
    defs: npt.NDArray[np.uint8], element: np.uint64, top: np.uint64, valid: npt.NDArray[np.uint8]
) -> None:
    size = np.uint64(len(valid))
    done = _0
    for i in range(np.uint64(len(defs))):
        level = np.uint64(defs[i])
        if done < size:
            valid[done] = level == top
        done += np.uint64(level >= element)


def read_levels(
    data: npt.NDArray[np.uint8], start: int, end: int, width: int, levels: npt.NDArray[np.uint8]
) -> None:
    """Reads n levels of 1 or 2 bits, by width, in data[start:end] uint8.

    levels uint8 [n + LEVEL_ROOM] gets them, and anything behind them. Raises ValueError if there
    are not so many.
    """
    _check_read(data, start, end, width, 0, 0, levels)


def read_valid(
    data: npt.NDArray[np.uint8],
    start: int,
    end: int,
    least: int,
    top: int,
    valid: npt.NDArray[np.uint8],
) -> int | None:
    """Reads which of n values are there: their levels in data[start:end] uint8 are top, 1 to 3.

    The levels of others are at least least. valid uint8 [n + LEVEL_ROOM] gets 1 for those that are
    there and 0 for others, and anything behind them. How many are there; None if some level is
    none of these. Raises ValueError if there are not so many levels.
    """
    tops = _check_read(data, start, end, top.bit_length(), least, top, valid)
    return None if tops == _OTHERS else tops


def _check_read(
    data: npt.NDArray[np.uint8],
    start: int,
    end: int,
    width: int,
    least: int,
    top: int,
    levels: npt.NDArray[np.uint8],
) -> int:
    count = len(levels) - LEVEL_ROOM
    if width not in (1, 2) or count < 0:
        raise IndexError(f"{count} levels of {width} bits")
    found = _ENDS_EARLY
    if 0 <= start <= end <= len(data):
        found = _read_levels(data, start, end, width, least, top, levels)
    if found == _ENDS_EARLY:
        raise ValueError(f"its {count} levels end early")
    return found


class ListLevels:
    """Lists by their levels, over any number of pages.

    element is the definition level from which a list has an element, top, at most 3, that of one
    that is not null.
    """

    def __init__(self, lists: int, element: int, top: int) -> None:
        self._offsets = np.empty(lists + 1, np.int32)
        self._bounds = np.uint64(element), np.uint64(top)
        # Lists, elements and values so far; whether the last list may go on.
        self._state = np.zeros(4, np.int64)

    @property
    def lists(self) -> int:
        """The lists that have begun."""
        return int(self._state[0])

    @property
    def elements(self) -> int:
        """The elements so far, null ones included."""
        return int(self._state[1])

    @property
    def values(self) -> int:
        """The elements so far that are not null."""
        return int(self._state[2])

    @property
    def is_open(self) -> bool:
        """Whether the last list has elements, and may have more."""
        return bool(self._state[3])

    def resume(
        self, offsets: npt.NDArray[np.int32], lists: int, elements: int, is_open: bool
    ) -> None:
        """Goes on behind the first lists of others, which begin at offsets int32 [more than lists].

        They have so many elements; is_open says whether the last of them may have more.
        """
        self._offsets[:lists] = offsets[:lists]
        self._state[:] = lists, elements, elements, is_open

    def add(self, reps: npt.NDArray[np.uint8], defs: npt.NDArray[np.uint8]) -> None:
        """Takes the next levels, uint8 [n] each, those of repetition 0 or 1.

        Raises ValueError for levels that are none of such lists, or more lists than there are.
        """
        if len(reps) != len(defs):
            raise IndexError(f"{len(reps)} and {len(defs)} levels")
        if not _read_lists(reps, defs, *self._bounds, self._offsets[:-1], self._state):
            raise ValueError("its levels are none of lists, or of more than there should be")

    def mask(self, defs: npt.NDArray[np.uint8], valid: npt.NDArray[np.uint8]) -> None:
        """Writes whether each element is not null to valid uint8 [elements that defs have]."""
        _element_mask(defs, *self._bounds, valid)

    def finish(self) -> npt.NDArray[np.int32]:
        """Where lists begin, int32 [lists + 1]. Raises ValueError if they are too few."""
        if self.lists != len(self._offsets) - 1:
            raise ValueError(f"{self.lists} of the {len(self._offsets) - 1} lists promised")
        self._offsets[-1] = self.elements
        return self._offsets
