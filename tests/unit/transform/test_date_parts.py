"""Parts of dates and times, against Python's own calendar and time zones."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import time_zone
from preprocessor_server.transform.ops import check_op
from preprocessor_server.transform.ops.base import UnfitError
from tests.fakes.columns import applied, compiled
from trainer_client import ops
from trainer_client.ops.dates import PARTS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OF_DATES = [part for part in PARTS if part not in {"hour", "minute"}]
# With summer time south and north, without, half hours, a rule of its own for Ramadan, a day left
# out, winter time that is the other one, and links.
ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Dublin",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/St_Johns",
    "Asia/Tokyo",
    "US/Pacific",
]
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# A time in each of the years that Python's calendar has, with room for the offset.
SECONDS = st.integers(-62_135_500_000, 253_402_200_000)
RECENT = st.integers(-3_000_000_000, 5_000_000_000)


@lru_cache
def zone(name: str) -> ZoneInfo:
    data = resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    return ZoneInfo.from_file(io.BytesIO(data))


def expected(moment: datetime | date, part: str) -> int:
    match part:
        case "day_of_week":
            return moment.weekday()
        case "day_of_month":
            return moment.day
        case "day_of_year":
            return moment.timetuple().tm_yday
        case _:
            return int(getattr(moment, part))


@pytest.mark.parametrize("part", PARTS)
@given(seconds=st.lists(st.none() | SECONDS | RECENT), name=st.sampled_from(ZONES))
@example(seconds=[-1, 0, 951_782_400, 4_107_542_400, -2_203_977_600], name="UTC")
def test_they_are_those_of_python(part: str, seconds: list[int | None], name: str) -> None:
    local = [
        None if second is None else (EPOCH + timedelta(seconds=second)).astimezone(zone(name))
        for second in seconds
    ]
    wanted = [None if moment is None else expected(moment, part) for moment in local]
    array = pa.array(seconds, pa.timestamp("s"))
    assert applied(ops.DateParts(part, name), array) == wanted


@given(st.sampled_from(ZONES[1:]), st.data())
def test_every_change_of_the_offset_is_at_its_second(name: str, data: st.DataObject) -> None:
    table = time_zone.time_zone(name)
    changes = table.starts[1:].tolist()
    second = data.draw(st.sampled_from(changes)) + data.draw(st.integers(-1, 1))
    wanted = (EPOCH + timedelta(seconds=second)).astimezone(zone(name)).utcoffset()
    assert wanted is not None
    found = table.offsets[np.searchsorted(table.starts, second, side="right") - 1]
    assert found == wanted.total_seconds()


def test_every_week_has_the_offset_of_every_zone() -> None:
    """Also after the last change that a zone's file lists, from which on a rule says when."""
    seconds = np.arange(-3_000_000_000, 5_000_000_000, 7 * 86_400)
    moments = [EPOCH + timedelta(seconds=second) for second in seconds.tolist()]
    wrong = []
    for name in time_zone.zone_names():
        table = time_zone.time_zone(name)
        found = table.offsets[np.searchsorted(table.starts, seconds, side="right") - 1]
        offsets = [moment.astimezone(zone(name)).utcoffset() for moment in moments]
        if [timedelta(seconds=offset) for offset in found.tolist()] != offsets:
            wrong.append(name)
    assert wrong == []


@given(st.lists(st.none() | RECENT), st.sampled_from(sorted(UNITS)), st.integers(0, 999))
def test_units_and_the_zone_of_the_column_change_nothing(
    seconds: list[int | None], unit: str, part: int
) -> None:
    fraction = part * UNITS[unit] // 1000
    counts = [None if second is None else second * UNITS[unit] + fraction for second in seconds]
    op = ops.DateParts("hour", "Europe/Dublin")
    wanted = applied(op, pa.array(seconds, pa.timestamp("s")))
    for column_zone in (None, "UTC", "America/New_York"):
        assert applied(op, pa.array(counts, pa.timestamp(unit, column_zone))) == wanted


