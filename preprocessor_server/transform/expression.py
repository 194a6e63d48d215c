"""An SQL expression over the columns of a row, bound to their types and evaluated by DuckDB."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.transform import duck
from preprocessor_server.transform.column_type import Family, column_type
from preprocessor_server.transform.filter_syntax import (
    TABLE,
    WHERE,
    Expression,
    Site,
    filter_invalid,
    parse_expression,
)

_MAX_DECIMAL_DIGITS = 38
_NULL_TESTS_ONLY = "can only be tested with IS NULL or IS NOT NULL"


@dataclass(frozen=True, slots=True)
class BoundExpression:
    """An expression bound to a source schema; safe from any thread. type is DuckDB's name of it."""

    text: str
    expression: Expression
    type: str

    def evaluate(self, table: pa.Table, form: str = "{}") -> pa.ChunkedArray:
        """Its value for each row of a table that holds at least its columns.

        form is SQL around the expression. Raises DataError (FILTER_FAILED) if a row's values make
        it fail.
        """
        expression = self.expression
        operands = comparable_columns(expression, table)
        sql = f"SELECT {form.format(expression.sql)} AS value FROM {TABLE}"  # noqa: S608
        try:
            return run(sql, operands)[0]
        except duckdb.Error as error:
            site = expression.site
            named = f"the filter {self.text!r}" if site == WHERE else f"{site.label} {self.text!r}"
            raise DataError(
                "FILTER_FAILED",
                f"{named} cannot be evaluated on some row: {_explain(error, expression.columns)}; "
                "compare the column with a literal of its own type, guard it (TRY_CAST, NULLIF, "
                "CASE WHEN), or correct the data",
                field=site.field,
            ) from error


def bind_expression(
    text: str, schema: pa.Schema, site: Site, *, truth: bool
) -> Iterator[BoundExpression | DatasetError]:
    """The expression over columns of a schema, or all that is wrong with it (FILTER_INVALID)."""
    for parsed in parse_expression(text, schema.names, site, truth=truth):
        if isinstance(parsed, DatasetError):
            yield parsed
            continue
        unfit = list(_unfit_columns(parsed, schema))
        yield from unfit
        if not unfit:
            yield _bind(text, parsed, schema)


def run(sql: str, operands: pa.Table) -> tuple[pa.ChunkedArray, ...]:
    """The columns that a SELECT makes of a table called TABLE, row by row."""
    with duck.cursor() as cursor:
        cursor.register(TABLE, operands)
        return tuple(cursor.sql(sql).to_arrow_table().columns)


def comparable_columns(expression: Expression, table: pa.Table) -> pa.Table:
    """The columns as DuckDB gets them, under the names c0, c1 and so on."""
    if not expression.columns:
        # DuckDB needs a column to count the rows by.
        return pa.table({"rows": pa.nulls(table.num_rows, pa.bool_())})
    operands = {}
    for index, name in enumerate(expression.columns):
        column = table.column(name)
        if name in expression.values or name in expression.lists:
            column = comparable(column)
        else:
            # Only null or not matters, so columns of any type can be asked.
            column = pc.if_else(column.is_valid(), True, None)
        operands[f"c{index}"] = column
    return pa.table(operands)


def comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type that DuckDB has."""
    plain = _plain(column.type)
    return column if plain == column.type else column.cast(plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _unfit_columns(expression: Expression, schema: pa.Schema) -> Iterator[DatasetError]:
    for name in expression.columns:
        kind = schema.field(name).type
        faults = []
        if name in expression.values:
            faults.append(_value_fault(name, kind))
        elif name in expression.lists:
            faults.append(_list_fault(name, kind))
        if name in expression.conditions:
            faults.append(_condition_fault(name, kind))
        fault = next((fault for fault in faults if fault), "")
        if fault:
            yield filter_invalid(fault, site=expression.site)


def _value_fault(name: str, arrow: pa.DataType) -> str:
    kind = column_type(arrow)
    if kind is None:
        return f"column {name!r} is {arrow}, which {_NULL_TESTS_ONLY}"
    if kind.is_list:
        return (
            f"column {name!r} is {arrow}, which can only be tested with IS NULL or IS NOT NULL, or "
            "handed to a function of lists, such as len, list_contains or list_max"
        )
    return _scalar_fault(name, arrow)


def _list_fault(name: str, arrow: pa.DataType) -> str:
    kind = column_type(arrow)
    if kind is not None and kind.is_list:
        return _scalar_fault(name, arrow.value_type, f"a list of {arrow.value_type}")
    return _value_fault(name, arrow)


def _scalar_fault(name: str, arrow: pa.DataType, shown: str = "") -> str:
    kind = column_type(arrow)
    shown = shown or str(arrow)
    value = arrow.value_type if pa.types.is_dictionary(arrow) else arrow
    if kind is None or kind.is_list:
        return f"column {name!r} is {shown}, which {_NULL_TESTS_ONLY}"
    if kind.family is Family.DECIMAL and value.precision > _MAX_DECIMAL_DIGITS:
        return (
            f"column {name!r} is {shown}; decimals of more than {_MAX_DECIMAL_DIGITS} digits "
            f"{_NULL_TESTS_ONLY}"
        )
    if pa.types.is_duration(value) and value.unit == "ns":
        return (
            f"column {name!r} is {shown}; DuckDB compares durations in microseconds, so it "
            f"{_NULL_TESTS_ONLY}"
        )
    return ""


def _condition_fault(name: str, arrow: pa.DataType) -> str:
    kind = column_type(arrow)
    if kind is None or kind.is_list or kind.family not in {Family.BOOLEAN, Family.NULL}:
        return f"column {name!r} is {arrow}, not boolean; compare it with something"
    return ""


def _bind(text: str, expression: Expression, schema: pa.Schema) -> BoundExpression | DatasetError:
    # A row of nulls, and not none: so that a literal that cannot be converted fails here.
    nulls = (
        schema.empty_table()
        if not expression.columns
        else pa.table({name: pa.nulls(1, schema.field(name).type) for name in expression.columns})
    )
    try:
        with duck.cursor() as cursor:
            cursor.register(TABLE, comparable_columns(expression, nulls))
            cursor.execute(f"SELECT {expression.sql} AS value FROM {TABLE}")  # noqa: S608
            (column,) = cursor.description or []
            cursor.fetchall()
    except duckdb.Error as error:
        return filter_invalid(
            f"{_explain(error, expression.columns)}; compare columns with literals of their type, "
            "or cast them",
            site=expression.site,
        )
    return BoundExpression(text, expression, str(column[1]))


def _explain(error: duckdb.Error, columns: tuple[str, ...]) -> str:
    """DuckDB's message without its copy of the statement, with the source's column names."""
    message = str(error).partition("\n")[0]
    # What it advises beyond that is not to be had here.
    message = re.split(r" Use TRY\(| You might need to add", message)[0].rstrip(".! ")
    return re.sub(
        r"(?<!['\w])(column )?c(\d+)\b",
        lambda match: (
            f"{match[1] or ''}{columns[int(match[2])]!r}"
            if int(match[2]) < len(columns)
            else match[0]
        ),
        message,
    )
