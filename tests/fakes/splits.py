"""Splits read from one file as a server reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from preprocessor_server.kept import KeptWindow
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.footer import Footer, FooterCache
from preprocessor_server.source.leaves import Leaf, leaves_of
from preprocessor_server.source.nesting import RowColumn, RowSchema
from preprocessor_server.source.paths import NamedFile, Roots
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.source.snapshot import take_snapshot


def footer_of(path: Path) -> Footer:
    """The footer of a file."""
    return FooterCache().read(NamedFile(path.name, path))


def flat_schema(schema: pa.Schema) -> RowSchema:
    """Every column of files whose Parquet rows are rows."""
    columns = (RowColumn(field.name, field.type, field.name) for field in schema)
    return RowSchema(tuple(columns), grouped=False)


def all_leaves(path: Path) -> list[Leaf]:
    """The leaves of all columns of a file."""
    footer = footer_of(path)
    return leaves_of(path.name, footer.schema, footer.metadata, flat_schema(footer.schema))


def read_rows(
    path: Path,
    first_row: int = 0,
    row_count: int | None = None,
    window: KeptWindow | None = None,
) -> pa.Table:
    """What the reader makes of some or all rows of a file's first row group.

    window keeps the row group where only a part of it is read.
    """
    roots, footers = Roots((path.parent,)), FooterCache()
    file = NamedFile(path.name, path)
    footer = footers.read(file)
    columns = flat_schema(footer.schema)
    with ThreadPoolExecutor(1) as pool:
        snapshot = take_snapshot([file], footer.schema, columns, footers, pool)
    count = footer.metadata.row_group(0).num_rows - first_row if row_count is None else row_count
    split = Split(0, 0, first_row, count)
    reader = SplitReader(roots, footers)
    if window is not None:
        reader = reader.sharing(window)
    return reader.read(snapshot, split, columns).rows
