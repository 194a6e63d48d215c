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
    fit,
    ids,
    lists,
    lookup,
    numbers,
    one_hot,
    scaling,
    sequences,
)
from preprocessor_server.transform.ops.base import ColumnOp, Rule, UnfitError, on_values
from preprocessor_server.transform.ops.listed import ReadListed, read_no_file
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
    **one_hot.RULES,
    **fit.RULES,
}


def compile_op(
    op: dataset_pb2.Op, column: ColumnType, path: str = "", read: ReadListed = read_no_file
) -> tuple[ColumnOp, ColumnType]:
    """What an operation does to columns of a type, and the type that comes out.

    read reads the files that operations name; path is the operation's field. Raises UnfitError if
    it does not fit, ServerError as read does.
    """
    name = op.WhichOneof("op")
    assert name is not None
    if op.vocabulary.file:
        vocabulary = op.vocabulary
        listed = read(vocabulary.file, vocabulary.sha256, f"{path}.{name}.file")
        return lookup.look_up(listed, vocabulary, column)
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
