"""Operations on dates and times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Flat, Opaque, Scalars
from preprocessor_server.kernels import Part, Unit, date_parts
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.from_arrow import arrow_to_column
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.time_zone import suggest_zone, time_zone

UTC = "UTC"
_PREFIX = "DATE_PART_"
_PARTS = {
    number: Part[name.removeprefix(_PREFIX)]
    for name, number in dataset_pb2.DatePart.items()
    if number
}
_UNITS = {
    "s": Unit.SECOND,
    "ms": Unit.MILLISECOND,
    "us": Unit.MICROSECOND,
    "ns": Unit.NANOSECOND,
}


def _date_parts(op: dataset_pb2.DateParts, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    part, arrow = _PARTS[op.part], column.arrow
    is_date = arrow is not None and pa.types.is_date(arrow)
    if arrow is None or not (is_date or pa.types.is_timestamp(arrow)):
        raise UnfitError(
            "DateParts takes timestamps and dates; write the column as one, or give a column that "
            "is one"
        )
    if is_date and part in {Part.HOUR, Part.MINUTE}:
        raise UnfitError(
            f"a date has no {part.name.lower()}; take another part, or a column of timestamps"
        )
    if is_date:
        unit = Unit.DAY if pa.types.is_date32(arrow) else Unit.MILLISECOND
    else:
        unit = _UNITS[arrow.unit]
    # A date is the same day everywhere.
    zone = time_zone(UTC if is_date else op.time_zone or UTC)

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Opaque)
        stored = arrow_to_column(values.array.view(pa.int32() if unit is Unit.DAY else pa.int64()))
        assert isinstance(stored, Flat)
        times = stored.values.astype(np.int64, copy=False)
        return Flat(date_parts(times, unit, part, *zone), stored.valid)

    return on_values(run), column.of(np.dtype(np.int64))


def _check_date_parts(op: dataset_pb2.DateParts, path: str) -> None:
    if op.part not in _PARTS:
        known = ", ".join(dataset_pb2.DatePart.keys()[1:])
        raise invalid(f"{path}.part", f"the part is {op.part}; give one of {known}")
    try:
        time_zone(op.time_zone or UTC)
    except KeyError:
        raise invalid(
            f"{path}.time_zone",
            f"no time zone is called {op.time_zone!r}; {suggest_zone(op.time_zone)}",
        ) from None


RULES = {"date_parts": Rule(_date_parts, _check_date_parts)}
