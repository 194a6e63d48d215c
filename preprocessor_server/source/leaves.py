"""The Parquet columns ("leaves") that the columns of the rows are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError
from preprocessor_server.source.nesting import RowSchema


@dataclass(frozen=True, slots=True)
class Leaf:
    """A Parquet column: its index in the file, its path, and what its values belong to.

    nested says that a row holds lists or structs of them, in_lists that the rows' own lists do.
    """

    index: int
    path: str
    nested: bool
    in_lists: bool
    source: str


def leaves_of(
    name: str, schema: pa.Schema, metadata: pq.FileMetaData, columns: RowSchema
) -> list[Leaf]:
    """The leaves of the given columns in a file that has them.

    Leaves stand in the order of the schema. Nothing is read from their names: what a writer calls
    the element of a list ("element", "item", "array") differs. Raises DataError if the file's
    schemas do not fit each other.
    """
    firsts: dict[str, int] = {}
    total = 0
    for field in schema:
        firsts.setdefault(field.name, total)
        total += _leaf_count(field.type)
    if total != metadata.num_columns:
        raise DataError(
            "COLUMN_TYPE_MISMATCH",
            f"file {name!r} has {metadata.num_columns} Parquet columns, but the schema written "
            f"with them has {total}; write it again",
        )
    leaves = []
    parquet = metadata.schema
    for column in columns.columns:
        first = firsts[column.source]
        if column.field is not None:
            struct = schema.field(column.source).type.value_type
            before = struct.get_field_index(column.field)
            first += _total(struct.field(i).type for i in range(before))
        nested = pa.types.is_nested(column.type)
        leaves += [
            Leaf(i, parquet.column(i).path, nested, column.in_lists, column.source)
            for i in range(first, first + _leaf_count(column.type))
        ]
    return leaves


def _leaf_count(kind: pa.DataType) -> int:
    if kind.num_fields == 0 and not isinstance(kind, pa.BaseExtensionType):
        return 1
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf_count(kind.storage_type)
    if pa.types.is_struct(kind):
        return _total(field.type for field in kind)
    if pa.types.is_map(kind):
        return _leaf_count(kind.key_type) + _leaf_count(kind.item_type)
    if pa.types.is_nested(kind):
        return _leaf_count(kind.value_type)
    return 1


def _total(kinds: Iterable[pa.DataType]) -> int:
    return sum(map(_leaf_count, kinds))
