"""Operations: checked against a column's type once, then run on its values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Flat, Scalars
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops import (
    aggregate,
    dates,
    ids,
    lists,
    lookup,
    numbers,
    scaling,
    sequences,
)
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.place import Place

RULES: dict[str, Rule] = {
    **numbers.RULES,
    **ids.RULES,
    **scaling.RULES,
    **dates.RULES,
    **lookup.RULES,
    **lists.RULES,
    **aggregate.RULES,
    **sequences.RULES,
}


def compile_op(op: dataset_pb2.Op, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    """What an operation does to columns of a type, and the type that comes out.

    Raises UnfitError if it does not fit.
    """
    name = op.WhichOneof("op")
    assert name is not None
    return RULES[name].compile(getattr(op, name), column)


def check_op(op: dataset_pb2.Op, path: str) -> None:
    """Raises DatasetError (DATASET_INVALID) for what is wrong whatever the column."""
    name = op.WhichOneof("op")
    if name is None:
        raise invalid(
            path, "not an operation that this server knows; give one, or upgrade the servers"
        )
    RULES[name].check(getattr(op, name), f"{path}.{name}")


def null_typed(column: ColumnType, dtype: np.dtype[np.generic]) -> tuple[ColumnOp, ColumnType]:
    """Gives a column of Arrow's null type, which has no values, the dtype that a feature wants."""

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(np.zeros(len(values), dtype), values.valid)

    return on_values(run), replace(column.of(dtype), name=column.name)


def unfit(error: UnfitError, title: str, field: str, name: str, column: ColumnType) -> DatasetError:
    """The error for an operation or a feature that does not fit a column."""
    return DatasetError(
        "TYPE_UNFIT",
        f"feature {name!r} ({title}): column {name!r} is {column.name}; {error}",
        field=field,
    )
