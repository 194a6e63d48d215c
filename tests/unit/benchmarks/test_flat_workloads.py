"""criteo, wide and sequences: the stated shapes, exactly the rows asked for, seeded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks import workload_criteo, workload_sequences, workload_wide
from benchmarks.workload_criteo import criteo, hexadecimal, write_criteo
from benchmarks.workload_sequences import KEYS, LONGEST, write_sequences
from benchmarks.workload_wide import column_names, wide, write_wide
from trainer_client import Dataset

ROWS = 2_500
Writer = Callable[[Path, int, int], int]


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (workload_criteo, workload_wide, workload_sequences):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 1_000)


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def test_criteo_has_its_columns_and_types() -> None:
    table = pa.concat_tables(criteo(ROWS, seed=0))
    assert table.num_rows == ROWS
    names = ["label", *(f"dense_{k}" for k in range(13)), *(f"cat_{k}" for k in range(26))]
    assert table.column_names == names
    assert {table[f"dense_{k}"].type for k in range(13)} == {pa.int32()}
    for k, share in enumerate(workload_criteo.NULL_SHARES):
        column = table[f"dense_{k}"]
        assert column.null_count / ROWS == pytest.approx(share, abs=0.04)
        assert pc.min(column).as_py() >= 0


def test_criteo_categoricals_are_hexadecimal_strings_of_a_skewed_law() -> None:
    table = pa.concat_tables(criteo(20_000, seed=0))
    for k, cardinality in enumerate(workload_criteo.CARDINALITIES):
        column = table[f"cat_{k}"]
        assert column.type == pa.string()
        assert 0 < column.null_count < 0.05 * 20_000
        values = column.drop_null().to_pylist()
        assert all(re.fullmatch("[0-9a-f]{8}", value) for value in values[:100])
        assert len(set(values)) <= cardinality
    most = pc.max(pc.value_counts(table["cat_2"].drop_null()).field("counts")).as_py()
    assert most > 20_000 / 50


def test_hexadecimal_spells_numbers() -> None:
    numbers = np.array([0, 0xDEADBEEF, 16], np.uint32)
    assert hexadecimal(numbers).to_pylist() == ["00000000", "deadbeef", "00000010"]
    nulls = hexadecimal(numbers, np.array([False, True, False]))
    assert nulls.to_pylist() == ["00000000", None, "00000010"]
    assert nulls.null_count == 1


def test_wide_has_200_columns_of_756_bytes() -> None:
    names = column_names()
    assert len(names) == 200
    assert sum(np.dtype(dtype).itemsize for dtype in names.values()) == 756
    assert sum(name.startswith("read_") for name in names) == 40
    table = pa.concat_tables(wide(ROWS, seed=0))
    assert table.num_rows == ROWS
    assert dict(zip(table.column_names, map(str, table.schema.types), strict=True)) == {
        name: {"float16": "halffloat", "float32": "float", "float64": "double"}.get(dtype, dtype)
        for name, dtype in names.items()
    }


def test_sequences_are_a_quarter_of_their_maximum_long(tmp_path: Path) -> None:
    write_sequences(tmp_path / "out", 20_000)
    jagged, padded = (read(tmp_path / "out" / form) for form in ("jagged", "padded"))
    assert jagged["label"].equals(padded["label"])
    for name in KEYS:
        lengths = pc.list_value_length(jagged[name]).to_numpy()
        assert lengths.mean() == pytest.approx(LONGEST / 4, rel=0.05)
        assert lengths.max() == LONGEST
        assert set(pc.list_value_length(padded[name]).to_pylist()) == {LONGEST}
        kept = pc.list_flatten(padded[name])
        assert kept.filter(pc.not_equal(kept, 0)).equals(pc.list_flatten(jagged[name]))


@pytest.mark.parametrize("write", [write_criteo, write_wide])
def test_the_same_seed_gives_the_same_bytes_and_another_others(
    write: Writer, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written = write(tmp_path / name, 700, seed)
        assert written == sum(path.stat().st_size for path in (tmp_path / name).glob("*.parquet"))
    content = [(tmp_path / name / "part-00000.parquet").read_bytes() for name in "abc"]
    assert content[0] == content[1] != content[2]


@pytest.mark.parametrize("write", [write_criteo, write_wide])
@pytest.mark.parametrize("rows", [1, 1_000, 1_001, 2_500])
def test_rows_are_exact_over_files_and_row_groups(
    write: Writer, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (workload_criteo, workload_wide):
        monkeypatch.setattr(module, "FILE_ROWS", 2_000)
    write(tmp_path / "out", rows, 0)
    files = [pq.ParquetFile(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    counts = [
        file.metadata.row_group(k).num_rows for file in files for k in range(file.num_row_groups)
    ]
    assert sum(counts) == rows
    assert max(counts) <= 1_000
    assert len(files) == -(-rows // 2_000)


@pytest.mark.parametrize("write", [write_criteo, write_wide, write_sequences])
def test_the_dataset_beside_the_files_can_be_read(write: Writer, tmp_path: Path) -> None:
    write(tmp_path / "out", 10, 0)
    dataset = Dataset.from_yaml(tmp_path / "out" / "dataset.yaml")
    assert Path(dataset.source.paths[0]).is_relative_to(tmp_path.resolve())
    with pytest.raises(FileExistsError, match="not empty"):
        write(tmp_path / "out", 10, 0)
