"""Splits to Arrow tables: the needed columns of a range of rows of one row group."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError, ServerError
from preprocessor_server.kept import KeptValues, KeptWindow
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.bounds import row_group_bounds
from preprocessor_server.source.chunk_bytes import ChunkBytes
from preprocessor_server.source.chunk_decoder import Shapes, decode_chunk
from preprocessor_server.source.chunk_form import chunk_form
from preprocessor_server.source.file_leaves import FileLeaves, LeavesCache
from preprocessor_server.source.footer import Footer, FooterCache, decoded_bytes
from preprocessor_server.source.inner_rows import METADATA_KEY, REMEDY
from preprocessor_server.source.leaves import Leaf
from preprocessor_server.source.nesting import RowColumn, RowSchema
from preprocessor_server.source.pages import decoding
from preprocessor_server.source.paths import NamedFile, Roots, stat_file
from preprocessor_server.source.snapshot import Snapshot
from preprocessor_server.source.split_table import SplitTable, flatten, split_table
from preprocessor_server.stage_clock import count_bytes, count_parts, within

# Rows decoded at once where only a part of a row group is wanted.
_STEP_ROWS = 8192
_RANGE_BUFFER_BYTES = 1 << 20


class SplitReader:
    """Reads splits of a snapshot's files, as long as they are what the snapshot recorded."""

    def __init__(self, roots: Roots, footers: FooterCache) -> None:
        self._roots = roots
        self._footers = footers
        self._leaves = LeavesCache()
        self._kept: KeptValues[pa.Table] | None = None

    def sharing(self, window: KeptWindow) -> SplitReader:
        """A reader like this one that keeps row groups whose parts are read apart."""
        reader = SplitReader(self._roots, self._footers)
        reader._leaves = self._leaves
        reader._kept = KeptValues(window)
        return reader

    def read(self, snapshot: Snapshot, split: Split, columns: RowSchema) -> SplitTable:
        """The rows of a split, the given columns only.

        Raises DataError if the file has changed since the snapshot, a page cannot be decoded, or
        its rows are not as many as the snapshot says; DeploymentError if this server lacks the
        codec of a column.
        """
        name = snapshot.message.files[split.file].path
        file = NamedFile(name, self._roots.resolve(name))
        self._check_unchanged(snapshot, split.file, file)
        try:
            table, rows_before, rows = self._decode(snapshot, split, columns, file)
        except (ServerError, IndexError):
            # What is wrong with a file that was replaced meanwhile is that it was. Another footer
            # may lack the row group.
            self._check_unchanged(snapshot, split.file, file)
            raise
        self._check_unchanged(snapshot, split.file, file)
        if table.num_rows != split.row_count:
            raise DataError(
                "FILE_CORRUPT",
                f"{describe_split(snapshot, split)}: its pages hold {table.num_rows} of the "
                f"{split.row_count} rows that the footer promises; write the file again",
            )
        count_bytes("decode", table.get_total_buffer_size())
        group = describe_row_group(snapshot, split)
        with within("decode"):
            result = split_table(table, columns, group, split.first_row)
        if columns.grouped and split.first_row + split.row_count == rows:
            _check_count(snapshot, split, rows_before + result.rows.num_rows)
        return result

    def footer(self, snapshot: Snapshot, file: int) -> Footer:
        """The footer of a file. Raises DataError if the file has changed since the snapshot."""
        name = snapshot.message.files[file].path
        named = NamedFile(name, self._roots.resolve(name))
        footer = self._footers.read(named)
        self._check_unchanged(snapshot, file, named)
        return footer

    def bounds(self, snapshot: Snapshot, file: int, columns: Sequence[RowColumn]) -> pa.Table:
        """What the footer of a file says of columns: see row_group_bounds.

        Raises DataError if the file has changed since the snapshot.
        """
        name = snapshot.message.files[file].path
        return row_group_bounds(name, self.footer(snapshot, file), columns)

    def check_unchanged(self, snapshot: Snapshot, file: int) -> None:
        """Raises DataError (SNAPSHOT_CHANGED) if a file is not what the snapshot recorded."""
        name = snapshot.message.files[file].path
        self._check_unchanged(snapshot, file, NamedFile(name, self._roots.resolve(name)))

    def _decode(
        self, snapshot: Snapshot, split: Split, columns: RowSchema, file: NamedFile
    ) -> tuple[pa.Table, int, int]:
        """The Parquet rows of a split, the rows before them, and the row group's Parquet rows."""
        footer = self._footers.read(file)
        first = snapshot.message.files[0].path
        leaves = self._leaves.find(file.name, footer, columns, first)
        paths = [leaf.path for leaf in leaves.leaves]
        rows: int = footer.metadata.row_group(split.row_group).num_rows
        with decoding(describe_split(snapshot, split)):
            if split.first_row == 0 and split.row_count == rows:
                return _read_whole(file.real, footer, split.row_group, leaves), 0, rows
            lists = next((c.source for c in columns.columns if c.in_lists), None)
            key = (snapshot.id, split.file, split.row_group, *paths)
            whole = self._whole(key, file.real, footer, split.row_group, leaves)
            if whole is not None and whole.num_rows == rows:
                return *_part(whole, split, lists), rows
            # Page by page, never all of its chunks at once.
            with (
                within("decode", waits=True),
                _open(file.real, footer.metadata, buffer_size=_RANGE_BUFFER_BYTES) as parquet,
            ):
                return *_read_range(parquet, split, paths, lists), rows

    def _whole(
        self,
        key: Hashable,
        file: Path,
        footer: Footer,
        row_group: int,
        leaves: FileLeaves,
    ) -> pa.Table | None:
        """A row group of which a part is wanted, if there is room: others want the other parts."""
        if self._kept is None:
            return None
        return self._kept.get(
            key,
            decoded_bytes(footer.metadata, row_group, leaves.leaves),
            lambda: _read_whole(file, footer, row_group, leaves),
            lambda table: int(table.nbytes),
        )

    def _check_unchanged(self, snapshot: Snapshot, index: int, file: NamedFile) -> None:
        recorded = snapshot.message.files[index]
        now = stat_file(file)
        if (now.st_size, now.st_mtime_ns) != (recorded.size_bytes, recorded.mtime_ns):
            raise DataError(
                "SNAPSHOT_CHANGED",
                f"file {file.name!r} has changed since the snapshot {snapshot.id[:19]}… was taken "
                f"(then {recorded.size_bytes:,} bytes at {recorded.mtime_ns} ns, now "
                f"{now.st_size:,} bytes at {now.st_mtime_ns} ns); bring the file back, or take a "
                "new snapshot and start the epoch again",
            )


