"""Whether the columns of rows have one that can be a key."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa

from preprocessor_server.errors import DatasetError
from preprocessor_server.transform.column_type import Family, column_type
from preprocessor_server.transform.invalid import invalid, shorten, suggest


def key_faults(
    field: str, name: str, schema: pa.Schema, families: Collection[Family], wanted: str
) -> Iterator[DatasetError]:
    """What keeps the column that a field names from being a key; nothing if nothing does.

    wanted says for people what keys are, of the families. Errors are DATASET_INVALID for a column
    that there is not, or not once, TYPE_UNFIT for one of another type.
    """
    count = schema.names.count(name)
    if count != 1:
        yield invalid(
            field,
            f"the source has {count} columns called {name!r}; rename all but one"
            if count
            else f"there is no column {name!r}; {suggest(name, schema.names)}",
        )
        return
    kind = column_type(schema.field(name).type)
    if kind is None or kind.is_list or kind.family not in families:
        yield DatasetError(
            "TYPE_UNFIT",
            f"{shorten(field)}: column {name!r} is {schema.field(name).type}; {wanted}",
            field=field,
        )
