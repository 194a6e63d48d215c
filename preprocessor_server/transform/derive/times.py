"""The time from one column to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column, Flat, Mask, Scalars
from preprocessor_server.transform.cast import cast
from preprocessor_server.transform.column_type import ColumnType, Family
from preprocessor_server.transform.derive.aligned import align, rejoin
from preprocessor_server.transform.derive.base import (
    Compute,
    Input,
    Rule,
    UnfitInputError,
    check_named,
    list_of,
    named,
)
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.place import Place

Times: TypeAlias = npt.NDArray[np.int64]

_INT64 = np.dtype(np.int64)
_MAX = (1 << 63) - 1
_NANOSECONDS: dict[int, int] = {
    dataset_pb2.TIME_UNIT_NANOSECOND: 1,
    dataset_pb2.TIME_UNIT_MICROSECOND: 1_000,
    dataset_pb2.TIME_UNIT_MILLISECOND: 1_000_000,
    dataset_pb2.TIME_UNIT_SECOND: 1_000_000_000,
    dataset_pb2.TIME_UNIT_MINUTE: 60_000_000_000,
    dataset_pb2.TIME_UNIT_HOUR: 3_600_000_000_000,
    dataset_pb2.TIME_UNIT_DAY: 86_400_000_000_000,
}
_TIMESTAMP_UNITS = {
    "ns": dataset_pb2.TIME_UNIT_NANOSECOND,
    "us": dataset_pb2.TIME_UNIT_MICROSECOND,
    "ms": dataset_pb2.TIME_UNIT_MILLISECOND,
    "s": dataset_pb2.TIME_UNIT_SECOND,
}
_KNOWN = ", ".join(dataset_pb2.TimeUnit.keys()[1:])


def _compile(
    message: dataset_pb2.TimeSince, inputs: Sequence[Input]
) -> tuple[Compute, pa.DataType]:
    column, event = inputs
    steps = [
        _nanoseconds(column, message.column_unit, "column_unit"),
        _nanoseconds(event, message.event_time_unit, "event_time_unit"),
    ]
    fine, unit, whole = min(steps), _NANOSECONDS[message.unit], message.whole_units
    types = (column.type, event.type)
    names = [each.name for each in inputs]

    def run(columns: Sequence[Column], place: Place) -> Column:
        offsets, values = align(columns, names, place)
        if offsets is not None:
            place = place.within(offsets)
        (then, now), valid = _stored(values, types, place)
        then, bad_then = _times(then, steps[0] // fine)
        now, bad_now = _times(now, steps[1] // fine)
        since, bad = _minus(now, then)
        bad |= bad_then | bad_now
        if whole and unit < fine:
            since, bad_unit = _times(since, fine // unit)
            bad |= bad_unit
        _refuse(bad, valid, place)
        if whole:
            return rejoin(offsets, Flat(since // max(1, unit // fine), valid))
        numbers = since.astype(np.float64)
        numbers = numbers * (fine // unit) if unit < fine else numbers / (unit // fine)
        return rejoin(offsets, Flat(numbers, valid))

    is_list = column.type.is_list or event.type.is_list
    return run, list_of(pa.int64() if whole else pa.float64(), is_list=is_list)


def _nanoseconds(column: Input, given: int, field: str) -> int:
    """The unit of a column's times, in nanoseconds."""
    arrow, family = column.type.arrow, column.type.family
    if family is Family.INTEGER:
        if not given:
            raise UnfitInputError(
                column, f"integers count units: say which in {field}, {_KNOWN}", field
            )
        return _NANOSECONDS[given]
    if given and family is not Family.NULL:
        raise UnfitInputError(column, f"only integers need {field}; leave it out", field)
    if family is Family.NULL:
        return _NANOSECONDS[given or dataset_pb2.TIME_UNIT_SECOND]
    if arrow is not None and pa.types.is_timestamp(arrow):
        return _NANOSECONDS[_TIMESTAMP_UNITS[arrow.unit]]
    if arrow is not None and pa.types.is_date32(arrow):
        return _NANOSECONDS[dataset_pb2.TIME_UNIT_DAY]
    if arrow is not None and pa.types.is_date64(arrow):
        return _NANOSECONDS[dataset_pb2.TIME_UNIT_MILLISECOND]
    raise UnfitInputError(
        column, "TimeSince takes timestamps, dates and integers; write the column as one"
    )


def _stored(
    values: Sequence[Scalars], types: Sequence[ColumnType], place: Place
) -> tuple[list[Times], Mask | None]:
    """The integers that times are stored as, and where none of them is null (None: everywhere)."""
    numbers: list[Times] = []
    valid: Mask | None = None
    for each, kind in zip(values, types, strict=True):
        stored, bad = cast(each, kind, _INT64)
        place.refuse(
            bad, "VALUE_OUT_OF_RANGE", "times are above 2^63 - 1", "correct the data, or the column"
        )
        numbers.append(stored.values)
        if stored.valid is not None:
            valid = stored.valid if valid is None else valid & stored.valid
    return numbers, valid


def _times(numbers: Times, factor: int) -> tuple[Times, Mask]:
    """Numbers multiplied by a positive one, and which of the products are no int64."""
    most = _MAX // factor
    return numbers * np.int64(factor), (numbers > most) | (numbers < -most)


def _minus(left: Times, right: Times) -> tuple[Times, Mask]:
    """The differences of numbers, and which of them are no int64."""
    difference = left - right
    return difference, ((left ^ right) & (left ^ difference)) < 0


def _refuse(bad: Mask, valid: Mask | None, place: Place) -> None:
    place.refuse(
        bad if valid is None else bad & valid,
        "VALUE_OUT_OF_RANGE",
        "times or differences are no int64 in the finer unit of the two columns",
        "leave such rows out with where, or write both columns in a coarser unit",
    )


def _check(message: dataset_pb2.TimeSince, path: str) -> Iterator[DatasetError]:
    yield from check_named(message, path, "column", "event_time")
    units: dict[str, Any] = {
        "unit": message.unit,
        "column_unit": message.column_unit,
        "event_time_unit": message.event_time_unit,
    }
    for field, unit in units.items():
        if unit not in _NANOSECONDS and (unit or field == "unit"):
            yield invalid(f"{path}.{field}", f"the unit is {unit}; give one of {_KNOWN}")


RULES = {"time_since": Rule(named("column", "event_time"), _compile, _check)}
