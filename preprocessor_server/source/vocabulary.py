"""Files of vocabularies: named by a dataset with the hash of their bytes, and read whole."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.kernels import MAX_LISTED
from preprocessor_server.source.paths import NamedFile, Roots, stat_file

VALUE = "value"


def read_vocabulary(roots: Roots, path: str, sha256: str, field: str) -> pa.Array:
    """The values that a file lists, in order: int64, or large_binary of strings and binary.

    None is null, and none stands twice. Raises DataError (FITTED_CHANGED) for a file with another
    hash; DatasetError or DataError that names the file for one that is no vocabulary.
    """
    file = NamedFile(path, roots.resolve(path, field))
    stat_file(file)
    content = file.real.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            "FITTED_CHANGED",
            f"vocabulary file {path!r} has the SHA-256 {found[:12]}…, but the dataset names "
            f"{sha256[:12]}…: it is another file; bring the one back that was fitted, or use the "
            "dataset.yaml that was written with it",
            field=field,
        )
    try:
        table = pq.read_table(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise DataError(
            "NOT_PARQUET",
            f"vocabulary file {path!r} is not Parquet ({str(error).splitlines()[0]}); name one "
            "that `preprocessor-server fit` wrote",
            field=field,
        ) from error
    if VALUE not in table.column_names:
        raise DataError(
            "COLUMN_MISSING",
            f"vocabulary file {path!r} has no column {VALUE!r}, which lists the values; it has "
            f"{', '.join(table.column_names) or 'none'}",
            field=field,
        )
    values = _values(table.column(VALUE), path, field)
    problem = _problem(values)
    if problem:
        raise DatasetError("DATASET_INVALID", f"vocabulary file {path!r} {problem}", field=field)
    return values


def _values(column: pa.ChunkedArray, path: str, field: str) -> pa.Array:
    kind = column.type
    target = pa.int64() if pa.types.is_integer(kind) else pa.large_binary()
    if not (pa.types.is_integer(kind) or kind in {pa.string(), pa.binary(), pa.large_string()}):
        raise DataError(
            "COLUMN_TYPE_MISMATCH",
            f"vocabulary file {path!r} lists {kind}; list integers, strings or binary",
            field=field,
        )
    try:
        column = column.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError("VALUE_OUT_OF_RANGE", f"vocabulary file {path!r}: {error}") from error
    return column.combine_chunks()


def _problem(values: pa.Array) -> str:
    if not len(values):
        return "lists no value; give at least one"
    if len(values) > MAX_LISTED:
        return f"lists {len(values):,} values; at most {MAX_LISTED:,} can be"
    if values.null_count:
        return "lists a null; leave it out"
    if pc.count_distinct(values).as_py() < len(values):
        counts = pc.value_counts(values)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        return f"lists {twice[0].as_py()!r} twice; list each value once"
    return ""
