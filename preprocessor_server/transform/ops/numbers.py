"""Operations on single values, most of them numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Flat, Scalars
from preprocessor_server.kernels import fill, limit, log1p
from preprocessor_server.transform.cast import cast
from preprocessor_server.transform.column_type import BYTES, NUMBERS, ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, as_bytes, bytes_to_arrow
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import (
    CAST_FIRST,
    ColumnOp,
    Rule,
    UnfitError,
    no_such_value,
    nothing_to_check,
    on_values,
)
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.scalar import as_number, exact_bytes

_CAST_DTYPES: dict[int, np.dtype[np.generic]] = {
    dataset_pb2.SCALAR_TYPE_INT32: np.dtype(np.int32),
    dataset_pb2.SCALAR_TYPE_INT64: np.dtype(np.int64),
    dataset_pb2.SCALAR_TYPE_FLOAT32: np.dtype(np.float32),
    dataset_pb2.SCALAR_TYPE_FLOAT64: np.dtype(np.float64),
}


def _fill_null(op: dataset_pb2.FillNull, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family in BYTES:
        return _fill_bytes(op, column)
    if column.dtype is None:
        raise UnfitError(f"FillNull takes numbers, booleans and strings; {CAST_FIRST}")
    value = as_number(op.value, column.dtype)
    if value is None:
        raise UnfitError(no_such_value("the value", op.value, column))

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        if values.valid is None:
            return values
        return Flat(fill(values.values, values.valid, value))

    return on_values(run), column


def _fill_bytes(op: dataset_pb2.FillNull, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    fill = exact_bytes(op.value)
    if fill is None:
        raise UnfitError(no_such_value("the value", op.value, column))
    scalar = pa.scalar(fill, pa.large_binary())

    def run(values: Scalars, _: Place) -> Scalars:
        values = as_bytes(values)
        if values.valid is None:
            return values
        filled = arrow_to_column(pc.fill_null(bytes_to_arrow(values), scalar))
        assert isinstance(filled, Bytes)
        return filled

    return on_values(run), column


def _log1p(_: dataset_pb2.Log1p, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"Log1p takes numbers; {CAST_FIRST}")
    narrow = column.family is Family.FLOAT and column.dtype.itemsize <= 4

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(log1p(values.values), values.valid)

    return on_values(run), column.of(np.dtype(np.float32 if narrow else np.float64))


def _clip(op: dataset_pb2.Clip, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"Clip takes numbers; {CAST_FIRST}")
    bounds = []
    for name, given, scalar in (
        ("min", op.HasField("min"), op.min),
        ("max", op.HasField("max"), op.max),
    ):
        bound = as_number(scalar, column.dtype) if given else None
        if given and bound is None:
            raise UnfitError(no_such_value(name, scalar, column))
        bounds.append(bound)
    lower, upper = bounds

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(limit(values.values, lower, upper), values.valid)

    return on_values(run), column


def _cast(op: dataset_pb2.Cast, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family is Family.BINARY:
        raise UnfitError(
            "Cast takes numbers, booleans, times, decimals and strings; write the column as "
            "strings, or hash it with HashBucket"
        )
    dtype = _CAST_DTYPES[op.to]
    target = str(pa.from_numpy_dtype(dtype))

    def run(values: Scalars, place: Place) -> Scalars:
        result, bad = cast(values, column, dtype)
        place.refuse(
            bad,
            "VALUE_OUT_OF_RANGE",
            f"values are no {target} (a fraction, NaN, out of range, or not a number)",
            "cast to a wider type, Clip before, or correct the data",
        )
        return result

    return on_values(run), column.of(dtype)


def _check_fill_null(op: dataset_pb2.FillNull, path: str) -> None:
    if op.value.WhichOneof("value") is None:
        raise invalid(f"{path}.value", "FillNull has no value; give one")


def _check_clip(clip: dataset_pb2.Clip, path: str) -> None:
    bounds = []
    for name in ("min", "max"):
        if not clip.HasField(name):
            continue
        scalar = clip.min if name == "min" else clip.max
        match scalar.WhichOneof("value"):
            case "number":
                bounds.append(scalar.number)
            case "integer":
                bounds.append(scalar.integer)
            case other:
                given = "text" if other else "nothing"
                raise invalid(f"{path}.{name}", f"the bound is {given}; give a number")
        if bounds[-1] != bounds[-1]:
            raise invalid(f"{path}.{name}", "the bound is NaN; give a number, or leave it out")
    if not bounds:
        raise invalid(path, "Clip has neither min nor max; give one or both")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise invalid(path, f"min {bounds[0]} is above max {bounds[1]}; exchange them")


def _check_cast(op: dataset_pb2.Cast, path: str) -> None:
    if op.to not in _CAST_DTYPES:
        known = ", ".join(dataset_pb2.ScalarType.Name(number) for number in _CAST_DTYPES)
        raise invalid(f"{path}.to", f"Cast to type {op.to}; give one of {known}")


RULES = {
    "fill_null": Rule(_fill_null, _check_fill_null),
    "log1p": Rule(_log1p, nothing_to_check),
    "clip": Rule(_clip, _check_clip),
    "cast": Rule(_cast, _check_cast),
}
