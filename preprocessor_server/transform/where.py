"""A dataset's filter beside its derived columns, which are made after it."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError, raising
from preprocessor_server.transform.filter import Filter, bind_filter
from preprocessor_server.transform.filter_syntax import filter_invalid


def compile_where(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema, stored: pa.Schema | None = None
) -> Filter | None:
    """Binds a dataset's filter to a schema without its derived columns; None for an empty one.

    stored are those of the columns that files hold, None if they hold all. Raises DatasetError
    (FILTER_INVALID) for what bind_filter says, and if it uses a derived column.
    """
    return next(raising(bind_where(spec, schema, stored)), None)


def bind_where(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema, stored: pa.Schema | None = None
) -> Iterator[Filter | DatasetError]:
    """The filter, or all that compile_where refuses about it; nothing for an empty one."""
    stored = schema if stored is None else stored
    later = []
    for derived in spec.derive:
        # Only those that it may name, so that no others are suggested.
        if derived.name and derived.name in spec.where and derived.name not in schema.names:
            later.append(derived.name)
            schema = schema.append(pa.field(derived.name, pa.null()))
    for bound in bind_filter(spec.where, schema, stored=stored):
        if isinstance(bound, DatasetError):
            yield bound
            continue
        derived_names = [name for name in bound.columns if name in later]
        for name in derived_names:
            yield filter_invalid(
                f"column {name!r} is derived, which is done after the filter, on the rows that it "
                "keeps; filter by the columns that it is made of, or make it by a UDF, which comes "
                "before"
            )
        if not derived_names:
            yield bound
