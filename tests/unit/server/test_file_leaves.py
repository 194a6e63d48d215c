"""Leaves that were found for one file are those of another only if that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.catalog import Catalog
from preprocessor_server.counting import count_rows
from preprocessor_server.errors import DataError
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.settings import Settings
from preprocessor_server.source.file_leaves import FileLeaves, LeavesCache
from preprocessor_server.source.nesting import RowSchema
from preprocessor_server.telemetry import Metrics
from tests.fakes.splits import flat_schema, footer_of
from trainer_client import Dataset, Sparse, parquet

TABLE = pa.table({"a": [1, 2], "b": [[1], [2, 3]], "c": [True, False]})
COLUMNS = flat_schema(TABLE.schema)


def find(
    cache: LeavesCache, path: Path, table: pa.Table, columns: RowSchema, **options: Any
) -> FileLeaves:
    pq.write_table(table, path, **options)
    return cache.find(path.name, footer_of(path), columns, "first.parquet")


def test_files_of_one_schema_have_the_same_leaves(tmp_path: Path) -> None:
    cache = LeavesCache()
    found = find(cache, tmp_path / "1.parquet", TABLE, COLUMNS)
    assert [leaf.path for leaf in found.leaves] == ["a", "b.list.element", "c"]
    assert [form is not None for form in found.forms] == [True, True, False]
    assert find(cache, tmp_path / "2.parquet", TABLE.slice(1), COLUMNS) is found


@pytest.mark.parametrize(
    ("table", "options", "paths"),
    [
        (TABLE, {"use_compliant_nested_type": False}, ["a", "b.list.item", "c"]),
        (TABLE.select(["c", "b", "a"]), {}, ["a", "b.list.element", "c"]),
    ],
    ids=["other names", "another order"],
)
def test_files_that_have_them_elsewhere(
    tmp_path: Path, table: pa.Table, options: dict[str, Any], paths: list[str]
) -> None:
    cache = LeavesCache()
    first = find(cache, tmp_path / "1.parquet", TABLE, COLUMNS)
    path = tmp_path / "2.parquet"
    found = find(cache, path, table, COLUMNS, **options)
    assert found is not first
    assert [leaf.path for leaf in found.leaves] == paths
    parquet = pq.read_schema(path).names
    assert [leaf.index for leaf in found.leaves] == [parquet.index(name) for name in "abc"]


def test_files_that_name_the_group_of_a_list_otherwise(tmp_path: Path) -> None:
    cache = LeavesCache()
    path = tmp_path / "1.parquet"
    find(cache, path, TABLE, COLUMNS)
    path.write_bytes(path.read_bytes().replace(b"\x04list", b"\x04bags"))
    found = cache.find(path.name, footer_of(path), COLUMNS, "first.parquet")
    assert [leaf.path for leaf in found.leaves] == ["a", "b.bags.element", "c"]


def test_files_of_other_types_that_parquet_keeps_the_same(tmp_path: Path) -> None:
    cache = LeavesCache()
    find(cache, tmp_path / "1.parquet", TABLE, COLUMNS)
    table = TABLE.set_column(0, "a", TABLE["a"].cast(pa.duration("s")))
    with pytest.raises(DataError) as caught:
        find(cache, tmp_path / "2.parquet", table, COLUMNS)
    assert caught.value.reason == "COLUMN_TYPE_MISMATCH"


def test_files_that_lack_a_column(tmp_path: Path) -> None:
    cache = LeavesCache()
    find(cache, tmp_path / "1.parquet", TABLE, COLUMNS)
    with pytest.raises(DataError) as caught:
        find(cache, tmp_path / "2.parquet", TABLE.drop_columns("c"), COLUMNS)
    assert caught.value.reason == "COLUMN_MISSING"
    assert "file '2.parquet'" in caught.value.message


def test_other_columns_have_other_leaves(tmp_path: Path) -> None:
    cache = LeavesCache()
    find(cache, tmp_path / "1.parquet", TABLE, COLUMNS)
    found = find(cache, tmp_path / "1.parquet", TABLE, COLUMNS.select({"b"}))
    assert [leaf.source for leaf in found.leaves] == ["b"]


def test_however_often_rows_are_counted_streams_keep_their_leaves(tmp_path: Path) -> None:
    path = tmp_path / "1.parquet"
    pq.write_table(TABLE, path)
    settings = Settings(data_root=(tmp_path,), cpu_threads=1)
    pipeline = Pipeline(settings, Catalog(settings), Metrics())
    dataset = Dataset(parquet(path.name), [Sparse("b")], where="a > 1")
    bound = pipeline.catalog.describe(dataset.to_proto())
    cache = pipeline.catalog.reader._leaves
    found = cache.find(path.name, footer_of(path), bound.columns, path.name)
    for _ in range(20):
        assert count_rows(pipeline, bound, 0, 0) == [1]
    assert cache.find(path.name, footer_of(path), bound.columns, path.name) is found
    pipeline.catalog.close()
    pipeline.close()
