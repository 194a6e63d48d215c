"""A column that an SQL expression over others gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.frame import Bytes, Column, Flat, Jagged, Opaque, Scalars
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.derive.base import Compute, Input, Rule, UnfitInputError
from preprocessor_server.transform.expression import bind_expression
from preprocessor_server.transform.filter_syntax import Site, named_columns, syntax_faults
from preprocessor_server.transform.from_arrow import arrow_to_column, bytes_to_arrow
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.place import Place

# What an expression may give, by DuckDB's name.
_TYPES = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
}
_SITE = Site("expression", "")


def _inputs(message: dataset_pb2.Expression) -> list[tuple[str, str]]:
    return [(name, "sql") for name in named_columns(message.sql)]


def _compile(
    message: dataset_pb2.Expression, inputs: Sequence[Input]
) -> tuple[Compute, pa.DataType]:
    for column in inputs:
        if column.type.is_list or column.type.arrow is None:
            raise UnfitInputError(
                column,
                "an expression takes columns of single values; make one of a list with an "
                "operation (ListAggregate, ListLength), or a column of the files",
            )
    schema = pa.schema([(column.name, column.type.arrow) for column in inputs])
    (bound,) = bind_expression(message.sql, schema, _SITE, truth=False)
    if isinstance(bound, DatasetError):
        raise UnfitInputError(inputs[0], bound.message)
    if bound.type not in _TYPES:
        raise UnfitInputError(
            inputs[0],
            f"the expression gives {bound.type}; cast it to one of {', '.join(_TYPES)}",
        )
    types = [column.type for column in inputs]

    def run(columns: Sequence[Column], place: Place) -> Column:
        arrays = [_to_arrow(column, kind) for column, kind in zip(columns, types, strict=True)]
        if place.inverse is not None:
            # Runs that no row refers to may hold anything.
            needed = np.zeros(len(arrays[0]), np.bool_)
            needed[place.inverse] = True
            arrays = [pc.if_else(pa.array(needed), array, None) for array in arrays]
        try:
            made = bound.evaluate(pa.table(arrays, schema.names))
        except DataError as error:
            raise error.at(place.feature) from error
        return arrow_to_column(made)

    return run, _TYPES[bound.type]


def _to_arrow(column: Column, kind: ColumnType) -> pa.Array:
    """The values of a column of single values, as Arrow has them."""
    assert not isinstance(column, Jagged)
    values: Scalars = column
    if isinstance(values, Opaque):
        return values.array
    if isinstance(values, Bytes):
        return bytes_to_arrow(values).cast(kind.arrow)
    assert isinstance(values, Flat)
    mask = None if values.valid is None else ~values.valid
    return pa.array(values.values, mask=mask).cast(kind.arrow)


def _check(message: dataset_pb2.Expression, path: str) -> Iterator[DatasetError]:
    field = f"{path}.sql"
    if not message.sql.strip():
        yield invalid(field, "the expression is empty; write one, such as label = 1")
        return
    faults = list(syntax_faults(message.sql, Site(shorten(field), field), truth=False))
    yield from faults
    if not faults and not named_columns(message.sql):
        yield invalid(field, "the expression names no column, so it is a constant; name one")


RULES = {"expression": Rule(_inputs, _compile, _check)}
