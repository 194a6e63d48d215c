"""What is made of each list from its values, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, kernel, out
from preprocessor_server.kernels.changes import check_lists

_0 = np.uint64(0)
_1 = np.uint64(1)
_63 = np.int64(63)
_32 = np.uint64(32)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel(types.void(array(types.int64), array(types.float64), out(types.float64)))
def _sum_lists(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
) -> None:
    for i in range(len(sums)):
        total = 0.0
        for j in range(np.uint64(offsets[i]), np.uint64(offsets[i + 1])):
            total += values[j]
        sums[i] = total


@kernel(
    types.void(
        array(types.int64), array(types.int64), types.int64, out(types.int64), out(types.bool_)
    )
)
def _sum_integers(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    sign: int,
    sums: npt.NDArray[np.int64],
    beyond: npt.NDArray[np.bool_],
) -> None:
    for i in range(len(sums)):
        # Of 128 bits.
        low, high = _0, np.int64(0)
        for j in range(np.uint64(offsets[i]), np.uint64(offsets[i + 1])):
            low += np.uint64(values[j])
            high += (values[j] >> _63) & sign
            high += np.int64(low < np.uint64(values[j]))
        sums[i] = np.int64(low)
        beyond[i] = high != np.int64(low) >> _63


@kernel(
    types.void(
        array(types.int64),
        array(types.uint64),
        out(types.uint64),
        out(types.uint64),
        out(types.bool_),
    )
)
def _first_occurrences(
    offsets: npt.NDArray[np.int64],
    words: npt.NDArray[np.uint64],
    table: npt.NDArray[np.uint64],
    owners: npt.NDArray[np.uint64],
    first: npt.NDArray[np.bool_],
) -> None:
    for i in range(np.uint64(len(offsets) - 1)):
        start = np.uint64(offsets[i])
        end = np.uint64(offsets[i + _1])
        mask = _1
        while mask < end - start:
            mask += mask
        # At most half of the places get taken. Those of earlier lists have another owner.
        mask += mask - _1
        owner = i + _1
        for j in range(start, end):
            place = ((words[j] * _GOLDEN) >> _32) & mask
            while owners[place] == owner and table[place] != words[j]:
                place = (place + _1) & mask
            first[j] = owners[place] != owner
            owners[place] = owner
            table[place] = words[j]


def sum_lists(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The sum of each list values[offsets[i]:offsets[i + 1]], float64 [n]; 0 of an empty one.

    Added from the first element to the last: numpy adds in pairs, and how is up to its version.
    offsets is int64 [n + 1], non-decreasing. Raises IndexError if they leave values.
    """
    check_lists(offsets, len(values))
    sums = np.empty(len(offsets) - 1, np.float64)
    _sum_lists(np.ascontiguousarray(offsets), np.ascontiguousarray(values), sums)
    return sums


def sum_integers(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The sum of each list values[offsets[i]:offsets[i + 1]], int64 [n], and which are no int64.

    An empty list has 0; of those that are none, the lower 64 bits are given. values are int64 or
    uint64, offsets int64 [n + 1], non-decreasing. Raises IndexError if they leave values.
    """
    check_lists(offsets, len(values))
    sums, beyond = np.empty(len(offsets) - 1, np.int64), np.empty(len(offsets) - 1, np.bool_)
    sign = 0 if values.dtype.kind == "u" else -1
    words = np.ascontiguousarray(values).view(np.int64)
    _sum_integers(np.ascontiguousarray(offsets), words, sign, sums, beyond)
    return sums, beyond


def first_occurrences(
    offsets: npt.NDArray[np.int64], words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Whether each element is the first of its value in its list, bool [n].

    The lists are words[offsets[i]:offsets[i + 1]], uint64, one after the other from offsets[0] = 0
    to len(words). Raises IndexError if the offsets leave words.
    """
    check_lists(offsets, len(words))
    longest = int(np.diff(offsets).max(initial=0))
    places = 2 << max(longest - 1, 0).bit_length()
    first = np.zeros(len(words), np.bool_)
    _first_occurrences(
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(words),
        np.empty(places, np.uint64),
        np.zeros(places, np.uint64),
        first,
    )
    return first
