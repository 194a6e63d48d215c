"""Hashes of ids, and the keys of permutations. docs/ops.md defines them, golden vectors pin them.

SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014; its finaliser is David Stafford's mix 13. XXH64: the XXH64 chapter of
https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. All arithmetic is modulo 2^64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out
from preprocessor_server.kernels.changes import check_lists

MAX_BUCKETS = 2**32
# Buckets of up to so many are int32.
MAX_NARROW_BUCKETS = 2**31

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)

# numba makes float64 of uint64 and a plain int, so every operand is a uint64; so are indices, since
# it would compare signed ones with 0 at every access, and LLVM would join no loads.
_0 = np.uint64(0)
_1 = np.uint64(1)
_2 = np.uint64(2)
_3 = np.uint64(3)
_4 = np.uint64(4)
_5 = np.uint64(5)
_6 = np.uint64(6)
_7 = np.uint64(7)
_8 = np.uint64(8)
_11 = np.uint64(11)
_12 = np.uint64(12)
_16 = np.uint64(16)
_18 = np.uint64(18)
_23 = np.uint64(23)
_24 = np.uint64(24)
_27 = np.uint64(27)
_29 = np.uint64(29)
_30 = np.uint64(30)
_31 = np.uint64(31)
_32 = np.uint64(32)
_33 = np.uint64(33)
_40 = np.uint64(40)
_48 = np.uint64(48)
_56 = np.uint64(56)
_64 = np.uint64(64)


@inner
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@inner
def _rotate(x: np.uint64, bits: np.uint64) -> np.uint64:
    return (x << bits) | (x >> (_64 - bits))


@inner
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(lane + word * _PRIME_2, _31) * _PRIME_1


@inner
def _merge(h: np.uint64, lane: np.uint64) -> np.uint64:
    return (h ^ _round(_0, lane)) * _PRIME_1 + _PRIME_4


@inner
def _word32(data: npt.NDArray[np.uint8], at: np.uint64) -> np.uint64:
    """Four bytes, little-endian; LLVM makes one load of it."""
    return (
        np.uint64(data[at])
        | (np.uint64(data[at + _1]) << _8)
        | (np.uint64(data[at + _2]) << _16)
        | (np.uint64(data[at + _3]) << _24)
    )


@inner
def _word64(data: npt.NDArray[np.uint8], at: np.uint64) -> np.uint64:
    return (
        np.uint64(data[at])
        | (np.uint64(data[at + _1]) << _8)
        | (np.uint64(data[at + _2]) << _16)
        | (np.uint64(data[at + _3]) << _24)
        | (np.uint64(data[at + _4]) << _32)
        | (np.uint64(data[at + _5]) << _40)
        | (np.uint64(data[at + _6]) << _48)
        | (np.uint64(data[at + _7]) << _56)
    )


@inner
def _avalanche(h: np.uint64) -> np.uint64:
    h = (h ^ (h >> _33)) * _PRIME_2
    h = (h ^ (h >> _29)) * _PRIME_3
    return h ^ (h >> _32)


@inner
def _xxh64(
    data: npt.NDArray[np.uint8], start: np.uint64, end: np.uint64, seed: np.uint64
) -> np.uint64:
    length = end - start
    at = start
    if length == _8:
        # 32-bit ids as hexadecimal digits, without the loops' branches.
        h = _rotate((seed + _PRIME_5 + _8) ^ _round(_0, _word64(data, at)), _27)
        return _avalanche(h * _PRIME_1 + _PRIME_4)
    if length >= _32:
        lane_1 = seed + _PRIME_1 + _PRIME_2
        lane_2 = seed + _PRIME_2
        lane_3 = seed
        lane_4 = seed - _PRIME_1
        while at + _32 <= end:
            lane_1 = _round(lane_1, _word64(data, at))
            lane_2 = _round(lane_2, _word64(data, at + _8))
            lane_3 = _round(lane_3, _word64(data, at + _16))
            lane_4 = _round(lane_4, _word64(data, at + _24))
            at += _32
        h = _rotate(lane_1, _1) + _rotate(lane_2, _7) + _rotate(lane_3, _12) + _rotate(lane_4, _18)
        h = _merge(_merge(_merge(_merge(h, lane_1), lane_2), lane_3), lane_4)
    else:
        h = seed + _PRIME_5
    h += length
    while at + _8 <= end:
        h ^= _round(_0, _word64(data, at))
        h = _rotate(h, _27) * _PRIME_1 + _PRIME_4
        at += _8
    if at + _4 <= end:
        h ^= _word32(data, at) * _PRIME_1
        h = _rotate(h, _23) * _PRIME_2 + _PRIME_3
        at += _4
    while at < end:
        h ^= np.uint64(data[at]) * _PRIME_5
        h = _rotate(h, _11) * _PRIME_1
        at += _1
    return _avalanche(h)


@kernel(
    types.void(array(types.uint64), types.uint64, types.uint64, out(types.uint64)),
)
def _hash_integers(
    values: npt.NDArray[np.uint64],
    num_buckets: np.uint64,
    seed: np.uint64,
    buckets: npt.NDArray[np.uint64],
) -> None:
    step = (seed + _1) * _GAMMA
    for i in range(len(values)):
        buckets[i] = ((_mix(values[i] + step) >> _32) * num_buckets) >> _32


@kernel(
    types.void(
        array(types.uint64),
        array(types.int64),
        array(types.int64),
        types.uint64,
        types.uint64,
        out(types.uint32),
    ),
)
def _hash_ends(
    values: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    num_buckets: np.uint64,
    seed: np.uint64,
    buckets: npt.NDArray[np.uint32],
) -> None:
    step = (seed + _1) * _GAMMA
    for i in range(len(ends) - 1):
        length = np.uint64(ends[i + 1] - ends[i])
        first = np.uint64(ends[i])
        start = np.uint64(offsets[i + 1]) - length
        for j in range(length):
            h = _mix(values[start + j] + step)
            buckets[first + j] = np.uint32(((h >> _32) * num_buckets) >> _32)


@kernel(
    *(
        types.bool_(array(types.int64), array(types.uint8), types.uint64, types.uint64, out(bucket))
        for bucket in (types.uint32, types.uint64)
    )
)
def _hash_strings(
    offsets: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    num_buckets: np.uint64,
    seed: np.uint64,
    buckets: npt.NDArray[np.unsignedinteger],
) -> bool:
    size = np.uint64(len(data))
    end = np.uint64(offsets[0])
    for i in range(np.uint64(len(buckets))):
        start = end
        end = np.uint64(offsets[i + _1])
        if end < start or end > size:
            return False
        h = _xxh64(data, start, end, seed)
        buckets[i] = ((h >> _32) * num_buckets) >> _32
    return True


@kernel(types.void(types.uint64, types.uint64, types.uint64, out(types.uint64)))
def _shuffle_keys(
    seed: np.uint64, epoch: np.uint64, ordinal: np.uint64, keys: npt.NDArray[np.uint64]
) -> None:
    state = _mix(seed + _GAMMA)
    state = _mix((state ^ epoch) + _GAMMA)
    state = _mix((state ^ ordinal) + _GAMMA)
    for i in range(len(keys)):
        state += _GAMMA
        keys[i] = _mix(state)


@kernel(types.void(array(types.uint64), array(types.uint64), out(types.uint64)))
def _fold_words(
    states: npt.NDArray[np.uint64],
    words: npt.NDArray[np.uint64],
    folded: npt.NDArray[np.uint64],
) -> None:
    for i in range(len(folded)):
        folded[i] = _mix((states[i] ^ words[i]) + _GAMMA)


def hash_integers(values: npt.NDArray[Any], num_buckets: int, seed: int) -> npt.NDArray[np.int64]:
    """The bucket of every integer or boolean, int64 [n], from 0 to num_buckets - 1.

    values [n] of any width count as 64-bit two's complement. Their hash h is output number
    seed + 1 of the SplitMix64 generator whose state starts at the value; the bucket is
    ((h >> 32) * num_buckets) >> 32. num_buckets lies in [1, 2^32], seed in [0, 2^64).
    """
    _check_buckets(num_buckets)
    buckets = np.empty(len(values), np.uint64)
    _hash_integers(_words(values), np.uint64(num_buckets), np.uint64(seed), buckets)
    return buckets.view(np.int64)


def hash_ends(
    values: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    num_buckets: int,
    seed: int,
) -> npt.NDArray[np.int32]:
    """The buckets, as hash_integers gives them, of the ends of the lists that tail() kept.

    values [n] are integers or booleans; offsets int64 [k + 1] are the lists' and lie within them,
    ends int64 [k + 1] are those of the ends. Returns int32 [ends[k]]. num_buckets lies in
    [1, 2^31]. Raises IndexError if the offsets leave values.
    """
    _check_buckets(num_buckets, MAX_NARROW_BUCKETS)
    check_lists(offsets, len(values))
    buckets = np.empty(ends[-1], np.uint32)
    _hash_ends(
        _words(values),
        np.ascontiguousarray(offsets),
        ends,
        np.uint64(num_buckets),
        np.uint64(seed),
        buckets,
    )
    return buckets.view(np.int32)


def _words(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Integers or booleans as 64-bit two's complement."""
    wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64, copy=False)
    return np.ascontiguousarray(wide).view(np.uint64)


