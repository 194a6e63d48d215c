"""Which rows a report looks at, and what it finds in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headrace.v1 import dataset_pb2
from preprocessor_server.catalog import Binding, BoundDataset, Catalog
from preprocessor_server.plan.epoch import cut_row_groups
from preprocessor_server.plan.identity import Split
from preprocessor_server.report.column import ColumnFacts
from preprocessor_server.settings import Settings
from preprocessor_server.transform import Transform
from preprocessor_server.transform.ops.listed import ReadListed

DEFAULT_ROWS = 1_000_000
# Row groups that rows are taken from, where not all are read.
_PARTS = 16
_PART_BYTES = 128 << 20


@dataclass(slots=True)
class Stored:
    """How a column of the files is stored in the row groups that were looked at."""

    compressed_bytes: int
    uncompressed_bytes: int
    codecs: Counter[str]
    encodings: Counter[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What files hold: what their footers say, and what the rows that were read do.

    row_group_rows are the Parquet rows of every row group; parts says of how many of them rows were
    read. stored is by column of the files, over these row groups whole.
    """

    title: str
    files: int
    file_bytes: int
    created_by: tuple[str, ...]
    row_group_rows: Sequence[int]
    rows: int
    rows_read: int
    parts: int
    columns: tuple[ColumnFacts, ...]
    sources: tuple[str, ...]
    stored: dict[str, Stored]

    @property
    def share_read(self) -> float:
        """The share of the rows that was read."""
        return self.rows_read / self.rows


def gather(
    spec: dataset_pb2.DatasetSpec,
    title: str,
    settings: Settings,
    max_rows: int = DEFAULT_ROWS,
    report: Callable[[int], None] = lambda _: None,
) -> Report:
    """Looks at the source of a dataset: at all rows if they are no more than max_rows.

    Else at about so many: the first ones of row groups that are evenly spread. Filter, functions
    and operations play no part. report is told the rows of each part that is done.
    Raises ServerError as a server would.
    """
    # Features are evidence of what holds lists of rows.
    source = dataset_pb2.DatasetSpec(source=spec.source, features=spec.features)
    del source.source.parquet.group_by[:]
    catalog = Catalog(settings, None, Binding(lambda _: None, _every_column))
    try:
        dataset = catalog.describe(source)
        return _gather(catalog, dataset, title, max_rows, report)
    finally:
        catalog.close()


def _every_column(_: dataset_pb2.DatasetSpec, schema: pa.Schema, read: ReadListed) -> Transform:
    del read
    return Transform((), (), tuple(schema.names))


def _gather(
    catalog: Catalog,
    dataset: BoundDataset,
    title: str,
    max_rows: int,
    report: Callable[[int], None],
) -> Report:
    names = dataset.columns.schema.names
    columns = [ColumnFacts.of(column.name, column.type) for column in dataset.columns.columns]
    stored: dict[str, Stored] = {}
    created_by: set[str] = set()
    rows_read = 0
    looked_at: set[tuple[int, int]] = set()
    for split in parts_to_read(dataset, max_rows):
        table = catalog.reader.read(dataset.snapshot, split, dataset.columns).at_rows(names)
        rows_read += table.num_rows
        for facts in columns:
            facts.add(table.column(facts.name))
        if (split.file, split.row_group) not in looked_at:
            looked_at.add((split.file, split.row_group))
            metadata = catalog.reader.footer(dataset.snapshot, split.file).metadata
            created_by.add(str(metadata.created_by))
            _add_stored(stored, metadata.row_group(split.row_group))
        report(table.num_rows)
    snapshot = dataset.snapshot
    return Report(
        title=title,
        files=len(snapshot.message.files),
        file_bytes=sum(file.size_bytes for file in snapshot.message.files),
        created_by=tuple(sorted(created_by)),
        row_group_rows=list(snapshot.message.row_group_rows),
        rows=int(snapshot.row_groups.rows.sum()),
        rows_read=rows_read,
        parts=len(looked_at),
        columns=tuple(columns),
        sources=tuple(column.source for column in dataset.columns.columns),
        stored=stored,
    )


def parts_to_read(dataset: BoundDataset, max_rows: int) -> Iterator[Split]:
    """The splits that a report reads: all, or the beginnings of evenly spread row groups."""
    groups = dataset.snapshot.row_groups
    if int(groups.rows.sum()) <= max_rows:
        yield from cut_row_groups(groups, _PART_BYTES)
        return
    filled = np.flatnonzero(groups.parquet_rows)
    chosen = np.unique(np.linspace(0, len(filled) - 1, min(_PARTS, len(filled))).round())
    wanted = -(-max_rows // len(chosen))
    for place in filled[chosen.astype(np.int64)].tolist():
        parquet_rows, rows = int(groups.parquet_rows[place]), max(1, int(groups.rows[place]))
        size = max(1, int(groups.decoded_bytes[place]))
        share = min(1.0, wanted / rows, _PART_BYTES / size)
        count = max(1, int(parquet_rows * share))
        yield Split(int(groups.file[place]), int(groups.index[place]), 0, count)


def _add_stored(stored: dict[str, Stored], group: pq.RowGroupMetaData) -> None:
    for i in range(group.num_columns):
        chunk = group.column(i)
        name = chunk.path_in_schema.partition(".")[0]
        found = stored.setdefault(name, Stored(0, 0, Counter(), Counter()))
        found.compressed_bytes += chunk.total_compressed_size
        found.uncompressed_bytes += chunk.total_uncompressed_size
        found.codecs[chunk.compression] += 1
        found.encodings.update(set(chunk.encodings))
