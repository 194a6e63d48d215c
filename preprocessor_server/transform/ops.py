"""Operations: checked against a column's type once, then run on its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import (
    Bytes,
    Column,
    Flat,
    Indices,
    Jagged,
    Opaque,
    Scalars,
    take_column,
)
from preprocessor_server.kernels import (
    copy_tails,
    hash_integers,
    hash_strings,
    log1p,
    tail,
)
from preprocessor_server.transform.cast import cast
from preprocessor_server.transform.column_type import BYTES, NUMBERS, ColumnType, Family
from preprocessor_server.transform.from_arrow import arrow_to_column, as_bytes, bytes_to_arrow
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.scalar import as_number, exact_bytes, show

ColumnOp: TypeAlias = Callable[[Column, Place], Column]
ValueOp: TypeAlias = Callable[[Scalars, Place], Scalars]

_CAST_DTYPES: dict[int, np.dtype[np.generic]] = {
    dataset_pb2.SCALAR_TYPE_INT32: np.dtype(np.int32),
    dataset_pb2.SCALAR_TYPE_INT64: np.dtype(np.int64),
    dataset_pb2.SCALAR_TYPE_FLOAT32: np.dtype(np.float32),
    dataset_pb2.SCALAR_TYPE_FLOAT64: np.dtype(np.float64),
}


class UnfitError(Exception):
    """An operation does not fit a column's type; the message says what it takes, and a way out."""


