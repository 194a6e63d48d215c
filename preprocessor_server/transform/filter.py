"""A dataset's filter: checked once, then evaluated on tables of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.errors import DataError, DatasetError, raising
from preprocessor_server.frame import Flat, Mask
from preprocessor_server.transform import duck
from preprocessor_server.transform.column_type import Family, column_type
from preprocessor_server.transform.filter_syntax import (
    TABLE,
    Expression,
    filter_invalid,
    parse_filter,
)
from preprocessor_server.transform.from_arrow import arrow_to_column

_MAX_DECIMAL_DIGITS = 38


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter bound to a source schema; safe from any thread.

    columns are the source columns that it needs, in the order of the source schema.
    """

    where: str
    columns: tuple[str, ...]
    expression: Expression

    def mask(self, table: pa.Table) -> Mask:
        """Which rows the expression is true for (neither false nor null), bool [rows].

        table holds at least the filter's columns. Raises DataError (FILTER_FAILED) if a row's
        values make the expression fail.
        """
        operands = _operands(self.expression, table)
        sql = f"SELECT coalesce({self.expression.sql}, false) AS keep FROM {TABLE}"  # noqa: S608
        try:
            with duck.cursor() as cursor:
                cursor.register(TABLE, operands)
                result = cursor.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise DataError(
                "FILTER_FAILED",
                f"the filter {self.where!r} cannot be evaluated on some row: "
                f"{_explain(error, self.columns)}; compare the column with a literal of its own "
                "type, or correct the data",
                field="dataset.where",
            ) from error
        keep = arrow_to_column(result.column("keep"))
        assert isinstance(keep, Flat)
        return keep.values.astype(np.bool_, copy=False)


def compile_filter(where: str, schema: pa.Schema) -> Filter | None:
    """Binds a filter to a source schema; None for an empty one, which keeps every row.

    Raises DatasetError (FILTER_INVALID) if it does not parse, is made of what is not supported,
    names no column, does not fit a column's type, or is not a boolean.
    """
    return next(raising(bind_filter(where, schema)), None)


def bind_filter(where: str, schema: pa.Schema) -> Iterator[Filter | DatasetError]:
    """The filter, or all that compile_filter refuses about it; nothing for an empty one."""
    if not where.strip():
        return
    for parsed in parse_filter(where, schema.names):
        if isinstance(parsed, DatasetError):
            yield parsed
            continue
        unfit = list(_unfit_columns(parsed, schema))
        yield from unfit
        if not unfit:
            yield _bind(where, parsed, schema)


def _unfit_columns(expression: Expression, schema: pa.Schema) -> Iterator[DatasetError]:
    for name in expression.columns:
        try:
            if name in expression.values:
                _check_comparable(name, schema.field(name).type)
            if name in expression.conditions:
                _check_condition(name, schema.field(name).type)
        except DatasetError as error:
            yield error


def _bind(where: str, expression: Expression, schema: pa.Schema) -> Filter | DatasetError:
    # A row of nulls, and not none: so that a literal that cannot be converted fails here.
    nulls = (
        schema.empty_table()
        if not expression.columns
        else pa.table({name: pa.nulls(1, schema.field(name).type) for name in expression.columns})
    )
    try:
        with duck.cursor() as cursor:
            cursor.register(TABLE, _operands(expression, nulls))
            cursor.execute(f"SELECT {expression.sql} AS keep FROM {TABLE}")  # noqa: S608
            (column,) = cursor.description or []
            cursor.fetchall()
    except duckdb.Error as error:
        return filter_invalid(
            f"{_explain(error, expression.columns)}; compare columns with literals of their type"
        )
    if str(column[1]) != "BOOLEAN":
        return filter_invalid(
            f"the expression is {column[1]}, not boolean; compare it with something"
        )
    return Filter(where, expression.columns, expression)


def _operands(expression: Expression, table: pa.Table) -> pa.Table:
    """The columns as DuckDB gets them, under the names c0, c1 and so on."""
    if not expression.columns:
        # DuckDB needs a column to count the rows by.
        return pa.table({"rows": pa.nulls(table.num_rows, pa.bool_())})
    operands = {}
    for index, name in enumerate(expression.columns):
        column = table.column(name)
        if name in expression.values:
            column = _comparable(column)
        else:
            # Only null or not matters, so columns of any type can be asked.
            column = pc.if_else(column.is_valid(), True, None)
        operands[f"c{index}"] = column
    return pa.table(operands)


def _check_comparable(name: str, arrow: pa.DataType) -> None:
    kind = column_type(arrow)
    if kind is None or kind.is_list:
        raise filter_invalid(
            f"column {name!r} is {arrow}, which can only be tested with IS NULL or IS NOT NULL"
        )
    value = arrow.value_type if pa.types.is_dictionary(arrow) else arrow
    if kind.family is Family.DECIMAL and value.precision > _MAX_DECIMAL_DIGITS:
        raise filter_invalid(
            f"column {name!r} is {arrow}; decimals of more than {_MAX_DECIMAL_DIGITS} digits can "
            "only be tested with IS NULL or IS NOT NULL"
        )

    if pa.types.is_duration(value) and value.unit == "ns":
        raise filter_invalid(
            f"column {name!r} is {arrow}; DuckDB compares durations in microseconds, so it can "
            "only be tested with IS NULL or IS NOT NULL"
        )


def _check_condition(name: str, arrow: pa.DataType) -> None:
    kind = column_type(arrow)
    if kind is None or kind.family not in {Family.BOOLEAN, Family.NULL}:
        raise filter_invalid(f"column {name!r} is {arrow}, not boolean; compare it with something")


def _explain(error: duckdb.Error, columns: tuple[str, ...]) -> str:
    """DuckDB's message without its copy of the statement, with the source's column names."""
    message = str(error).partition("\n")[0]
    return re.sub(r"\bcolumn c(\d+)\b", lambda match: f"column {columns[int(match[1])]!r}", message)


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type that DuckDB has."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    if pa.types.is_decimal(column.type):
        return column.cast(pa.decimal128(column.type.precision, column.type.scale))
    return column
