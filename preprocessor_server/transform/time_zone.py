"""Time zones, as tables of when the offset from UTC changes.

They come from the tzdata package and from nowhere else: what a machine has under /usr/share differs
from machine to machine. docs/decisions says more.
"""

from __future__ import annotations

import difflib
import io
import struct
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from preprocessor_server.frame import Indices
from preprocessor_server.kernels.dates import CYCLE_S, DAY_S

_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
# A TZif file (RFC 8536): magic, version; counts of indicators, leap seconds, changes, types, names.
_HEADER = struct.Struct(">4sc15x6I")
_OFFSET_TYPE = np.dtype([("offset", ">i4"), ("summer", "u1"), ("name", "u1")])
# No rule for the years to come changes the offset twice in so short a time.
_STEP_S = 7 * DAY_S


class TimeZone(NamedTuple):
    """Local time from second starts[i] since 1970 on is offsets[i] seconds ahead of UTC.

    Both int64 [n]; starts ascend from the least there is. From cycle_s on all is as 400 years
    before.
    """

    starts: Indices
    offsets: Indices
    cycle_s: int


@lru_cache(maxsize=1)
def zone_names() -> tuple[str, ...]:
    """The names of all zones of the database."""
    return tuple(resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


def suggest_zone(name: str) -> str:
    """A way out for a name that no zone has."""
    close = difflib.get_close_matches(name, zone_names(), n=3)
    if close:
        return "did you mean " + " or ".join(map(repr, close)) + "?"
    return "give one of the IANA database, such as 'Europe/Berlin'"


@lru_cache(maxsize=64)
def time_zone(name: str) -> TimeZone:
    """The zone of a name. Raises KeyError if the database has none of that name."""
    if name == "UTC":
        return TimeZone(np.array([_FIRST]), np.zeros(1, np.int64), _LAST)
    if name not in zone_names():
        raise KeyError(name)
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    starts, offsets, rule = _changes(data)
    if "," not in rule:
        return TimeZone(np.array(starts), np.array(offsets), _LAST)
    # The rule holds from the last change that is listed on, which may be early in a year.
    last_s = max(starts[-1], 0)
    year = datetime.fromtimestamp(last_s, UTC).year + 1
    end_s = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) + CYCLE_S
    for second, offset in _ruled(data, last_s, end_s, offsets[-1]):
        starts.append(second)
        offsets.append(offset)
    return TimeZone(np.array(starts), np.array(offsets), end_s)


def _changes(data: bytes) -> tuple[list[int], list[int], str]:
    """Starts and offsets that a TZif file lists, and its rule for the time after them."""
    # The first part has 32-bit times, for old readers.
    _, _, utc, standard, leaps, changes, types, names = _HEADER.unpack_from(data)
    at = _HEADER.size + changes * 5 + types * _OFFSET_TYPE.itemsize + names
    at += leaps * 8 + standard + utc
    _, _, utc, standard, leaps, changes, types, names = _HEADER.unpack_from(data, at)
    at += _HEADER.size
    times = np.frombuffer(data, ">i8", changes, at).tolist()
    kinds = np.frombuffer(data, np.uint8, changes, at + changes * 8)
    at += changes * 9
    offsets = np.frombuffer(data, _OFFSET_TYPE, types, at)["offset"]
    at += types * _OFFSET_TYPE.itemsize + names + leaps * 12 + standard + utc
    rule = data[at:].strip(b"\n").decode()
    return [_FIRST, *times], [int(offsets[0]), *offsets[kinds].tolist()], rule


def _ruled(data: bytes, last_s: int, end_s: int, offset_s: int) -> list[tuple[int, int]]:
    """The changes that the rule of a TZif file makes after its last one, to offset_s at last_s."""
    zone = ZoneInfo.from_file(io.BytesIO(data))

    def offset_at(second: int) -> int:
        offset = datetime.fromtimestamp(second, zone).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    found = []
    before_s = last_s
    for second in (*range(last_s + _STEP_S, end_s, _STEP_S), end_s):
        if (offset := offset_at(second)) == offset_s:
            before_s = second
            continue
        low, high = before_s, second
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_at(middle) == offset_s else (low, middle)
        found.append((high, offset))
        before_s, offset_s = second, offset
    return found
