"""The rows of a split as Arrow has them: lists of rows laid end to end, without copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preprocessor_server.errors import DataError
from preprocessor_server.frame import Indices
from preprocessor_server.source.nesting import RowSchema


@dataclass(frozen=True, slots=True)
class SplitTable:
    """Columns of rows, and of Parquet rows where these hold more or less than one row.

    rows are the columns with one value a row. Of grouped files, parquet_rows are the columns with
    one value a Parquet row, lengths int64 [Parquet rows] the rows of each, and inverse int32
    [rows] leads from rows to Parquet rows. Of flat files both tables are the same, lengths and
    inverse None.
    """

    rows: pa.Table
    parquet_rows: pa.Table
    lengths: Indices | None = None
    inverse: npt.NDArray[np.int32] | None = None

    @property
    def parquet_row_count(self) -> int:
        """The Parquet rows of the split."""
        return self.rows.num_rows if self.lengths is None else len(self.lengths)

    def with_column(self, name: str, values: pa.Array) -> SplitTable:
        """The same rows with one more column, of one value a row."""
        rows = self.rows.append_column(name, values)
        return replace(
            self, rows=rows, parquet_rows=rows if self.lengths is None else self.parquet_rows
        )

    def at_rows(self, names: Sequence[str]) -> pa.Table:
        """The named columns with one value a row, whatever they are."""
        if self.inverse is None:
            return self.rows.select(list(names))
        inverse = pa.array(self.inverse)
        of_rows = set(self.rows.column_names)
        columns = {
            name: self.rows.column(name)
            if name in of_rows
            else self.parquet_rows.column(name).take(inverse)
            for name in names
        }
        return pa.table(columns)


def no_rows(columns: RowSchema, parquet_rows: int) -> SplitTable:
    """As many Parquet rows as given, none of which holds a row: of flat files, no row."""
    empty = columns.schema.empty_table()
    if not columns.grouped:
        return SplitTable(empty, empty)
    in_lists = [column.name for column in columns.columns if column.in_lists]
    others = [column.name for column in columns.columns if not column.in_lists]
    lengths = np.zeros(parquet_rows, np.int64)
    return SplitTable(empty.select(in_lists), empty.select(others), lengths, np.zeros(0, np.int32))


def split_table(table: pa.Table, columns: RowSchema, place: str, first_row: int) -> SplitTable:
    """The rows in a table of Parquet rows that has the columns' sources.

    place and first_row, the number of the table's first Parquet row, are for messages. Raises
    DataError (ROWS_UNEVEN) if the lists of a Parquet row differ in length.
    """
    if not columns.grouped:
        flat = table.select([column.source for column in columns.columns])
        return SplitTable(flat, flat)
    elements: dict[str, pa.ChunkedArray] = {}
    lengths, measured, offsets = np.zeros(0, np.int64), "", None
    for source in dict.fromkeys(c.source for c in columns.columns if c.in_lists):
        lists = table.column(source)
        if offsets is not None and _offsets(lists) == offsets:
            # The very lists whose lengths are known.
            elements[source] = pa.chunked_array([lists.chunk(0).flatten()])
            continue
        elements[source], found = flatten(lists)
        if not measured:
            lengths, measured, offsets = found, source, _offsets(lists)
        elif not np.array_equal(found, lengths):
            row = int(np.argmax(found != lengths))
            raise DataError(
                "ROWS_UNEVEN",
                f"{place}, Parquet row {first_row + row}: column {measured!r} holds a list of "
                f"{lengths[row]:,} elements, column {source!r} one of {found[row]:,}; both hold "
                "one element a row, so write the file again, or name only one of them in the "
                "source's rows",
            )
    of_rows = {
        column.name: _field(elements[column.source], column.field)
        for column in columns.columns
        if column.in_lists
    }
    of_parquet_rows = [column.name for column in columns.columns if not column.in_lists]
    return SplitTable(
        pa.table(of_rows),
        table.select(of_parquet_rows),
        lengths,
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    )


def _offsets(lists: pa.ChunkedArray) -> tuple[int, int] | None:
    """Where in memory the offsets of lists are, if these are in one piece and none is null."""
    if lists.num_chunks != 1 or lists.null_count or not pa.types.is_list(lists.type):
        return None
    chunk = lists.chunk(0)
    return chunk.buffers()[1].address, chunk.offset


def flatten(lists: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Indices]:
    """The elements of lists, laid end to end, and the length of each list; a null one has none."""
    parts = [_flatten(chunk) for chunk in lists.chunks]
    elements = pa.chunked_array([values for values, _ in parts], lists.type.value_type)
    lengths = np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in parts)])
    return elements, lengths


def _flatten(lists: pa.Array) -> tuple[pa.Array, Indices]:
    count = len(lists)
    if pa.types.is_fixed_size_list(lists.type):
        size = lists.type.list_size
        lengths = np.full(count, size, np.int64)
        values = lists.values.slice(lists.offset * size, count * size)
    elif count == 0:
        return lists.values.slice(0, 0), np.zeros(0, np.int64)
    else:
        offsets = lists.offsets.to_numpy().astype(np.int64)
        lengths = np.diff(offsets)
        values = lists.values.slice(offsets[0], offsets[-1] - offsets[0])
    if lists.null_count:
        valid = lists.is_valid().to_numpy(zero_copy_only=False)
        if lengths[~valid].any():
            # Arrow lets a null list stand for a range that is not empty.
            values = values.filter(pa.array(np.repeat(valid, lengths)))
        lengths = np.where(valid, lengths, 0)
    return values, lengths


def _field(elements: pa.ChunkedArray, field: str | None) -> pa.ChunkedArray:
    """The values of elements, or of a field of them; all fields of a null struct are null."""
    if field is None:
        return elements
    index = elements.type.get_field_index(field)
    parts = [
        chunk.flatten()[index] if chunk.null_count else chunk.field(index)
        for chunk in elements.chunks
    ]
    return pa.chunked_array(parts, elements.type.field(index).type)
