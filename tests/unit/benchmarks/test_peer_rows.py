"""What peers do to homefeed in numpy gives what the server's kernels give; checksums tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers import homefeed
from benchmarks.peers.arrow_columns import to_batch, to_rows
from benchmarks.peers.arrow_rows import packed, unpacked
from benchmarks.peers.checksum import Checksum, differences
from benchmarks.peers.homefeed import COLUMNS, DENSE, KEYS, LABEL, SEQUENCES, TAIL, RowBatch
from benchmarks.workloads import write_homefeed
from preprocessor_server import kernels

ROWS = 3_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = {}
    for layout in ("logged", "clustered", "grouped"):
        written[layout] = tmp_path_factory.mktemp("homefeed") / layout
        write_homefeed(written[layout], ROWS, layout=layout)
    return written


def table_of(folder: Path) -> pa.Table:
    return pq.read_table(folder / "part-00000.parquet", columns=list(COLUMNS))


@pytest.fixture(scope="module")
def rows(folders: dict[str, Path]) -> pa.RecordBatch:
    (batch,) = table_of(folders["logged"]).combine_chunks().to_batches()
    return batch


def delivered(folder: Path, size: int = 512) -> list[RowBatch]:
    tables = homefeed.row_groups(homefeed.splits(folder), threads=False)
    return [homefeed.transform(rows) for rows in homefeed.batches(tables, size)]


def checksum(batches: Sequence[RowBatch]) -> Checksum:
    total = Checksum()
    for batch in batches:
        total.add(batch)
    return total


def of_key(batch: RowBatch, key: str) -> list[npt.NDArray[np.int64]]:
    """The lists of one feature."""
    lists = np.split(batch.values, np.cumsum(batch.lengths))[:-1]
    first = KEYS.index(key) * len(batch)
    return lists[first : first + len(batch)]


def test_ids_are_hashed_as_the_server_hashes_them() -> None:
    values = np.random.default_rng(0).integers(-(1 << 63), (1 << 63) - 1, 100_000)
    values[:3] = 0, -1, (1 << 63) - 1
    expected = kernels.hash_integers(values, 1 << homefeed.BUCKET_BITS, 0)
    homefeed.hash_in_place(values)
    np.testing.assert_array_equal(values, expected)


def test_scalars_and_sequences_become_what_the_server_makes_of_them(rows: pa.RecordBatch) -> None:
    batch = homefeed.transform(rows)
    assert len(batch) == ROWS
    for key in KEYS:
        for given, got in zip(rows.column(key).to_pylist(), of_key(batch, key), strict=True):
            kept = given[-TAIL:] if key in SEQUENCES else [given]
            expected = kernels.hash_integers(np.array(kept, np.int64), 1 << 20, 0)
            np.testing.assert_array_equal(got, expected)


def test_dense_values_are_the_servers_within_the_tolerance(rows: pa.RecordBatch) -> None:
    dense = homefeed.transform(rows).dense
    for k, name in enumerate(DENSE):
        values = np.nan_to_num(rows.column(name).to_numpy(zero_copy_only=False), nan=0.0)
        np.testing.assert_allclose(dense[:, k], kernels.log1p(values), rtol=1e-6)


def test_labels_are_floats(rows: pa.RecordBatch) -> None:
    labels = homefeed.transform(rows).labels
    assert labels.dtype == np.float32
    assert labels.tolist() == rows.column(LABEL).to_pylist()


@pytest.mark.parametrize("size", [1, 512, ROWS, ROWS + 1])
def test_batches_are_of_the_size_asked_for_across_tables(
    size: int, folders: dict[str, Path]
) -> None:
    table = table_of(folders["logged"])
    parts = [table.slice(start, 700) for start in range(0, ROWS, 700)]
    batches = list(homefeed.batches(parts, size))
    assert [batch.num_rows for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert pa.Table.from_batches(batches).equals(table)


def test_every_layout_delivers_the_same_rows(folders: dict[str, Path]) -> None:
    sums = {layout: checksum(delivered(folder)).as_json() for layout, folder in folders.items()}
    assert sums["logged"]["rows"] == ROWS
    assert differences(sums["logged"], sums["clustered"]) == []
    assert differences(sums["logged"], sums["grouped"]) == []


def test_a_checksum_does_not_depend_on_batches_or_their_order(folders: dict[str, Path]) -> None:
    one = checksum(delivered(folders["logged"], 512))
    other = checksum(delivered(folders["logged"], 100)[::-1])
    assert differences(one.as_json(), other.as_json()) == []


def test_a_checksum_sees_what_differs(rows: pa.RecordBatch) -> None:
    batch = homefeed.transform(rows)
    right = checksum([batch]).as_json()
    values = batch.values.copy()
    values[[0, 1]] = values[[1, 0]]
    assert values[0] != values[1]
    swapped = checksum([replace(batch, values=values)]).as_json()
    assert differences(right, swapped)[0].startswith("row_words")
    assert swapped["ids"] == right["ids"]
    moved = np.roll(batch.dense, 1, axis=0)
    (wrong,) = differences(right, checksum([replace(batch, dense=moved)]).as_json())
    assert wrong.startswith("dense_of_rows")
    lengths = batch.lengths.copy()
    long = int(np.flatnonzero(lengths[-ROWS:-1])[0]) - ROWS
    lengths[[long, long + 1]] += [-1, 1]
    assert differences(right, checksum([replace(batch, lengths=lengths)]).as_json())
    labels = np.roll(batch.labels, 1)
    assert differences(right, checksum([replace(batch, labels=labels)]).as_json())


def test_a_checksum_refuses_other_types_and_shapes(rows: pa.RecordBatch) -> None:
    batch = homefeed.transform(rows)
    with pytest.raises(ValueError, match="float32, float32, int32, int32"):
        Checksum().add(replace(batch, values=batch.values.astype(np.int32)))
    with pytest.raises(ValueError, match="shapes"):
        Checksum().add(replace(batch, values=batch.values[1:]))


def test_a_batch_travels_as_one_row_of_lists(rows: pa.RecordBatch) -> None:
    batch = homefeed.transform(rows)
    row = packed(batch)
    assert row.num_rows == 1
    again = unpacked(row)
    assert differences(checksum([batch]).as_json(), checksum([again]).as_json()) == []
    np.testing.assert_array_equal(again.dense, batch.dense)


def test_batches_are_made_of_rows_that_were_transformed(rows: pa.RecordBatch) -> None:
    batch = homefeed.transform(rows)
    table = pa.concat_tables([to_rows(batch, len(SEQUENCES)), to_rows(batch, len(SEQUENCES))])
    again = [to_batch(table.slice(start, 512)) for start in range(0, len(table), 512)]
    assert [len(each) for each in again] == [512] * 11 + [2 * ROWS - 11 * 512]
    assert differences(checksum([batch, batch]).as_json(), checksum(again).as_json()) == []
    np.testing.assert_array_equal(again[0].dense, batch.dense[:512])
    for key in KEYS:
        expected = of_key(batch, key)[:512]
        assert list(map(list, of_key(again[0], key))) == list(map(list, expected))