def compile_op(op: dataset_pb2.Op, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    """What an operation does to columns of a type, and the type that comes out.

    Raises UnfitError if it does not fit.
    """
    match op.WhichOneof("op"):
        case "fill_null":
            return _fill_null(op.fill_null, column)
        case "log1p":
            return _log1p(column)
        case "clip":
            return _clip(op.clip, column)
        case "cast":
            return _cast(op.cast, column)
        case "hash_bucket":
            return _hash_bucket(op.hash_bucket, column)
        case "tail":
            return _tail(op.tail, column)
        case other:
            raise AssertionError(f"validate_spec lets no such operation through: {other}")


def _on_values(op: ValueOp) -> ColumnOp:
    """Runs an operation on values, or on the elements of lists."""

    def run(column: Column, place: Place) -> Column:
        if isinstance(column, Jagged):
            return Jagged(column.offsets, op(column.values, place.within(column.offsets)))
        return op(column, place)

    return run


def _fill_null(op: dataset_pb2.FillNull, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family in BYTES:
        return _fill_bytes(op, column)
    if column.dtype is None:
        raise UnfitError(f"FillNull takes numbers, booleans and strings; {_CAST_FIRST}")
    fill = as_number(op.value, column.dtype)
    if fill is None:
        raise UnfitError(_no_such_value("the value", op.value, column))

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        if values.valid is None:
            return values
        return Flat(np.where(values.valid, values.values, fill))

    return _on_values(run), column


def _fill_bytes(op: dataset_pb2.FillNull, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    fill = exact_bytes(op.value)
    if fill is None:
        raise UnfitError(_no_such_value("the value", op.value, column))
    scalar = pa.scalar(fill, pa.large_binary())

    def run(values: Scalars, _: Place) -> Scalars:
        values = as_bytes(values)
        if values.valid is None:
            return values
        filled = arrow_to_column(pc.fill_null(bytes_to_arrow(values), scalar))
        assert isinstance(filled, Bytes)
        return filled

    return _on_values(run), column


def _log1p(column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"Log1p takes numbers; {_CAST_FIRST}")
    narrow = column.family is Family.FLOAT and column.dtype.itemsize <= 4

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(log1p(values.values), values.valid)

    return _on_values(run), column.of(np.dtype(np.float32 if narrow else np.float64))


def _clip(op: dataset_pb2.Clip, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"Clip takes numbers; {_CAST_FIRST}")
    bounds = []
    for name, given, scalar in (
        ("min", op.HasField("min"), op.min),
        ("max", op.HasField("max"), op.max),
    ):
        bound = as_number(scalar, column.dtype) if given else None
        if given and bound is None:
            raise UnfitError(_no_such_value(name, scalar, column))
        bounds.append(bound)
    lower, upper = bounds

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        clipped: npt.NDArray[Any] = values.values
        # Comparisons with NaN are false, so NaN stays; so does -0.0 at a bound of 0.
        if lower is not None:
            clipped = np.where(clipped < lower, lower, clipped)
        if upper is not None:
            clipped = np.where(clipped > upper, upper, clipped)
        return Flat(clipped, values.valid)

    return _on_values(run), column


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

    return _on_values(run), column.of(dtype)


def _hash_bucket(op: dataset_pb2.HashBucket, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.family not in {Family.INTEGER, Family.BOOLEAN, *BYTES}:
        raise UnfitError(
            "HashBucket takes integers, booleans, strings and binary; put a Cast to int64 before it"
        )
    num_buckets, seed = op.num_buckets, op.seed

    def run(values: Scalars, _: Place) -> Scalars:
        if not isinstance(values, Flat):
            return hash_bytes(values, num_buckets, seed)
        return Flat(hash_integers(values.values, num_buckets, seed), values.valid)

    return _on_values(run), column.of(np.dtype(np.int64))


def hash_bytes(values: Scalars, num_buckets: int, seed: int, *, narrow: bool = False) -> Flat:
    """The buckets of strings or binary values, int64, or int32 if narrow, by hash_strings.

    Of a dictionary, each distinct value is hashed once.
    """
    if not isinstance(values, Opaque):
        values = as_bytes(values)
        buckets = hash_strings(values.offsets, values.data, num_buckets, seed, narrow=narrow)
        return Flat(buckets, values.valid)
    distinct, codes = arrow_to_column(values.array.dictionary), values.array.indices
    assert isinstance(distinct, Bytes)
    hashes = hash_strings(distinct.offsets, distinct.data, num_buckets, seed, narrow=narrow)
    places = arrow_to_column(codes)
    assert isinstance(places, Flat)
    if codes.null_count == len(codes):
        return Flat(np.zeros(len(codes), hashes.dtype), places.valid)
    # The code of a null may be anything.
    rows = codes.fill_null(0).to_numpy() if codes.null_count else places.values
    return Flat(np.take(hashes, rows.astype(np.int64, copy=False)), places.valid)


def _tail(op: dataset_pb2.Tail, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if not column.is_list:
        raise UnfitError("Tail takes lists; leave it out")
    count = op.count

    def run(values: Column, _: Place) -> Column:
        assert isinstance(values, Jagged)
        offsets = tail(values.offsets, count)
        if offsets[-1] == values.offsets[-1]:
            return values
        return Jagged(offsets, _tails(values, offsets))

    return run, column


def _tails(lists: Jagged, offsets: Indices) -> Scalars:
    values = lists.values
    if isinstance(values, Flat):
        valid = values.valid
        return Flat(
            copy_tails(lists.offsets, values.values, offsets),
            None if valid is None else copy_tails(lists.offsets, valid, offsets).view(np.bool_),
        )
    kept = np.diff(offsets)
    elements = np.arange(offsets[-1]) + np.repeat(lists.offsets[1:] - offsets[1:], kept)
    taken = take_column(values, elements)
    assert not isinstance(taken, Jagged)
    return taken


_CAST_FIRST = "put a Cast before it"


def _no_such_value(what: str, scalar: dataset_pb2.Scalar, column: ColumnType) -> str:
    if column.dtype is None:
        return f"{what} is {show(scalar)}; give a string"
    if column.family is Family.BOOLEAN:
        return f"{what} {show(scalar)} is no boolean; give 0 or 1"
    target = str(pa.from_numpy_dtype(column.dtype))
    if column.family is Family.FLOAT and scalar.WhichOneof("value") != "text":
        return (
            f"{what} {show(scalar)} is out of range for {target}; give a smaller one, or put a "
            "Cast to a wider type before it"
        )
    return f"{what} {show(scalar)} is no {target}; give one that is, or put a Cast before it"


def null_typed(column: ColumnType, dtype: np.dtype[np.generic]) -> tuple[ColumnOp, ColumnType]:
    """Gives a column of Arrow's null type, which has no values, the dtype that a feature wants."""

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(np.zeros(len(values), dtype), values.valid)

    return _on_values(run), replace(column.of(dtype), name=column.name)


def unfit(error: UnfitError, title: str, field: str, name: str, column: ColumnType) -> DatasetError:
    """The error for an operation or a feature that does not fit a column."""
    return DatasetError(
        "TYPE_UNFIT",
        f"feature {name!r} ({title}): column {name!r} is {column.name}; {error}",
        field=field,
    )
