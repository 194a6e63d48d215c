"""What footers say about the values of row groups: the least, the greatest, and nulls.

Bounds are taken from the footer only where the Parquet specification lets no doubt: of types whose
order it fixes, and values that stand in that order. https://parquet.apache.org/docs/file-format
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessor_server.source.footer import Footer
from preprocessor_server.source.leaves import leaves_of
from preprocessor_server.source.nesting import RowColumn, RowSchema

_UNITS = {"milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
_BINARY = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def row_group_bounds(name: str, footer: Footer, columns: Sequence[RowColumn]) -> pa.Table:
    """The bounds of columns with one value a row, one row a row group of a file.

    For column number n they are lo<n> and hi<n> of the column's type, between which all its values
    lie but NaN; none<n>, that all values are null; full<n>, that none is. Null: not known. Raises
    DataError if the file's schemas do not fit each other.
    """
    metadata = footer.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    result: dict[str, pa.Array] = {}
    for number, column in enumerate(columns):
        (leaf,) = leaves_of(name, footer.schema, metadata, RowSchema((column,), grouped=False))
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        chunks = [group.column(leaf.index) for group in groups]
        known = [chunk.statistics if chunk.is_stats_set else None for chunk in chunks]
        bounds = [_low_high(statistics, kind) for statistics in known]
        result[f"lo{number}"] = pa.array([low for low, _ in bounds], kind)
        result[f"hi{number}"] = pa.array([high for _, high in bounds], kind)
        nulls = [
            None if each is None or not each.has_null_count else each.null_count for each in known
        ]
        result[f"none{number}"] = pa.array(
            [
                None if count is None else count == chunk.num_values
                for count, chunk in zip(nulls, chunks, strict=True)
            ],
            pa.bool_(),
        )
        # In lists, writers count what stands for an empty one as they like.
        full = [None if count is None or leaf.in_lists else count == 0 for count in nulls]
        result[f"full{number}"] = pa.array(full, pa.bool_())
    return pa.table(result)


def _low_high(
    statistics: pq.Statistics | None, kind: pa.DataType
) -> tuple[pa.Scalar | None, pa.Scalar | None]:
    """The bounds of a column chunk, as scalars of its type; (None, None) if one is not known.

    That a string was cut makes it no worse a bound.
    """
    if statistics is None or not statistics.has_min_max:
        return None, None
    try:
        low = _scalar(statistics, "min", kind)
        high = _scalar(statistics, "max", kind)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
        # A value of another type than the column's, text that is not UTF-8.
        return None, None
    if low is None or high is None or pc.greater(low, high).as_py():
        return None, None
    return low, high


def _scalar(statistics: pq.Statistics, which: str, kind: pa.DataType) -> pa.Scalar | None:
    raw: Any = getattr(statistics, f"{which}_raw")
    if any(test(kind) for test in _BINARY):
        return pa.scalar(raw, kind)
    if any(test(kind) for test in _TEXT):
        return pa.scalar(raw.decode(), kind)
    if pa.types.is_floating(kind) and not pa.types.is_float16(kind):
        return None if math.isnan(raw) else pa.scalar(raw, kind)
    if pa.types.is_date32(kind):
        return pa.scalar(raw, kind)
    if pa.types.is_timestamp(kind):
        stored = json.loads(statistics.logical_type.to_json())
        unit = _UNITS.get(stored.get("timeUnit", ""))
        return None if unit is None else pa.scalar(raw, pa.timestamp(unit, kind.tz)).cast(kind)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        # Signed and scaled as the column's logical type says.
        return pa.scalar(getattr(statistics, which), kind)
    return None