def describe_row_group(snapshot: Snapshot, split: Split) -> str:
    """Where the row group of a split is, for people."""
    return f"file {snapshot.message.files[split.file].path!r}, row group {split.row_group}"


def describe_split(snapshot: Snapshot, split: Split) -> str:
    """Where a split is, for people."""
    rows = "Parquet rows" if snapshot.grouped else "rows"
    last = split.first_row + split.row_count - 1
    return f"{describe_row_group(snapshot, split)}, {rows} {split.first_row}-{last}"


def _check_count(snapshot: Snapshot, split: Split, found: int) -> None:
    """Raises DataError if a row group's lists hold other than what the snapshot says."""
    group = snapshot.first_row_groups[split.file] + split.row_group
    promised = snapshot.message.row_group_inner_rows[group]
    if found != promised:
        raise DataError(
            "FILE_CORRUPT",
            f"{describe_row_group(snapshot, split)}: its lists hold {found:,} rows, but its "
            f"metadata ({METADATA_KEY!r}) or its statistics promise {promised:,}; {REMEDY}",
        )


def _open(file: Path, metadata: pq.FileMetaData, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, **options)


def _read_whole(file: Path, footer: Footer, row_group: int, leaves: FileLeaves) -> pa.Table:
    """The leaves of a row group, as they are decoded here where they can be, else by Arrow."""
    decoded: dict[str, pa.Array] = {}
    took_ns: dict[str, int] = {}
    shapes: Shapes = {}
    group = footer.metadata.row_group(row_group)
    with file.open("rb") as pages, within("decode", reads=True):
        forms = {
            leaf.source: form
            for leaf, of_leaf in zip(*leaves, strict=True)
            if of_leaf is not None
            and (form := chunk_form(of_leaf, group, footer.size_bytes)) is not None
        }
        chunks = ChunkBytes(pages.fileno(), forms.values())
        for name, form in sorted(forms.items(), key=lambda entry: entry[1].start):
            chunk = chunks.read(form)
            # What is read together is no column's own.
            before_ns = time.perf_counter_ns()
            column = None if chunk is None else decode_chunk(chunk, form, shapes)
            if column is not None:
                decoded[name] = column
                took_ns[name] = time.perf_counter_ns() - before_ns
    left = [leaf for leaf in leaves.leaves if leaf.source not in decoded]
    if decoded and not left:
        count_parts("decode", took_ns)
        return pa.table(decoded)
    # It reads on threads of its own while this one waits.
    with within("decode", waits=True):
        before_ns = time.perf_counter_ns()
        table = _read_by_arrow(file, footer.metadata, row_group, left)
        took_ns[_together(left)] = time.perf_counter_ns() - before_ns
    count_bytes("read", sum(group.column(leaf.index).total_compressed_size for leaf in left))
    count_parts("decode", took_ns)
    if any(len(column) != table.num_rows for column in decoded.values()):
        # Its caller tells how many rows there should be.
        return table
    return pa.table(dict(zip(table.column_names, table.columns, strict=True)) | decoded)


