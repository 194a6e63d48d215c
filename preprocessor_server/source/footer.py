"""Parquet footers: what a file holds, without reading its rows."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.source.leaves import Leaf
from preprocessor_server.source.paths import NamedFile, stat_file

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
# What a list, a string or a validity bitmap costs beside its values, for every value.
_OFFSET_BYTES = 8


class Footer(NamedTuple):
    """The footer of one file, and the file's size and time when it was read."""

    metadata: pq.FileMetaData
    schema: pa.Schema
    size_bytes: int
    mtime_ns: int


class FooterCache:
    """Footers by file, size and time; the least recently used are dropped."""

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._footers: OrderedDict[tuple[str, int, int], Footer] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, file: NamedFile) -> Footer:
        """The footer of a file as it is now. Raises DataError if it is not Parquet."""
        stat = stat_file(file)
        key = (os.fspath(file.real), stat.st_size, stat.st_mtime_ns)
        with self._lock:
            footer = self._footers.get(key)
            if footer is not None:
                self._footers.move_to_end(key)
                return footer
        footer = _read(file, stat)
        with self._lock:
            self._footers[key] = footer
            while len(self._footers) > self._capacity:
                self._footers.popitem(last=False)
        return footer


def _read(file: NamedFile, stat: os.stat_result) -> Footer:
    if stat.st_size == 0:
        raise DataError("NOT_PARQUET", f"file {file.name!r} is empty (0 bytes); write it again")
    try:
        with pq.ParquetFile(file.real) as parquet:
            return Footer(
                parquet.metadata,
                parquet.schema_arrow.remove_metadata(),
                stat.st_size,
                stat.st_mtime_ns,
            )
    except PermissionError as error:
        raise DatasetError("PATH_UNREADABLE", f"file {file.name!r}: {error.strerror}") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "NOT_PARQUET",
            f"file {file.name!r} is not Parquet, or cut off ({stat.st_size:,} bytes): "
            f"{_first_line(error)}; write it again, or leave it out",
        ) from error


def decoded_bytes(metadata: pq.FileMetaData, row_group: int, leaves: Sequence[Leaf]) -> int:
    """An estimate of what the given leaves of a row group take up in memory, in bytes.

    Exact for numbers. Strings count as what they take up in the file; where a dictionary makes
    that less, each counts as the mean length of the smallest and the greatest, at least 16 bytes.
    """
    total = 0
    group = metadata.row_group(row_group)
    for leaf in leaves:
        chunk = group.column(leaf.index)
        width = _WIDTHS.get(chunk.physical_type)
        if width is None:
            length = max(16, _mean_length(chunk))
            total += max(chunk.total_uncompressed_size, length * chunk.num_values)
        else:
            total += width * chunk.num_values
        total += _OFFSET_BYTES * chunk.num_values if width is None or leaf.nested else 0
        total += _OFFSET_BYTES * group.num_rows if leaf.in_lists else 0
    return total


def _mean_length(chunk: pq.ColumnChunkMetaData) -> int:
    """A guess at the length of strings whose chunk holds each distinct one once, in bytes."""
    if not chunk.has_dictionary_page or not chunk.is_stats_set:
        return 0
    statistics = chunk.statistics
    if not statistics.has_min_max or not isinstance(statistics.min, str | bytes):
        return 0
    return (len(statistics.min) + len(statistics.max)) // 2


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
