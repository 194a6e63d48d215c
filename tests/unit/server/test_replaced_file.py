"""A file that is replaced between two looks at it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.errors import DataError
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.footer import Footer, FooterCache
from preprocessor_server.source.paths import NamedFile, Roots
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.source.snapshot import take_snapshot
from tests.fakes.splits import flat_schema

ROWS = 100


class LateFooters(FooterCache):
    """Footers of files that are replaced just before they are looked at."""

    def __init__(self, replace: Callable[[Path], None]) -> None:
        super().__init__()
        self._replace = replace

    def read(self, file: NamedFile) -> Footer:
        """The footer of what the file has become."""
        self._replace(file.real)
        return super().read(file)


def not_parquet(path: Path) -> None:
    path.write_bytes(b"changed")


def fewer_row_groups(path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), path)


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"] * ROWS}), path, row_group_size=ROWS // 2)


@pytest.mark.parametrize("replace", [not_parquet, fewer_row_groups, other_columns])
def test_the_error_is_that_it_has_changed(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": range(ROWS)}), path, row_group_size=ROWS // 2)
    file, footers = NamedFile(path.name, path), FooterCache()
    schema = footers.read(file).schema
    columns = flat_schema(schema)
    with ThreadPoolExecutor(1) as pool:
        snapshot = take_snapshot([file], schema, columns, footers, pool)
    reader = SplitReader(Roots((tmp_path,)), LateFooters(replace))
    with pytest.raises(DataError, match="has changed since the snapshot"):
        reader.read(snapshot, Split(0, 1, 0, ROWS // 2), columns)