def _together(leaves: Sequence[Leaf]) -> str:
    """Columns that are decoded together, in few words."""
    names = list(dict.fromkeys(leaf.source for leaf in leaves))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_by_arrow(
    file: Path, metadata: pq.FileMetaData, row_group: int, leaves: Sequence[Leaf]
) -> pa.Table:
    """The leaves of a row group."""
    with _open(file, metadata, pre_buffer=True) as parquet:
        paths = [leaf.path for leaf in leaves]
        return parquet.read_row_group(row_group, columns=paths, use_threads=False)


def _part(whole: pa.Table, split: Split, lists: str | None) -> tuple[pa.Table, int]:
    """As _read_range, of a row group that has been read; copied, so as not to hold on to it."""
    rows_before = 0
    if lists is not None:
        rows_before = int(flatten(whole.column(lists).slice(0, split.first_row))[1].sum())
    part = whole.take(np.arange(split.first_row, split.first_row + split.row_count))
    for index, column in enumerate(part.columns):
        kind = column.type
        if pa.types.is_dictionary(kind) and len(column.chunk(0).dictionary) > len(column):
            # It would hold on to what the other parts have.
            part = part.set_column(index, part.column_names[index], column.cast(kind.value_type))
    return part, rows_before


def _read_range(
    parquet: pq.ParquetFile, split: Split, paths: Sequence[str], lists: str | None
) -> tuple[pa.Table, int]:
    """The Parquet rows of a split, and the rows in its row group's lists before them.

    lists is the column whose lists count; without one there are none.
    """
    end = split.first_row + split.row_count
    position = rows_before = 0
    batches = []
    for batch in parquet.iter_batches(
        batch_size=_STEP_ROWS, row_groups=[split.row_group], columns=list(paths), use_threads=False
    ):
        start, stop = max(split.first_row - position, 0), min(end - position, batch.num_rows)
        if start and lists is not None:
            passed = batch.slice(0, start).column(batch.schema.get_field_index(lists))
            rows_before += int(flatten(pa.chunked_array([passed]))[1].sum())
        if start < stop:
            batches.append(batch.slice(start, stop - start))
        position += batch.num_rows
        if position >= end:
            break
    return pa.Table.from_batches(batches, None if batches else pa.schema([])), rows_before
