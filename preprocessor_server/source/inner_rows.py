"""How many rows the lists of a grouped file hold, row group by row group."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow.parquet as pq

from preprocessor_server.errors import DataError
from preprocessor_server.source.footer import Footer
from preprocessor_server.source.leaves import Leaf
from preprocessor_server.source.pages import decoding
from preprocessor_server.source.paths import NamedFile
from preprocessor_server.source.split_table import flatten

# The key in a file's metadata under which its writer may leave the counts: a JSON list of numbers.
METADATA_KEY = "headrace.row_group_rows"
REMEDY = (
    "it may have been copied from another file: write the file without it, or with the right "
    "counts, and take a new snapshot"
)


def count_inner_rows(file: NamedFile, footer: Footer, leaves: Sequence[Leaf]) -> list[int]:
    """The rows in the lists of each row group; leaves are those that will be read.

    What the file's metadata promises is taken as it is, and checked when the rows are read. A
    column whose footer says that none of its values is null proves its count. Else the lists'
    lengths are read. Raises DataError for metadata that contradicts the footer, or damaged pages.
    """
    in_lists = [leaf for leaf in leaves if leaf.in_lists]
    promised = _promised(file, footer.metadata, in_lists)
    if promised is not None:
        return promised
    groups = range(footer.metadata.num_row_groups)
    counts = [_proven(footer.metadata.row_group(group), in_lists) for group in groups]
    if all(count is not None for count in counts):
        return [count for count in counts if count is not None]
    with (
        decoding(f"file {file.name!r}"),
        pq.ParquetFile(
            file.real, metadata=footer.metadata, page_checksum_verification=True
        ) as parquet,
    ):
        return [
            _counted(parquet, file, group, in_lists) if count is None else count
            for group, count in zip(groups, counts, strict=True)
        ]


def _promised(
    file: NamedFile, metadata: pq.FileMetaData, leaves: Sequence[Leaf]
) -> list[int] | None:
    text = (metadata.metadata or {}).get(METADATA_KEY.encode())
    if text is None:
        return None
    try:
        counts = json.loads(text)
    except ValueError:
        counts = None
    groups = metadata.num_row_groups
    if not (
        isinstance(counts, list)
        and len(counts) == groups
        and all(type(count) is int and count >= 0 for count in counts)
    ):
        raise DataError(
            "FILE_CORRUPT",
            f"file {file.name!r}: its metadata {METADATA_KEY!r} is not a list of {groups} counts, "
            f"one a row group; {REMEDY}",
        )
    for group, count in enumerate(counts):
        least, most = _bounds(metadata.row_group(group), leaves)
        if not least <= count <= most:
            raise DataError(
                "FILE_CORRUPT",
                f"file {file.name!r}, row group {group}: its metadata {METADATA_KEY!r} promises "
                f"{count:,} rows, but its lists hold from {least:,} to {most:,}; {REMEDY}",
            )
    return counts


def _bounds(group: pq.RowGroupMetaData, leaves: Sequence[Leaf]) -> tuple[int, int]:
    """How many rows the lists of a row group may hold, by the lengths of its columns.

    An empty or null list counts as one value of its column.
    """
    least, most = 0, 1 << 62
    for leaf in leaves:
        if not leaf.nested:
            values = group.column(leaf.index).num_values
            least, most = max(least, values - group.num_rows), min(most, values)
    return least, most


def _proven(group: pq.RowGroupMetaData, leaves: Sequence[Leaf]) -> int | None:
    """The rows of a row group, if a column proves them: empty lists would be nulls to it."""
    if group.num_rows == 0:
        return 0
    for leaf in leaves:
        if leaf.nested:
            continue
        chunk = group.column(leaf.index)
        statistics = chunk.statistics if chunk.is_stats_set else None
        if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
            return int(chunk.num_values)
    return None


def _counted(parquet: pq.ParquetFile, file: NamedFile, group: int, leaves: Sequence[Leaf]) -> int:
    metadata = parquet.metadata.row_group(group)
    cheapest = min(leaves, key=lambda leaf: metadata.column(leaf.index).total_uncompressed_size)
    with decoding(f"file {file.name!r}, row group {group}"):
        lists = parquet.read_row_group(group, columns=[cheapest.path], use_threads=False).column(0)
    return int(flatten(lists)[1].sum())
