"""The time from one column to another."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.derive.base import Derived, DerivedDoc
from trainer_client.errors import InvalidDatasetError

_PREFIX = "TIME_UNIT_"
UNITS = tuple(
    name.removeprefix(_PREFIX).lower() for name, number in dataset_pb2.TimeUnit.items() if number
)


@dataclass(frozen=True, slots=True)
class TimeSince(Derived):
    """How long before event_time the times of a column were, in a unit: "hour", "day", ….

    float64, or with whole_units int64, rounded down. Columns of integers need their unit too:
    column_unit, event_time_unit.
    """

    proto_field: ClassVar[str] = "time_since"
    doc: ClassVar[DerivedDoc] = DerivedDoc(
        kind="`TimeSince(column, event_time, unit, whole_units)`",
        takes="two columns of timestamps, dates or integers; single values and lists",
        gives="float64, or int64 of whole units; lists if one of the columns holds lists",
        null="what has a null in it is null; a null beside a list makes all its elements null",
        nan="-",
        empty_list="stays empty",
        uneven="LISTS_UNEVEN",
        out_of_range="below 0 where the time is after the event; times or differences that are no "
        "int64 in the finer unit of the columns: VALUE_OUT_OF_RANGE",
    )
    name: str
    column: str
    event_time: str
    unit: str
    whole_units: bool = False
    column_unit: str | None = None
    event_time_unit: str | None = None

    def __post_init__(self) -> None:
        self._check_names(column=self.column, event_time=self.event_time)
        given = {"unit": self.unit}
        if self.column_unit is not None:
            given["column_unit"] = self.column_unit
        if self.event_time_unit is not None:
            given["event_time_unit"] = self.event_time_unit
        for field, unit in given.items():
            if unit not in UNITS:
                near = difflib.get_close_matches(str(unit), UNITS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InvalidDatasetError(
                    f"TimeSince {self.name!r} {field} is {unit!r}: give one of "
                    f"{', '.join(UNITS)}{hint}"
                )
        if not isinstance(self.whole_units, bool):
            raise InvalidDatasetError(
                f"TimeSince {self.name!r} whole_units is {self.whole_units!r}: True or False"
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return (self.column, self.event_time)

    def _message(self) -> dataset_pb2.TimeSince:
        return dataset_pb2.TimeSince(
            column=self.column,
            event_time=self.event_time,
            unit=_member(self.unit),
            whole_units=self.whole_units,
            column_unit=_member(self.column_unit),
            event_time_unit=_member(self.event_time_unit),
        )

    @classmethod
    def of_message(cls, name: str, message: dataset_pb2.TimeSince) -> Self:
        """The column of its name and message. Raises InvalidDatasetError if it is none."""
        return cls(
            name,
            message.column,
            message.event_time,
            _name(message.unit) or "",
            message.whole_units,
            _name(message.column_unit),
            _name(message.event_time_unit),
        )


def _member(unit: str | None) -> str | None:
    """The name of a unit in the contract."""
    return None if unit is None else _PREFIX + unit.upper()


def _name(number: int) -> str | None:
    if not number:
        return None
    names = {number: name for name, number in dataset_pb2.TimeUnit.items()}
    return names.get(number, str(number)).removeprefix(_PREFIX).lower()
