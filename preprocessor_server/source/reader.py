"""Splits to Arrow tables: the needed columns of a range of rows of one row group."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError, DeploymentError
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.footer import FooterCache, check_columns
from preprocessor_server.source.paths import NamedFile, Roots, stat_file
from preprocessor_server.source.snapshot import Snapshot

# Rows decoded at once where only a part of a row group is wanted.
_STEP_ROWS = 8192
_RANGE_BUFFER_BYTES = 1 << 20


class SplitReader:
    """Reads splits of a snapshot's files, as long as they are what the snapshot recorded."""

    def __init__(self, roots: Roots, footers: FooterCache) -> None:
        self._roots = roots
        self._footers = footers

    def read(self, snapshot: Snapshot, split: Split, columns: Sequence[str]) -> pa.Table:
        """The rows of a split, the named columns only, in that order.

        Raises DataError if the file has changed since the snapshot, or a page cannot be decoded;
        DeploymentError if this server lacks the codec of a column.
        """
        name = snapshot.message.files[split.file].path
        file = NamedFile(name, self._roots.resolve(name))
        self._check_unchanged(snapshot, split.file, file)
        footer = self._footers.read(file)
        first = snapshot.message.files[0].path
        expected = pa.schema([snapshot.schema.field(column) for column in columns])
        check_columns(name, footer.schema, expected, first)
        place = describe_split(snapshot, split)
        try:
            rows = footer.metadata.row_group(split.row_group).num_rows
            whole = split.first_row == 0 and split.row_count == rows
            with pq.ParquetFile(
                file.real,
                metadata=footer.metadata,
                page_checksum_verification=True,
                # A part of a row group is read page by page, never all of its chunks at once.
                buffer_size=0 if whole else _RANGE_BUFFER_BYTES,
                pre_buffer=whole,
            ) as parquet:
                if whole:
                    table = parquet.read_row_group(
                        split.row_group, columns=list(columns), use_threads=False
                    )
                else:
                    table = _read_range(parquet, split, columns, footer.schema)
        except pa.ArrowNotImplementedError as error:
            raise DeploymentError(
                "CODEC_UNSUPPORTED",
                f"{place}: this server cannot decode it ({error}); rewrite the file with ZSTD",
            ) from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._check_unchanged(snapshot, split.file, file)
            raise DataError(
                "FILE_CORRUPT",
                f"{place}: a page cannot be decoded ({error}); write the file again, or leave it "
                "out",
            ) from error
        self._check_unchanged(snapshot, split.file, file)
        if table.num_rows != split.row_count:
            raise DataError(
                "FILE_CORRUPT",
                f"{place}: its pages hold {table.num_rows} of the {split.row_count} rows that "
                "the footer promises; write the file again",
            )
        return table.select(list(columns))

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


def describe_split(snapshot: Snapshot, split: Split) -> str:
    """Where a split is, for people."""
    rows = f"rows {split.first_row}-{split.first_row + split.row_count - 1}"
    name = snapshot.message.files[split.file].path
    return f"file {name!r}, row group {split.row_group}, {rows}"


def _read_range(
    parquet: pq.ParquetFile, split: Split, columns: Sequence[str], schema: pa.Schema
) -> pa.Table:
    end = split.first_row + split.row_count
    position = 0
    batches = []
    for batch in parquet.iter_batches(
        batch_size=_STEP_ROWS,
        row_groups=[split.row_group],
        columns=list(columns),
        use_threads=False,
    ):
        start, stop = max(split.first_row - position, 0), min(end - position, batch.num_rows)
        if start < stop:
            batches.append(batch.slice(start, stop - start))
        position += batch.num_rows
        if position >= end:
            break
    wanted = [field for field in schema if field.name in columns]
    return pa.Table.from_batches(batches, None if batches else pa.schema(wanted))
