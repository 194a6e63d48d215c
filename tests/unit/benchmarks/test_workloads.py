"""homefeed: the same rows in every layout, with the stated shapes and sizes."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks import workloads
from benchmarks.workloads import FORMS, LAYOUTS, VARIANTS, homefeed, scatter, write_homefeed
from trainer_client import Dataset

ROWS = 20_000
REQUEST_COLUMNS = ["request_id", "user_id", *(f"user_cat_{k}" for k in range(10))]
SEQUENCES = ["seq_pin_ids", "seq_board_ids", "seq_action"]


def digests(table: pa.Table) -> list[bytes]:
    """One digest a row, sorted."""
    names = sorted(table.column_names)
    columns: list[list[Any]] = [table[name].to_pylist() for name in names]
    rows = zip(*columns, strict=True)
    return sorted(hashlib.sha256(repr(row).encode()).digest() for row in rows)


def exploded(table: pa.Table) -> pa.Table:
    """The rows of a grouped table."""
    row_level = [name for name in table.column_names if name.startswith(("item_", "dense_"))]
    row_level.append("label")
    parents = pc.list_parent_indices(table["label"].combine_chunks())
    flat = {name: pc.list_flatten(table[name].combine_chunks()) for name in row_level}
    rest = table.drop_columns(row_level).take(parents)
    return pa.table({name: rest[name] for name in rest.column_names} | flat)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    # Small chunks and row groups, so that a small workload has several of both.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workloads, "CHUNK_ROWS", 7_000)
        patch.setattr(workloads, "ROW_GROUP_ROWS", 1_000)
        for layout in LAYOUTS:
            folders[layout] = tmp_path_factory.mktemp("homefeed") / layout
            write_homefeed(folders[layout], ROWS, layout=layout)
        folders["struct"] = tmp_path_factory.mktemp("homefeed") / "struct"
        write_homefeed(folders["struct"], ROWS, layout="grouped", form="struct")
    return folders


@pytest.fixture(scope="module")
def tables(written: dict[str, Path]) -> dict[str, pa.Table]:
    return {
        name: pa.concat_tables(
            [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
        ).combine_chunks()
        for name, folder in written.items()
    }


def test_every_layout_holds_the_same_rows(tables: dict[str, pa.Table]) -> None:
    clustered = digests(tables["clustered"])
    assert len(clustered) == len(set(clustered)) == ROWS
    assert digests(tables["logged"]) == clustered
    assert digests(exploded(tables["grouped"])) == clustered
    structs = tables["struct"]["impressions"].combine_chunks()
    fields = pa.Table.from_struct_array(structs.values)
    lists = {
        name: pa.ListArray.from_arrays(structs.offsets, fields[name].combine_chunks())
        for name in fields.column_names
    }
    requests = tables["struct"].drop_columns(["impressions"])
    whole = {name: requests[name] for name in requests.column_names} | lists
    assert digests(exploded(pa.table(whole))) == clustered


def test_clustered_is_sorted_and_logged_is_not(tables: dict[str, pa.Table]) -> None:
    def order(name: str) -> list[tuple[int, int]]:
        table = tables[name]
        return list(zip(table["user_id"].to_pylist(), table["request_id"].to_pylist(), strict=True))

    clustered, logged = order("clustered"), order("logged")
    assert clustered == sorted(clustered)
    adjacent = sum(a == b for a, b in itertools.pairwise(logged))
    assert adjacent < ROWS / 100


def test_one_row_of_the_grouped_layout_is_one_request(tables: dict[str, pa.Table]) -> None:
    grouped = tables["grouped"]
    ids = grouped["request_id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(set(tables["logged"]["request_id"].to_pylist()))
    lengths = pc.list_value_length(grouped["label"])
    for name in ("item_cat_0", "item_cat_15", "dense_0", "dense_12"):
        assert pc.list_value_length(grouped[name]).equals(lengths)


def test_what_is_of_a_request_is_equal_in_all_its_rows(tables: dict[str, pa.Table]) -> None:
    table = tables["logged"]
    seen: dict[int, str] = {}
    columns = [table[name].to_pylist() for name in REQUEST_COLUMNS + SEQUENCES]
    for row in zip(*columns, strict=True):
        assert seen.setdefault(row[0], repr(row)) == repr(row)


def test_row_groups_are_of_the_stated_size_and_compressed(written: dict[str, Path]) -> None:
    for layout, folder in written.items():
        files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
        assert len(files) == 3
        for file in files:
            groups = [file.metadata.row_group(k) for k in range(file.num_row_groups)]
            assert {group.column(0).compression for group in groups} == {"ZSTD"}
            key = b"headrace.row_group_rows"
            if layout in {"grouped", "struct"}:
                last = file.schema_arrow.names[-1]
                rows = [
                    len(pc.list_flatten(file.read_row_group(k, [last])[last]))
                    for k in range(file.num_row_groups)
                ]
                assert json.loads(file.metadata.metadata[key]) == rows
            else:
                assert key not in file.metadata.metadata
                rows = [group.num_rows for group in groups]
            assert max(rows) <= 1_031
            assert all(count > 900 for count in rows[:-1])


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_homefeed(tmp_path / name, 500, layout="logged", seed=seed)
    content = [(tmp_path / name / "part-00000.parquet").read_bytes() for name in "abc"]
    assert content[0] == content[1] != content[2]


def test_a_row_takes_about_1600_bytes_in_arrow(tables: dict[str, pa.Table]) -> None:
    assert 1_450 < tables["logged"].nbytes / ROWS < 1_750


@pytest.mark.parametrize(("variant", "low", "high"), [("mean16", 1, 31), ("skewed", 1, 64)])
def test_requests_have_16_rows_on_average(variant: str, low: int, high: int) -> None:
    (chunk,) = homefeed(200_000, variant=variant, seed=0)
    assert chunk.sizes.sum() == chunk.rows.num_rows == 200_000
    assert chunk.sizes.mean() == pytest.approx(16, rel=0.05)
    assert (chunk.sizes.min(), chunk.sizes.max()) == (low, high)


def test_the_fixed_variant_has_16_rows_in_every_request() -> None:
    (chunk,) = homefeed(16_000, variant="fixed16", seed=0)
    assert (chunk.sizes == 16).all()
    assert len(chunk.sizes) == 1_000


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 1_001])
def test_the_number_of_rows_is_exact(variant: str, rows: int) -> None:
    (chunk,) = homefeed(rows, variant=variant, seed=3)
    assert chunk.sizes.sum() == chunk.rows.num_rows == rows
    assert (chunk.sizes > 0).all()
    for form in FORMS:
        assert sum(table.num_rows for table in chunk.grouped(form)) == chunk.requests.num_rows


def test_values_follow_their_distributions() -> None:
    (chunk,) = homefeed(200_000, variant="mean16", seed=0)
    requests, rows = chunk.requests, chunk.rows
    assert pc.mean(rows["label"]).as_py() == pytest.approx(0.03, abs=0.003)
    dense = rows["dense_4"]
    assert dense.null_count / len(dense) == pytest.approx(0.05, abs=0.005)
    logs = np.log(dense.drop_null().to_numpy())
    assert (logs.mean(), logs.std()) == pytest.approx((0, 1), abs=0.02)
    user_cat = requests["user_cat_9"].to_numpy()
    assert user_cat.max() < 1 << 20
    assert user_cat.mean() == pytest.approx(1 << 19, rel=0.03)
    for name, longest in (("seq_pin_ids", 128), ("seq_board_ids", 64), ("seq_action", 128)):
        lengths = pc.list_value_length(requests[name]).to_numpy()
        assert (lengths.min(), lengths.max()) == (0, longest)
        assert lengths.mean() == pytest.approx(longest / 2, rel=0.03)
    assert set(pc.list_flatten(requests["seq_action"]).to_numpy()) == set(range(20))


@pytest.mark.parametrize(
    ("column", "support"), [("seq_pin_ids", 1_000_000), ("item_cat_7", 100_000)]
)
def test_ids_follow_zipfs_law_over_a_bounded_support(column: str, support: int) -> None:
    (chunk,) = homefeed(300_000, variant="mean16", seed=0)
    table = chunk.rows if column.startswith("item") else chunk.requests
    values = table[column].combine_chunks()
    ids = (pc.list_flatten(values) if column.startswith("seq") else values).to_numpy()
    assert ids.min() >= 0
    assert 1 << 39 < ids.max() < 1 << 40
    known = scatter(np.arange(support))
    assert np.isin(ids, known).all()
    weights = np.arange(1, support + 1, dtype=np.float64) ** -1.2
    for rank in (0, 1, 9):
        share = weights[rank] / weights.sum()
        assert (ids == known[rank]).mean() == pytest.approx(share, rel=0.1)


def test_scattered_ids_stay_distinct() -> None:
    assert len(np.unique(scatter(np.arange(1_000_000)))) == 1_000_000


@pytest.mark.parametrize("layout", ["logged", "clustered", "grouped", "struct"])
def test_the_dataset_beside_the_files_can_be_read(layout: str, written: dict[str, Path]) -> None:
    dataset = Dataset.from_yaml(written[layout] / "dataset.yaml")
    assert dataset.source.paths == (str(written[layout].resolve()),)
    assert dataset.source.group_by == (() if layout == "logged" else ("request_id",))
    form = "struct" if layout == "struct" else "lists"
    assert dataset.source.rows == tuple(FORMS[form])
    assert [feature.kind for feature in dataset.features] == ["dense", "sparse", "sparse", "label"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.parquet").write_bytes(b"")
    with pytest.raises(FileExistsError, match="not empty"):
        write_homefeed(tmp_path, 10, layout="logged")
