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
    """Value / divisor rounded down, by one unsigned division and no branch."""
    sign = value >> 63
    return np.int64(np.uint64(value ^ sign) // np.uint64(divisor)) ^ sign


@inner
def _second(time: Any, unit: Any) -> Any:
    """The second in which a time is; a division for each unit, since by a constant it is fast."""
    if unit == 0:
        return time * 86_400
    if unit == 1:
        return time
    if unit == 2:
        return _floor(time, 1_000)
    if unit == 3:
        return _floor(time, 1_000_000)
    return _floor(time, 1_000_000_000)


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
        return day + 3 - _floor(day + 3, 7) * 7
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


@inner
def _local_part(second: Any, offset: Any, part: Any) -> Any:
    """The part of the local time that is offset seconds ahead of a second since 1970."""
    day = _floor(second, 86_400)
    in_day = second - day * 86_400 + offset
    ahead = np.int64(in_day >= 86_400) - np.int64(in_day < 0)
    return _part(day + ahead, in_day - ahead * 86_400, part)


@kernel(
    types.void(
        array(types.int64),
        types.int64,
        types.int64,
        array(types.int64),
        array(types.int64),
        types.int64,
        out(types.int64),
    )
)
def _date_parts(
    times: Times, unit: int, part: int, starts: Times, offsets: Times, cycle: int, result: Times
) -> None:
    count = len(starts)
    if count == 1:
        for i in range(len(times)):
            result[i] = _local_part(_second(times[i], unit), offsets[0], part)
        return
    # Neighbours are mostly of one stretch between two changes of the offset.
    since, until, offset = np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(times)):
        second = np.int64(_second(times[i], unit))
        at = second
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
        result[i] = _local_part(second, offset, part)


def date_parts(
    times: Times, unit: Unit, part: Part, starts: Times, offsets: Times, cycle_s: int
) -> Times:
    """A part of times [n], int64 too: local time is UTC plus an offset.

    From second starts[i] (ascending; the first is the least there is) it is offsets[i] seconds,
    less than a day; from cycle_s on as 400 years before.
    """
    result = np.empty(len(times), np.int64)
    _date_parts(times, unit, part, starts, offsets, cycle_s, result)
    return result