def hash_strings(
    offsets: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
    num_buckets: int,
    seed: int,
    *,
    narrow: bool = False,
) -> npt.NDArray[np.signedinteger[Any]]:
    """The bucket of every byte range data[offsets[i]:offsets[i + 1]], int64 [n]; narrow: int32.

    offsets is int64 [n + 1], non-decreasing. The hash is XXH64 of the bytes with the seed; the
    bucket follows from it as in hash_integers. num_buckets lies in [1, 2^32], of narrow ones in
    [1, 2^31]. Raises IndexError if the offsets leave data.
    """
    _check_buckets(num_buckets, MAX_NARROW_BUCKETS if narrow else MAX_BUCKETS)
    words: npt.NDArray[Any] = np.empty(len(offsets) - 1, np.uint32 if narrow else np.uint64)
    if not _hash_strings(
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(data),
        np.uint64(num_buckets),
        np.uint64(seed),
        words,
    ):
        raise IndexError(f"offsets leave the {len(data)} bytes of data")
    buckets: npt.NDArray[Any] = words.view(np.int32 if narrow else np.int64)
    return buckets


def shuffle_keys(seed: int, epoch: int, split_ordinal: int, count: int) -> npt.NDArray[np.uint64]:
    """Keys whose stable argsort is a permutation of count things, uint64 [count].

    With mix the finaliser and G the increment of SplitMix64, the state after the seed is
    mix(seed + G); epoch and split_ordinal are folded in, in this order, by
    state = mix((state ^ it) + G); key i is then output number i + 1 of the SplitMix64 generator
    whose state starts there: mix(state + (i + 1) * G). So no two keys are equal. All three
    numbers lie in [0, 2^64).
    """
    keys = np.empty(count, np.uint64)
    _shuffle_keys(np.uint64(seed), np.uint64(epoch), np.uint64(split_ordinal), keys)
    return keys


def fold_words(
    states: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Takes a word into each of n states: mix((state ^ word) + G), uint64 [n].

    mix and G are those of shuffle_keys. Raises ValueError if there are not as many words as states.
    """
    if len(states) != len(words):
        raise ValueError(f"{len(words)} words for {len(states)} states")
    folded = np.empty(len(states), np.uint64)
    _fold_words(np.ascontiguousarray(states), np.ascontiguousarray(words), folded)
    return folded


def first_state(seed: int) -> np.uint64:
    """The state of a seed in [0, 2^64), before the first word: mix(seed + G)."""
    # 0 ^ seed is the seed.
    return np.uint64(fold_words(np.zeros(1, np.uint64), np.array([seed], np.uint64))[0])


def _check_buckets(num_buckets: int, most: int = MAX_BUCKETS) -> None:
    if not 1 <= num_buckets <= most:
        raise ValueError(f"num_buckets is {num_buckets}; it lies between 1 and {most:,}")
