"""The order of hashes, in a few passes over them: a comparison sort would guess at every branch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out

# Bits of a pass, whose counts stay in the nearest cache. Three take the highest 33, in which hardly
# any two of a window's hashes are alike.
_PASS_BITS = np.uint64(11)
_FIRST_SHIFT = np.uint64(64 - 33)
_DIGITS = 1 << 11

_0 = np.uint64(0)
_1 = np.uint64(1)


@inner
def _pass(
    shift: np.uint64,
    keys: npt.NDArray[np.uint64],
    places: npt.NDArray[np.int64],
    to_keys: npt.NDArray[np.uint64],
    to_places: npt.NDArray[np.int64],
) -> None:
    """Sorts by the bits of a pass; those that are alike in them stay in their order."""
    size, mask = np.uint64(len(keys)), np.uint64(_DIGITS - 1)
    ends = np.zeros(_DIGITS + 1, np.uint64)
    for i in range(size):
        ends[((keys[i] >> shift) & mask) + _1] += _1
    for digit in range(_1, np.uint64(len(ends))):
        ends[digit] += ends[digit - _1]
    for i in range(size):
        digit = (keys[i] >> shift) & mask
        to_keys[ends[digit]] = keys[i]
        to_places[ends[digit]] = places[i]
        ends[digit] += _1


@kernel(types.void(array(types.uint64), out(types.int64)))
def _hashed_order(keys: npt.NDArray[np.uint64], order: npt.NDArray[np.int64]) -> None:
    size = np.uint64(len(keys))
    words, other_words, places = np.empty_like(keys), np.empty_like(keys), np.empty_like(order)
    for i in range(size):
        places[i] = i
    _pass(_FIRST_SHIFT, keys, places, words, order)
    _pass(_FIRST_SHIFT + _PASS_BITS, words, order, other_words, places)
    _pass(_FIRST_SHIFT + _PASS_BITS + _PASS_BITS, other_words, places, words, order)
    for i in range(size):
        word, place, j = words[i], order[i], np.uint64(i)
        while j > _0 and words[j - _1] > word:
            words[j], order[j] = words[j - _1], order[j - _1]
            j -= _1
        words[j], order[j] = word, place


def hashed_order(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The stable argsort of hashes, int64 [n]; equal ones may be many.

    keys is uint64 [n], whose highest 33 bits tell nearly all that differ apart: where they do not,
    time grows with the product of how many there are of each.
    """
    order = np.empty(len(keys), np.int64)
    _hashed_order(np.ascontiguousarray(keys), order)
    return order
