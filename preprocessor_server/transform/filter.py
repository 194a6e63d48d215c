"""A condition on rows, in SQL: checked once, then evaluated on tables of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Flat, Mask
from preprocessor_server.transform.expression import BoundExpression, bind_expression
from preprocessor_server.transform.filter_syntax import WHERE, Site, filter_invalid
from preprocessor_server.transform.from_arrow import arrow_to_column
from preprocessor_server.transform.pushdown import Pushdown, compile_pushdown


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter bound to a source schema; safe from any thread.

    columns are the source columns that it needs, in the order of the source schema. pushdown tests
    the bounds of row groups, None if they cannot prove anything.
    """

    where: str
    columns: tuple[str, ...]
    bound: BoundExpression
    pushdown: Pushdown | None

    def mask(self, table: pa.Table) -> Mask:
        """Which rows the expression is true for (neither false nor null), bool [rows].

        table holds at least the filter's columns. Raises DataError (FILTER_FAILED) if a row's
        values make the expression fail.
        """
        keep = arrow_to_column(self.bound.evaluate(table, "coalesce({}, false)"))
        assert isinstance(keep, Flat)
        return keep.values.astype(np.bool_, copy=False)


def bind_filter(
    where: str, schema: pa.Schema, site: Site = WHERE, stored: pa.Schema | None = None
) -> Iterator[Filter | DatasetError]:
    """Binds a filter to the columns of rows; nothing for an empty one, which keeps every row.

    stored are those of the columns that files hold, None if they hold all. Or all that is wrong:
    DatasetError (FILTER_INVALID) if it does not parse, is made of what is not supported, names no
    column, does not fit a column's type, or is not a boolean.
    """
    if not where.strip():
        return
    for bound in bind_expression(where, schema, site, truth=True):
        if isinstance(bound, DatasetError):
            yield bound
        elif bound.type != "BOOLEAN":
            yield filter_invalid(
                f"the expression is {bound.type}, not boolean; compare it with something",
                site=site,
            )
        else:
            pushdown = compile_pushdown(bound.expression, schema if stored is None else stored)
            yield Filter(where, bound.expression.columns, bound, pushdown)
