"""Parts of dates and times of day, in the local time of a zone."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from preprocessor_server.kernels._jit import array, inner, kernel, out

Times = npt.NDArray[np.int64]

DAY_S = 86_400
# The Gregorian calendar repeats after 400 years, days of the week too.
CYCLE_S = 146_097 * DAY_S
# Days from 0000-03-01, with which a cycle begins, to 1970-01-01; and those of a cycle.
_EPOCH_DAY, _CYCLE_DAYS = 719_468, 146_097


class Unit(IntEnum):
    """What times count since 1970."""

    DAY = 0
    SECOND = 1
    MILLISECOND = 2
    MICROSECOND = 3
    NANOSECOND = 4


class Part(IntEnum):
    """What is taken of a time."""

    HOUR = 0
    MINUTE = 1
    DAY_OF_WEEK = 2
    DAY_OF_MONTH = 3
    DAY_OF_YEAR = 4
    MONTH = 5
    YEAR = 6


@inner
def _floor(value: Any, divisor: Any) -> Any:
    """The quotient rounded down, by one unsigned division and no branch."""
    sign = value >> 63
    return np.int64(np.uint64(value ^ sign) // np.uint64(divisor)) ^ sign


@inner
def _weekday(day: Any) -> Any:
    # 1970 began on a Thursday.
    return day + 3 - _floor(day + 3, 7) * 7


@inner
def _part(day: Any, second: Any, part: Any) -> Any:
    """The part of a day since 1970 and a second of it.

    After C. Neri and L. Schneider, "Euclidean affine functions and their application to calendar
    algorithms" (2022). Their years begin in March, so that the leap day is the last.
    """
    if part == 0:
        return np.uint32(second) // 3600
    if part == 1:
        return np.uint32(second) // 60 % 60
    if part == 2:
        return _weekday(day)
    shifted = day + _EPOCH_DAY
    cycle = _floor(shifted, _CYCLE_DAYS)
    quarters = np.uint64(4 * (shifted - cycle * _CYCLE_DAYS) + 3)
    century = quarters // np.uint64(36_524 * 4 + 1)
    in_century = (quarters - century * np.uint64(36_524 * 4 + 1)) // np.uint64(4)
    scaled = (np.uint64(4) * in_century + np.uint64(3)) * np.uint64(2_939_745)
    year = scaled >> np.uint64(32)
    in_year = (scaled & np.uint64(0xFFFFFFFF)) // np.uint64(2_939_745 * 4)
    months = np.uint64(2_141) * in_year + np.uint64(197_913)
    if part == 3:
        return np.int64((months & np.uint64(0xFFFF)) // np.uint64(2_141)) + 1
    next_year = in_year >= np.uint64(306)
    if part == 4:
        leap = (year if year != 0 else century) & np.uint64(3) == 0
        before = np.int64(-305) if next_year else np.int64(60)
        return np.int64(in_year) + before + (np.int64(leap) if not next_year else np.int64(0))
    month = np.int64(months >> np.uint64(16))
    if part == 5:
        return month - (np.int64(12) if next_year else np.int64(0))
    return cycle * 400 + np.int64(century * np.uint64(100) + year) + np.int64(next_year)


@kernel(types.void(array(types.int64), types.int64, out(types.int64)))
def _seconds(times: Times, unit: int, result: Times) -> None:
    # A loop for each unit: only by a constant is a division fast.
    if unit == 0:
        for i in range(len(times)):
            result[i] = times[i] * 86_400
    elif unit == 1:
        for i in range(len(times)):
            result[i] = times[i]
    elif unit == 2:
        for i in range(len(times)):
            result[i] = _floor(times[i], 1_000)
    elif unit == 3:
        for i in range(len(times)):
            result[i] = _floor(times[i], 1_000_000)
    else:
        for i in range(len(times)):
            result[i] = _floor(times[i], 1_000_000_000)


@kernel(types.void(types.int64, out(types.int64)))
def _parts_in_utc(part: int, values: Times) -> None:
    # Of seconds, in place.
    if part == 0:
        for i in range(len(values)):
            day = _floor(values[i], 86_400)
            values[i] = np.uint32(values[i] - day * 86_400) // 3600
    elif part == 1:
        for i in range(len(values)):
            minute = _floor(values[i], 60)
            values[i] = minute - _floor(minute, 60) * 60
    elif part == 2:
        for i in range(len(values)):
            values[i] = _weekday(_floor(values[i], 86_400))
    else:
        for i in range(len(values)):
            day = _floor(values[i], 86_400)
            values[i] = _part(day, 0, part)


@kernel(
    types.void(
        types.int64,
        array(types.int64),
        array(types.int64),
        types.int64,
        out(types.int64),
    )
)
def _local_parts(part: int, starts: Times, offsets: Times, cycle: int, values: Times) -> None:
    # Of seconds, in place.
    count = len(starts)
    # Neighbours are mostly of one stretch between two changes of the offset.
    since, until, offset = np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(values)):
        at = values[i]
        if at >= cycle:
            at = cycle + (at - cycle) % CYCLE_S - CYCLE_S
        if not since <= at < until:
            low, high = 0, count
            while high - low > 1:
                middle = (low + high) >> 1
                if starts[middle] <= at:
                    low = middle
                else:
                    high = middle
            since, offset = starts[low], offsets[low]
            until = starts[low + 1] if low + 1 < count else np.int64(9223372036854775807)
        day = _floor(values[i], 86_400)
        in_day = values[i] - day * 86_400 + offset
        ahead = np.int64(in_day >= 86_400) - np.int64(in_day < 0)
        values[i] = _part(day + ahead, in_day - ahead * 86_400, part)


def date_parts(
    times: Times, unit: Unit, part: Part, starts: Times, offsets: Times, cycle_s: int
) -> Times:
    """A part of times [n], int64 too: local time is UTC plus an offset.

    From second starts[i] (ascending; the first is the least there is) it is offsets[i] seconds,
    less than a day; from cycle_s on as 400 years before.
    """
    result = np.empty(len(times), np.int64)
    _seconds(times, unit, result)
    if len(starts) == 1 and offsets[0] == 0:
        _parts_in_utc(part, result)
    else:
        _local_parts(part, starts, offsets, cycle_s, result)
    return result
