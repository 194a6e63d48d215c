"""What all operations have in common: how they are checked, compiled and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Jagged, Scalars
from preprocessor_server.transform.column_type import ColumnType, Family
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.scalar import show

ColumnOp: TypeAlias = Callable[[Column, Place], Column]
ValueOp: TypeAlias = Callable[[Scalars, Place], Scalars]

CAST_FIRST = "put a Cast before it"


class UnfitError(Exception):
    """An operation does not fit a column's type; the message says what it takes, and a way out."""


class Rule(NamedTuple):
    """An operation of headrace.v1.Op, by its message.

    compile gives what it does to columns of a type, and the type that comes out; it raises
    UnfitError if it does not fit. check takes the message and its field path, and raises
    DatasetError (DATASET_INVALID) for what is wrong whatever the column.
    """

    compile: Callable[[Any, ColumnType], tuple[ColumnOp, ColumnType]]
    check: Callable[[Any, str], None]


def nothing_to_check(_: Any, path: str) -> None:
    """The check of a message that is right whatever it holds."""
    del path


def on_values(op: ValueOp) -> ColumnOp:
    """Runs an operation on values, or on the elements of lists."""

    def run(column: Column, place: Place) -> Column:
        if isinstance(column, Jagged):
            return Jagged(column.offsets, op(column.values, place.within(column.offsets)))
        return op(column, place)

    return run


def no_such_value(what: str, scalar: dataset_pb2.Scalar, column: ColumnType) -> str:
    """Why a constant is no value of a column, and a way out."""
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
