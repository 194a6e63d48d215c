"""String columns read as dictionaries hold what the file says, or are read without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessor_server.budget import MemoryBudget
from preprocessor_server.catalog import Catalog
from preprocessor_server.frame import Flat, as_lists
from preprocessor_server.kept import KeptWindow
from preprocessor_server.plan.identity import ENCODING_VERSION, Identity, Split
from preprocessor_server.settings import Settings
from preprocessor_server.source.footer import decoded_bytes
from preprocessor_server.telemetry import Metrics
from preprocessor_server.window import prepare_window
from tests.fakes.splits import all_leaves, read_rows
from trainer_client import Dataset, Dense, Sparse, ops, parquet

ROWS = 20_000
FEW = [f"value_{i % 7}" for i in range(ROWS)]
NULLS = [None if i % 3 else f"value_{i % 7}" for i in range(ROWS)]
MANY = [f"value_{i:06}" for i in range(ROWS)]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def is_coded(table: pa.Table) -> dict[str, bool]:
    return {field.name: pa.types.is_dictionary(field.type) for field in table.schema}


@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
@pytest.mark.parametrize("checksums", [True, False])
def test_strings_are_read_as_the_dictionaries_they_are(
    tmp_path: Path, compression: str, version: str, checksums: bool
) -> None:
    columns = {"few": FEW, "nulls": NULLS, "many": MANY, "none": pa.nulls(ROWS, pa.string())}
    path = write(
        tmp_path / "x.parquet",
        columns,
        compression=compression,
        version=version,
        write_page_checksum=checksums,
    )
    table = read_rows(path)
    assert table.to_pydict() == pa.table(columns).to_pydict()
    assert is_coded(table) == dict.fromkeys(columns, True)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()], ids=str
)
def test_whatever_strings_a_schema_names(tmp_path: Path, kind: pa.DataType) -> None:
    few = pa.array(NULLS).cast(kind)
    table = read_rows(write(tmp_path / "x.parquet", {"few": few}))
    assert is_coded(table) == {"few": True}
    assert table["few"].to_pylist() == few.to_pylist()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([i % 7 for i in range(ROWS)]),
        pa.array([[value] for value in FEW]),
        pa.array(FEW).cast(pa.string_view()),
        pa.array([b"four"] * ROWS, pa.binary(4)),
        pa.array([i % 7 for i in range(ROWS)]).cast(pa.decimal128(38, 2)),
    ],
    ids=lambda column: str(column.type),
)
def test_other_columns_are_read_as_they_are(tmp_path: Path, column: pa.Array) -> None:
    path = write(tmp_path / "x.parquet", {"x": column}, store_decimal_as_integer=False)
    table = read_rows(path)
    assert is_coded(table) == {"x": False}
    assert table["x"].to_pylist() == column.to_pylist()


def test_pages_that_fell_back_to_plain_values_are_read_as_they_are(tmp_path: Path) -> None:
    options = {"dictionary_pagesize_limit": 1000, "data_page_size": 1000}
    late = ["value"] * 15_000 + MANY[:2_000] + ["value"] * 2_000 + MANY[2_000:3_000]
    path = write(tmp_path / "x.parquet", {"x": late, "y": MANY}, **options)
    assert pq.read_metadata(path).row_group(0).column(0).has_dictionary_page
    table = read_rows(path)
    assert is_coded(table) == {"x": False, "y": False}
    assert table.to_pydict() == {"x": late, "y": MANY}


def test_a_part_of_a_row_group_has_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"nulls": NULLS})
    assert read_rows(path, 5_000, 9_000)["nulls"].to_pylist() == NULLS[5_000:14_000]


def test_a_part_of_a_row_group_that_is_kept_has_its_own_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"nulls": NULLS, "many": MANY})
    window = KeptWindow(MemoryBudget(64 << 20), 32 << 20)
    table = read_rows(path, 5_000, 900, window)
    assert window.used > 0
    assert table.to_pydict() == {"nulls": NULLS[5_000:5_900], "many": MANY[5_000:5_900]}
    assert is_coded(table) == {"nulls": True, "many": False}
    assert table.nbytes < 30 * 900


@pytest.mark.parametrize("other", [b"value_0", b"value_6"])
def test_a_dictionary_that_names_a_value_twice(tmp_path: Path, other: bytes) -> None:
    path = write(tmp_path / "x.parquet", {"few": FEW}, compression="none", write_statistics=False)
    content = path.read_bytes()
    assert content.count(b"value_3") == 1
    path.write_bytes(content.replace(b"value_3", other))
    table = read_rows(path)
    assert is_coded(table) == {"few": False}
    assert table["few"].to_pylist() == [value.replace("value_3", other.decode()) for value in FEW]


def test_a_dictionary_takes_up_no_more_than_estimated(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"few": FEW, "nulls": NULLS, "many": MANY})
    table = read_rows(path)
    assert all(is_coded(table).values())
    assert table.nbytes <= decoded_bytes(pq.read_metadata(path), 0, all_leaves(path))


def features_of(folder: Path, spec: Dataset) -> tuple[dict[str, list[Any]], list[int]]:
    """The features of a dataset's only split, and the rows in the order of delivery."""
    catalog = Catalog(Settings(data_root=(folder,)))
    try:
        dataset = catalog.describe(spec.to_proto())
        identity = Identity(7, 0, 1, 4096, True, 1, ENCODING_VERSION)
        split = Split(0, 0, 0, dataset.snapshot.message.row_group_rows[0])
        window = prepare_window(catalog.reader, dataset, [split], identity, Metrics())
    finally:
        catalog.close()
    columns = window.frame.expanded().columns
    lists = {name: as_lists(column) for name, column in columns.items()}
    content = {
        name: [column.offsets.tolist(), column.values.values.tolist()]
        for name, column in lists.items()
        if isinstance(column.values, Flat)
    }
    assert set(content) == set(columns)
    return content, window.rows.tolist()


def test_features_do_not_depend_on_how_strings_are_encoded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(rng.integers(0, 900, 2_500), 8)
    city = [None if u % 11 == 0 else f"city {u % 13}" for u in user]
    columns = {
        "user": pa.array([f"{u:08x}" for u in user]),
        "city": pa.array(city),
        "item": pa.array([None if i % 5 == 0 else f"item {i}" for i in rng.integers(0, 99, ROWS)]),
        "price": pa.array([f"{p}.5" for p in rng.integers(0, 9, ROWS)]),
        "raw": pa.array([bytes([b]) for b in rng.integers(0, 200, ROWS)], pa.binary()),
    }
    spec = Dataset(
        source=parquet("x.parquet", group_by=["user", "city"]),
        where="city <> 'city 3' OR city IS NULL",
        features=[
            Dense("price", ops=[ops.Cast("float32")]),
            Sparse("user", "item", "raw", ops=[ops.HashBucket(1 << 20)]),
            Sparse("city", ops=[ops.FillNull("nowhere"), ops.HashBucket(1 << 32)]),
        ],
    )
    path = tmp_path / "x.parquet"
    write(path, columns, use_dictionary=False)
    expected = features_of(tmp_path, spec)
    assert len(expected[1]) > 10_000
    for options in ({}, {"dictionary_pagesize_limit": 600, "data_page_size": 600}):
        write(path, columns, **options)
        assert any(is_coded(read_rows(path)).values())
        assert features_of(tmp_path, spec) == expected
