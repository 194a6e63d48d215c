"""Operations on dates and times."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar, Self

from headrace.v1 import dataset_pb2
from trainer_client.errors import InvalidDatasetError
from trainer_client.ops.base import Op, OpDoc

_PREFIX = "DATE_PART_"
PARTS = tuple(
    name.removeprefix(_PREFIX).lower() for name, number in dataset_pb2.DatePart.items() if number
)


@dataclass(frozen=True, slots=True)
class DateParts(Op):
    """Takes a part of timestamps, in the local time of a zone, or of dates.

    part is "hour", "minute", "day_of_week" (Monday is 0), "day_of_month", "day_of_year", "month"
    or "year"; time_zone a name of the IANA database.
    """

    proto_field: ClassVar[str] = "date_parts"
    doc: ClassVar[OpDoc] = OpDoc(
        operation="`DateParts(part, time_zone)`",
        takes="timestamps; dates, but for hour and minute",
        gives="int64",
        null="stays",
        nan="-",
        inf="-",
        negative_zero="-",
        empty_list="stays empty",
        out_of_range="every time has its parts; a zone that the servers do not know is "
        "DATASET_INVALID",
    )
    part: str
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            near = difflib.get_close_matches(str(self.part), PARTS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidDatasetError(
                f"DateParts of {self.part!r}: the parts are {', '.join(PARTS)}{hint}"
            )
        if not isinstance(self.time_zone, str) or not self.time_zone:
            raise InvalidDatasetError(
                f"DateParts time_zone is {self.time_zone!r}: it must be a name of the IANA "
                "database, such as 'Europe/Berlin'"
            )

    def _message(self) -> dataset_pb2.DateParts:
        return dataset_pb2.DateParts(part=_PREFIX + self.part.upper(), time_zone=self.time_zone)

    @classmethod
    def of_message(cls, message: dataset_pb2.DateParts) -> Self:
        """The operation of its message. Raises InvalidDatasetError for an unknown part."""
        names = {number: name for name, number in dataset_pb2.DatePart.items()}
        name = names.get(message.part, str(message.part))
        return cls(name.removeprefix(_PREFIX).lower(), message.time_zone or "UTC")
