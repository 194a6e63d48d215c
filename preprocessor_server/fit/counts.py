"""How often each value of a column occurs: exactly, on disk where memory does not hold it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessor_server.errors import DataError
from preprocessor_server.frame import Bytes, Flat, Opaque, Scalars
from preprocessor_server.transform.from_arrow import arrow_to_column, bytes_to_arrow

# Rows of the result that are in memory at once.
_RESULT_ROWS = 1 << 16


def count_values(values: Scalars) -> pa.Table:
    """The values that are not null, and how often each occurs: a part of what Counts adds up.

    Columns value, int64 or large_binary, and count, int64. Raises DataError (VALUE_OUT_OF_RANGE)
    for an integer above 2^63 - 1.
    """
    if isinstance(values, Opaque):
        distinct = arrow_to_column(values.array.dictionary)
        assert isinstance(distinct, Bytes)
        codes = values.array.indices.drop_null().to_numpy()
        counts = np.bincount(codes, minlength=len(distinct))
        table = pa.table({"value": bytes_to_arrow(distinct), "count": counts})
        return table.filter(pc.greater(table.column("count"), 0))
    if isinstance(values, Flat):
        numbers = values.values if values.valid is None else values.values[values.valid]
        if numbers.dtype == np.uint64 and len(numbers) and numbers.max() > np.iinfo(np.int64).max:
            raise DataError(
                "VALUE_OUT_OF_RANGE",
                f"{numbers.max()} is no int64, and a vocabulary lists int64; put a HashBucket in "
                "place of the vocabulary",
            )
        counted = pc.value_counts(pa.array(numbers.astype(np.int64, copy=False)))
    else:
        counted = pc.value_counts(bytes_to_arrow(values).drop_null())
    return pa.table({"value": counted.field("values"), "count": counted.field("counts")})


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted: distinct values, and how often all of them occur together."""

    distinct: int
    total: int


class Counts:
    """Adds counts up. What is held takes at most held_bytes; the rest lies in files in a folder."""

    def __init__(self, folder: Path, held_bytes: int) -> None:
        self._folder = folder
        self._held_bytes = held_bytes
        self._held: list[pa.Table] = []
        self._size = 0
        self._files: list[Path] = []

    def add(self, part: pa.Table) -> None:
        """Takes a part in, as count_values gives it."""
        self._held.append(part)
        self._size += part.nbytes
        if self._size > self._held_bytes:
            self._combine()
            if self._size > self._held_bytes // 2:
                self._spill()

    def _combine(self) -> None:
        summed = pa.concat_tables(self._held).group_by("value").aggregate([("count", "sum")])
        table = pa.table({"value": summed.column("value"), "count": summed.column("count_sum")})
        self._held, self._size = [table], table.nbytes

    def _spill(self) -> None:
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"{len(self._files)}.parquet"
        [table] = self._held
        pq.write_table(table, file, compression="lz4", write_statistics=False)
        self._files.append(file)
        self._held, self._size = [], 0

    def finish(
        self, memory_bytes: int, threads: int, min_count: int, max_size: int
    ) -> tuple[Counted, Iterator[pa.RecordBatch]]:
        """What was counted, and the values by count, the greatest first, then by value.

        Those that occur at least min_count times, the first max_size of them (0: all), in batches
        of value and count. DuckDB adds the files up in memory_bytes, beyond them on disk.
        """
        if self._held:
            self._combine()
            self._spill()
        if not self._files:
            return Counted(0, 0), iter(())
        self._folder.joinpath("duckdb").mkdir()
        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": str(threads),
                "memory_limit": f"{memory_bytes // 1000}KB",
                "temp_directory": str(self._folder / "duckdb"),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
            },
        )
        connection.execute(
            "CREATE TEMP TABLE counted AS SELECT value, sum(count)::BIGINT AS count "
            "FROM read_parquet($1) GROUP BY value",
            [list(map(str, self._files))],
        ).fetchall()
        [found] = connection.execute(
            "SELECT count(*), coalesce(sum(count), 0)::BIGINT FROM counted"
        ).fetchall()
        limit = f"LIMIT {max_size}" if max_size else ""
        listed = connection.sql(
            f"SELECT value, count FROM counted WHERE count >= {min_count} "  # noqa: S608
            f"ORDER BY count DESC, value {limit}"
        )
        return Counted(*found), _batches(connection, listed)


def _batches(
    connection: duckdb.DuckDBPyConnection, listed: duckdb.DuckDBPyRelation
) -> Iterator[pa.RecordBatch]:
    with connection:
        yield from listed.to_arrow_reader(_RESULT_ROWS)
