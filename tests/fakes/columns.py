"""Columns as plain Python values, and operations run on them in every way that columns are kept."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import ColumnType, column_type
from preprocessor_server.transform.ops import compile_op
from preprocessor_server.transform.place import Place
from trainer_client.ops import Op


def compiled(op: Op, arrow: pa.DataType) -> ColumnType:
    """The type that an operation makes of a column. Raises UnfitError if it does not fit."""
    given = column_type(arrow)
    assert given is not None
    return compile_op(op.to_proto(), given)[1]


def applied(op: Op, array: pa.Array) -> list[Any]:
    """What an operation makes of an array: a value a row, None for null, lists for lists.

    The dtype is checked to be the one that was promised.
    """
    given = column_type(array.type)
    assert given is not None
    step, promised = compile_op(op.to_proto(), given)
    column = step(arrow_to_column(array), Place("x", None))
    flat = column.values if isinstance(column, Jagged) else column
    assert isinstance(flat, Flat)
    assert flat.values.dtype == promised.dtype
    assert isinstance(column, Jagged) == promised.is_list
    return plain(column)


def plain(column: Column) -> list[Any]:
    """The values of a column: numbers, None for null, lists of these."""
    if isinstance(column, Jagged):
        values = plain(column.values)
        return [values[a:b] for a, b in itertools.pairwise(column.offsets.tolist())]
    assert isinstance(column, Flat)
    valid = np.ones(len(column), np.bool_) if column.valid is None else column.valid
    return [x if ok else None for x, ok in zip(column.values.tolist(), valid.tolist(), strict=True)]


def same(left: Any, right: Any) -> bool:
    """Equal, NaN to NaN and -0.0 to -0.0 only."""
    return repr(left) == repr(right)
