"""Which columns rows can be grouped by."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.source.nesting import RowSchema
from preprocessor_server.transform.invalid import suggest


def group_by_faults(spec: dataset_pb2.DatasetSpec, source: RowSchema) -> Iterator[DatasetError]:
    """All that keeps a dataset's rows from being grouped by the columns that it names."""
    schema = source.schema
    in_lists = {column.name for column in source.columns if column.in_lists}
    for i, name in enumerate(spec.source.parquet.group_by):
        field = f"dataset.source.parquet.group_by[{i}]"
        if schema.get_field_index(name) < 0:
            yield DatasetError(
                "COLUMN_MISSING",
                f"group_by names column {name!r}, which the source does not have; "
                + suggest(name, schema.names),
                field=field,
            )
            continue
        kind = schema.field(name).type
        if not _is_comparable(kind):
            yield DatasetError(
                "TYPE_UNFIT",
                f"group_by column {name!r} is {kind}; group by numbers, booleans, strings, binary, "
                "dates or times (no float16)",
                field=field,
            )
        if name in in_lists:
            yield DatasetError(
                "TYPE_UNFIT",
                f"group_by column {name!r} lies in lists with one element a row; a group is made "
                "of whole Parquet rows, so group by columns that hold one value a Parquet row, or "
                "by none, which keeps the rows of each Parquet row together",
                field=field,
            )


def _is_comparable(kind: pa.DataType) -> bool:
    """Whether adjacent values of a column can be compared, for groups."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    is_float = pa.types.is_floating(kind) and not pa.types.is_float16(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_fixed = pa.types.is_fixed_size_binary(kind) or pa.types.is_boolean(kind)
    return is_number or is_float or is_text or is_binary or is_fixed or pa.types.is_temporal(kind)