@pytest.mark.parametrize("unit", UNITS)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
@example([-(2**63), 2**63 - 1])
def test_any_64_bits_have_their_parts(unit: str, counts: list[int]) -> None:
    array = pa.array(counts, pa.timestamp(unit))
    days = [count // UNITS[unit] // 86_400 for count in counts]
    # Since 2000-01-01; the calendar repeats after 400 years, of 146,097 days.
    cycles = [divmod(day - 10_957, 146_097) for day in days]
    held = [date(2000, 1, 1) + timedelta(in_cycle) for _, in_cycle in cycles]
    years = [day.year + 400 * cycle for day, (cycle, _) in zip(held, cycles, strict=True)]
    assert applied(ops.DateParts("year"), array) == years
    for part in ("day_of_week", "day_of_month", "day_of_year", "month"):
        assert applied(ops.DateParts(part), array) == [expected(each, part) for each in held]
    in_day = [count // UNITS[unit] % 86_400 for count in counts]
    assert applied(ops.DateParts("hour"), array) == [second // 3600 for second in in_day]
    assert applied(ops.DateParts("minute"), array) == [second // 60 % 60 for second in in_day]


@pytest.mark.parametrize("part", OF_DATES)
@given(st.lists(st.none() | st.dates()))
def test_dates_have_no_zone(part: str, days: list[date | None]) -> None:
    wanted = [None if day is None else expected(day, part) for day in days]
    for arrow in (pa.date32(), pa.date64()):
        assert applied(ops.DateParts(part, "Pacific/Apia"), pa.array(days, arrow)) == wanted


def test_lists_and_dictionaries_of_times() -> None:
    times = pa.array([0, None, 86_400 * 31], pa.timestamp("s"))
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), times)
    assert applied(ops.DateParts("month"), lists) == [[1, None], [], [2]]
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 2, None, 0]), times)
    assert applied(ops.DateParts("month"), coded) == [1, 2, None, 1]


def test_pyarrow_has_the_same_parts() -> None:
    rng = np.random.default_rng(3)
    array = pa.array(rng.integers(-(10**15), 3 * 10**15, 2000), pa.timestamp("us"))
    theirs: dict[str, Any] = {
        "hour": pc.hour,
        "minute": pc.minute,
        "day_of_week": pc.day_of_week,
        "day_of_month": pc.day,
        "day_of_year": pc.day_of_year,
        "month": pc.month,
        "year": pc.year,
    }
    assert sorted(theirs) == sorted(PARTS)
    for part, function in theirs.items():
        assert applied(ops.DateParts(part), array) == function(array).to_pylist()


@pytest.mark.parametrize(
    ("part", "arrow", "message"),
    [
        ("hour", pa.date32(), "a date has no hour; take another part"),
        ("minute", pa.date64(), "a date has no minute"),
        ("year", pa.int64(), "DateParts takes timestamps and dates"),
        ("year", pa.time64("us"), "DateParts takes timestamps and dates"),
        ("year", pa.duration("s"), "DateParts takes timestamps and dates"),
        ("year", pa.string(), "DateParts takes timestamps and dates"),
        ("year", pa.null(), "DateParts takes timestamps and dates"),
    ],
)
def test_what_has_no_parts_is_refused(part: str, arrow: pa.DataType, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        compiled(ops.DateParts(part), arrow)


def refusal(op: dict[str, Any]) -> DatasetError:
    message = json_format.ParseDict({"dateParts": op}, dataset_pb2.Op())
    with pytest.raises(DatasetError) as caught:
        check_op(message, "dataset.features[0].dense.ops[0]")
    return caught.value


def test_zones_that_are_not_known_are_refused() -> None:
    for name in ("Europe/Berlim", "../zones", "Etc", "local"):
        error = refusal({"part": "DATE_PART_HOUR", "timeZone": name})
        assert error.reason == "DATASET_INVALID"
        assert error.field == "dataset.features[0].dense.ops[0].date_parts.time_zone"
        assert f"no time zone is called {name!r}" in error.message
    assert (
        "did you mean 'Europe/Berlin'"
        in refusal({"part": "DATE_PART_HOUR", "timeZone": "Europe/Berlim"}).message
    )
    assert refusal({}).message.endswith(
        "give one of DATE_PART_HOUR, DATE_PART_MINUTE, DATE_PART_DAY_OF_WEEK, "
        "DATE_PART_DAY_OF_MONTH, DATE_PART_DAY_OF_YEAR, DATE_PART_MONTH, DATE_PART_YEAR"
    )


def test_no_zone_is_utc() -> None:
    op = json_format.ParseDict({"dateParts": {"part": "DATE_PART_HOUR"}}, dataset_pb2.Op())
    check_op(op, "x")
    assert ops.from_proto(op) == ops.DateParts("hour")
