"""From runs to rows: every run's lists, copied as often as it has rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_client.kernels._jit import BYTES_IN, BYTES_OUT, INT64, TABLE_IN, inner, kernel

# A row of the table of features: the elements of the arena at which the run lengths (-1: sent once
# a row), the list lengths and the values start; how many lists there are, how many values, and how
# many values once every run is expanded to its rows; where its weights start (-1: it has none).
RUN_LENGTHS_AT, LENGTHS_AT, VALUES_AT, LISTS, VALUE_COUNT, EXPANDED_COUNT, WEIGHTS_AT = range(7)
FEATURE_COLUMNS = 7

ALIGNMENT = 64
# Up to this many values a list is copied in strides of doubling size: a copy of its own for each
# row would spend more time on starting than on copying.
SHORT: Any = np.uint64(8)

_u64: Any = np.uint64
_0, _1 = _u64(0), _u64(1)

Values = npt.NDArray[np.signedinteger]


@inner
def _repeat(values: Values, length: int, times: int, out: Values) -> None:
    """Writes a list so many times in a row."""
    if length == _1:
        value = values[_0]
        for i in range(times):
            out[i] = value
        return
    if length > SHORT:
        at = _0
        for _ in range(times):
            for i in range(length):
                out[at + i] = values[i]
            at += length
        return
    for i in range(length):
        out[i] = values[i]
    done, total = length, length * times
    while done < total:
        step = min(done, total - done)
        for i in range(step):
            out[done + i] = out[i]
        done += step


@inner
def _expand_feature(
    run_lengths: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    values: Values,
    lengths_out: npt.NDArray[np.int32],
    values_out: Values,
) -> bool:
    """Whether the lengths fit both sides: nothing is read or written outside."""
    row = source = target = _0
    rows, room, there = _u64(len(lengths_out)), _u64(len(values_out)), _u64(len(values))
    for run in range(_u64(len(run_lengths))):
        # A negative length becomes one far outside.
        length, times = _u64(lengths[run]), _u64(run_lengths[run])
        if times > rows - row or length > there - source:
            return False
        # No product of the two overflows: both are below 2^31 where they come this far.
        if length * times > room - target:
            return False
        for i in range(times):
            lengths_out[row + i] = lengths[run]
        if length > _0:
            _repeat(values[source:], length, times, values_out[target:])
        row += times
        source += length
        target += length * times
    return bool(row == rows and target == room)


@inner
def _expand_all(
    words: npt.NDArray[np.int32],
    elements: Values,
    at: int,
    features: npt.NDArray[np.int64],
    row_count: int,
    lengths_out: npt.NDArray[np.int32],
    values_out: Values,
) -> int:
    start = 0
    for f in range(len(features)):
        runs_at, lists = features[f, RUN_LENGTHS_AT], features[f, LISTS]
        lengths = words[features[f, LENGTHS_AT] : features[f, LENGTHS_AT] + lists]
        values_at, count = features[f, at], features[f, VALUE_COUNT]
        values = elements[values_at : values_at + count]
        row_lengths = lengths_out[f * row_count : (f + 1) * row_count]
        row_values = values_out[start : start + features[f, EXPANDED_COUNT]]
        start += features[f, EXPANDED_COUNT]
        if runs_at < 0:
            for i in range(_u64(row_count)):
                row_lengths[i] = lengths[i]
            for i in range(_u64(count)):
                row_values[i] = values[i]
        elif not _expand_feature(
            words[runs_at : runs_at + lists], lengths, values, row_lengths, row_values
        ):
            return f
    return -1


@kernel(INT64(BYTES_IN, TABLE_IN, INT64, INT64, BYTES_OUT))
def expand(
    arena: npt.NDArray[np.uint8],
    features: npt.NDArray[np.int64],
    row_count: int,
    value_bytes: int,
    expanded: npt.NDArray[np.uint8],
) -> int:
    """Writes lengths int32 [features, row_count], then all values, then all weights.

    Values and weights start at a multiple of 64. Values are int32 or int64, as value_bytes says;
    there are weights, of 4 bytes, if the first feature has some. features is int64
    [f, FEATURE_COLUMNS]; expanded is as large as all of them. Returns -1, or the first feature
    whose lengths do not add up to its counts.
    """
    total = np.int64(0)
    for f in range(len(features)):
        total += features[f, EXPANDED_COUNT]
    size = 4 * len(features) * row_count
    lengths = expanded[:size].view(np.int32)
    start = (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    values = expanded[start : start + value_bytes * total]
    words = arena.view(np.int32)
    if value_bytes == 4:
        found = _expand_all(
            words, words, VALUES_AT, features, row_count, lengths, values.view(np.int32)
        )
    else:
        found = _expand_all(
            words,
            arena.view(np.int64),
            VALUES_AT,
            features,
            row_count,
            lengths,
            values.view(np.int64),
        )
    if found >= 0 or len(features) == 0 or features[0, WEIGHTS_AT] < 0:
        return found
    end = start + value_bytes * total
    weights = expanded[(end + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT :].view(np.int32)
    return _expand_all(words, words, WEIGHTS_AT, features, row_count, lengths, weights)
