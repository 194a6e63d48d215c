"""Operations beside what NVTabular and tf.Transform document, on Criteo's and MovieLens' shapes.

Every row of docs/ops_elsewhere.md has its test here, but for what is not offered. References are
numpy's and pyarrow's: NVTabular's own are those of the data frame, and the page names its sources.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from movielens_data import build_rows
from movielens_raw import Raw

from benchmarks.workload_criteo import criteo
from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Frame
from preprocessor_server.transform import arrow_to_column, compile_features
from preprocessor_server.transform.derive import bind_derived, derive
from tests.fakes.columns import applied, plain
from tests.fakes.one_op import read
from trainer_client import Dataset, Dense, ops, parquet
from trainer_client import derive as derived

PAGE = Path(__file__).parents[3] / "docs" / "ops_elsewhere.md"
ROWS = 4000
NOT_OFFERED = "not offered"
WORDS = [["One", "was", "Johnny"], ["Two", "was", "a", "rat"]]


@pytest.fixture(scope="module")
def clicks() -> pa.Table:
    """Rows in the shape of the Criteo logs."""
    return next(criteo(ROWS, seed=1))


@pytest.fixture(scope="module")
def ratings(raw: Raw) -> pa.Table:
    """The latest ratings, those with the longest histories."""
    table, _ = build_rows(raw)
    return table.slice(max(0, table.num_rows - ROWS)).combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def known(array: pa.Array) -> npt.NDArray[Any]:
    """The values that are not null."""
    values: npt.NDArray[Any] = array.drop_null().to_numpy()
    return values


def made(table: pa.Table, column: derived.Derived) -> list[Any]:
    """What a derived column holds, a value a row."""
    bound = bind_derived(dataset_pb2.DatasetSpec(derive=[column.to_proto()]), table.schema)
    assert bound.faults == ()
    columns = {name: arrow_to_column(table[name].combine_chunks()) for name in table.column_names}
    return read(derive(bound.columns, Frame(table.num_rows, columns)).columns[column.name])


def cut(table: pa.Table, name: str, start: int, stop: int | None) -> list[list[Any]]:
    """Python's slices of the lists."""
    return [row[start:stop] for row in table[name].to_pylist()]


def assert_ids(values: list[Any], ids: list[Any], num_buckets: int) -> None:
    """Equal values have equal ids, all of them in range, and few others share one."""
    of = dict(zip(values, ids, strict=True))
    assert ids == [of[value] for value in values]
    assert all(0 <= number < num_buckets for number in ids)
    assert len(set(of.values())) > 0.9 * len(of)


def test_nvtabular_fill_missing(clicks: pa.Table) -> None:
    dense = column(clicks, "dense_0")
    assert dense.null_count > 0
    assert applied(ops.FillNull(7), dense) == pc.fill_null(dense, 7).to_pylist()
    filled = made(clicks.select(["dense_0"]), derived.Expression("filled", "dense_0 IS NULL"))
    assert filled == pc.is_null(dense).to_pylist()


@pytest.mark.parametrize("bounds", [(1, 9), (2, None), (None, 3)])
def test_nvtabular_clip(clicks: pa.Table, bounds: tuple[int | None, int | None]) -> None:
    dense = column(clicks, "dense_1")
    low, high = bounds
    assert applied(ops.Clip(low, high), dense) == np.clip(dense.to_numpy(), low, high).tolist()


def test_nvtabular_log_op(clicks: pa.Table) -> None:
    dense = column(clicks, "dense_0").drop_null()
    expected = np.log(dense.to_numpy().astype(np.float32) + 1)
    np.testing.assert_allclose(applied(ops.Log1p(), dense), expected, rtol=3e-7)


def test_nvtabular_normalize(clicks: pa.Table) -> None:
    dense = column(clicks, "dense_2").drop_null()
    mean, std = float(dense.to_numpy().mean()), float(dense.to_numpy().std(ddof=1))
    expected = ((dense.to_numpy() - mean) / std).tolist()
    assert applied(ops.Normalize(mean, std), dense) == expected


def test_nvtabular_normalize_min_max(clicks: pa.Table, ratings: pa.Table) -> None:
    for array in (column(clicks, "dense_3"), column(ratings, "age")):
        numbers = known(array)
        low, high = int(numbers.min()), int(numbers.max())
        expected = ((numbers - low) / (high - low)).tolist()
        assert applied(ops.MinMax(low, high), array.drop_null()) == expected


def test_nvtabular_bucketize(clicks: pa.Table, ratings: pa.Table) -> None:
    for array, boundaries in (
        (column(clicks, "dense_4"), [0, 1, 2, 5, 10]),
        (column(ratings, "age").cast(pa.float32()), [18.0, 25.0, 35.0, 50.0]),
    ):
        numbers = known(array)
        assert np.isin(numbers, boundaries).any()
        expected = np.digitize(numbers, boundaries, right=False).tolist()
        assert applied(ops.Bucketize(boundaries), array.drop_null()) == expected


def test_nvtabular_categorify(clicks: pa.Table) -> None:
    values = column(clicks, "cat_5")
    listed = [value for value, _ in Counter(values.drop_null().to_pylist()).most_common(9)]
    found = applied(ops.Vocabulary(listed, 1), values)
    # Theirs: 1 for a null, 2 for what is not listed, then the vocabulary.
    theirs = {value: 3 + i for i, value in enumerate(listed)}
    expected = [1 if value is None else theirs.get(value, 2) for value in values.to_pylist()]
    assert {1, 2, 3} < set(expected)
    shifted = [1 if x is None else 2 if x == len(listed) else x + 3 for x in found]
    assert shifted == expected
    # pandas: Categorical(values, categories).codes, where -1 stands for both.
    codes = pc.index_in(values, pa.array(listed)).to_pylist()
    assert applied(ops.Vocabulary(listed), values) == codes


def test_nvtabular_hash_bucket(clicks: pa.Table, ratings: pa.Table) -> None:
    for values in (column(clicks, "cat_6").drop_null(), column(ratings, "item_id")):
        assert_ids(values.to_pylist(), applied(ops.HashBucket(1 << 20), values), 1 << 20)
    lists = column(ratings, "history")
    each = applied(ops.HashBucket(1 << 20), lists)
    flat = applied(ops.HashBucket(1 << 20), pc.list_flatten(lists))
    assert list(itertools.chain(*each)) == flat


def test_nvtabular_hashed_cross(ratings: pa.Table) -> None:
    names = ["occupation", "zip_prefix"]
    table = ratings.select(names)
    found = made(table, derived.Cross("x", names, 1 << 20))
    pairs = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    assert_ids(pairs, found, 1 << 20)
    # Theirs is an XOR: the same in either order, and 0 of a column with itself.
    assert made(table, derived.Cross("x", names[::-1], 1 << 20)) != found
    assert len(set(made(table, derived.Cross("x", names[:1] * 2, 1 << 20)))) > 1


def test_nvtabular_list_slice(ratings: pa.Table) -> None:
    history = column(ratings, "history")
    assert len(set(applied(ops.ListLength(), history))) > 10
    assert applied(ops.Head(10), history) == cut(ratings, "history", 0, 10)
    assert applied(ops.Slice(1, 11), history) == cut(ratings, "history", 1, 11)
    assert applied(ops.Slice(-9, -2), history) == cut(ratings, "history", -9, -2)
    tails = cut(ratings, "history", -10, None)
    assert applied(ops.Tail(10), history) == tails
    padded = [row + [0] * (10 - len(row)) for row in tails]
    assert applied(ops.Pad(10, 0), pa.array(tails, pa.list_(pa.int64()))) == padded


def test_nvtabular_value_count(ratings: pa.Table) -> None:
    for name in ("genres", "history"):
        lists = column(ratings, name)
        deltas = np.diff(lists.offsets.to_numpy())
        found = applied(ops.ListLength(), lists)
        assert found == deltas.tolist()
        assert (min(found), max(found)) == (deltas.min(), deltas.max())


@pytest.mark.parametrize("by", ["count", "sum", "mean", "min", "max", "first", "last"])
def test_nvtabular_groupby(ratings: pa.Table, by: str) -> None:
    history = column(ratings, "history")
    rows = pa.table({"row": pc.list_parent_indices(history), "item": pc.list_flatten(history)})
    groups = rows.group_by("row", use_threads=False).aggregate([("item", by)])
    expected = dict(zip(groups["row"].to_pylist(), groups[f"item_{by}"].to_pylist(), strict=True))
    found = dict(enumerate(applied(ops.ListAggregate(by), history)))
    assert {row: value for row, value in found.items() if row in expected} == expected
    # No row, no group; here an empty list has a value.
    empty = {value for row, value in found.items() if row not in expected}
    assert empty <= {0 if by in {"count", "sum"} else None}


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_nvtabular_lambda_op(ratings: pa.Table, zone: str) -> None:
    times = column(ratings, "timestamp").cast(pa.timestamp("s", tz=zone))
    parts = {"hour": pc.hour, "day_of_week": pc.day_of_week, "month": pc.month, "year": pc.year}
    for part, function in parts.items():
        assert applied(ops.DateParts(part, zone), times) == function(times).to_pylist()


def test_tft_apply_buckets(clicks: pa.Table) -> None:
    numbers = pa.array([4.0, float("nan"), 1.0, float("-inf"), 7.5, 10.0], pa.float32())
    assert applied(ops.Bucketize([2.0, 5.0, 10.0]), numbers) == [1, 3, 0, 0, 2, 3]
    boundaries = [1, 2, 5, 10]
    dense = column(clicks, "dense_5").drop_null()
    buckets = applied(ops.Bucketize(boundaries), dense)
    for value, bucket in zip(dense.to_pylist(), buckets, strict=True):
        assert bucket == 0 or boundaries[bucket - 1] <= value
        assert bucket == len(boundaries) or value < boundaries[bucket]


def test_tft_bucketize(ratings: pa.Table) -> None:
    times = column(ratings, "timestamp")
    quantiles = np.unique(np.quantile(times.to_numpy(), [0.2, 0.4, 0.6, 0.8]).round())
    counts = np.bincount(applied(ops.Bucketize(quantiles.tolist()), times), minlength=5)
    edges = [-np.inf, *quantiles, np.inf]
    assert counts.tolist() == np.histogram(times.to_numpy(), edges)[0].tolist()
    assert counts.min() > 0.15 * len(times)


def test_tft_scale_to_z_score(clicks: pa.Table) -> None:
    dense = column(clicks, "dense_6").drop_null()
    numbers = dense.to_numpy().astype(np.float32)
    mean, std = numbers.mean(dtype=np.float64), numbers.std(dtype=np.float64)
    expected = (numbers - np.float32(mean)) / np.float32(std)
    found = applied(ops.Normalize(float(mean), float(std)), dense)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.mean(found) == pytest.approx(0, abs=1e-9)
    assert np.var(found) == pytest.approx(1)


def test_tft_ngrams(ratings: pa.Table) -> None:
    for lists in (pa.array(WORDS), column(ratings, "genres")):
        grams = [
            [" ".join(row[i : i + 2]) for i in range(len(row) - 1)] for row in lists.to_pylist()
        ]
        found = applied(ops.NGram(2, 1 << 30), lists)
        assert [len(row) for row in found] == [len(row) for row in grams]
        assert_ids(list(itertools.chain(*grams)), list(itertools.chain(*found)), 1 << 30)


def test_tft_hash_strings(clicks: pa.Table) -> None:
    strings = column(clicks, "cat_0").drop_null()
    for seed in (0, 9):
        found = applied(ops.HashBucket(1 << 20, seed), strings)
        assert_ids(strings.to_pylist(), found, 1 << 20)
    assert found != applied(ops.HashBucket(1 << 20), strings)


def test_tft_compute_and_apply_vocabulary(ratings: pa.Table) -> None:
    genres = column(ratings, "genres")
    counts = Counter(pc.list_flatten(genres).to_pylist())
    # By falling frequency, equal ones in reverse lexicographical order.
    ordered = sorted(counts, key=lambda word: (counts[word], word), reverse=True)
    listed = ordered[:4]
    codes = {word: i for i, word in enumerate(listed)}
    known_only = applied(ops.Vocabulary(listed), genres)
    found = applied(ops.FillNull(-1), pa.array(known_only, pa.list_(pa.int64())))
    assert found == [[codes.get(word, -1) for word in row] for row in genres.to_pylist()]
    hashed = applied(ops.Vocabulary(listed, 5), genres)
    for words, ids in zip(genres.to_pylist(), hashed, strict=True):
        for word, number in zip(words, ids, strict=True):
            assert number == codes[word] if word in codes else 4 <= number < 9


def test_tf_one_hot(ratings: pa.Table) -> None:
    jobs = column(ratings, "occupation")
    listed = pc.unique(jobs.drop_null()).to_pylist()
    feature = Dense("occupation", ops=[ops.Vocabulary(listed, 1), ops.OneHot()])
    dataset = Dataset(source=parquet("x"), features=[feature])
    transform = compile_features(dataset.to_proto(), ratings.schema)
    features = transform.apply(Frame(len(jobs), {"occupation": arrow_to_column(jobs)}))
    [block] = transform.schema(1).blocks
    found = np.stack([plain(features.columns[name]) for name in block.features], axis=1)
    depth = len(listed) + 1
    codes = pc.index_in(jobs, pa.array(listed)).fill_null(-1).to_numpy()
    # -1 is the last row: of zeros.
    expected = np.vstack([np.eye(depth), np.zeros(depth)])[codes]
    assert found.tolist() == expected.tolist()
    assert found.sum() == len(jobs) - jobs.null_count


def rows_of_page() -> list[tuple[str, str, str, str]]:
    """The cells of the page's tables: theirs, ours, what is the same, what differs."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    return [(theirs, ours, same, why) for theirs, ours, same, why in cells]


def names_of_tests(theirs: str) -> list[str]:
    """test_nvtabular_hash_bucket of `HashBucket`, test_tft_ngrams of `tft.ngrams`."""
    names = re.findall(r"`([\w.]+)", theirs)
    snakes = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names]
    return [
        f"test_{name.replace('.', '_')}" if "." in name else f"test_nvtabular_{name}"
        for name in snakes
    ]


def test_the_page_names_operations_that_exist() -> None:
    for theirs, ours, same, _ in rows_of_page():
        used = re.findall(r"(ops|derive)\.(\w+)", ours)
        assert used or same == NOT_OFFERED, theirs
        for module, name in used:
            assert getattr(derived if module == "derive" else ops, name) in (
                derived.ALL if module == "derive" else ops.ALL
            )


def test_every_claim_of_the_page_is_tested_and_what_is_tested_is_on_it() -> None:
    claimed = {
        name
        for theirs, _, same, _ in rows_of_page()
        if same != NOT_OFFERED
        for name in names_of_tests(theirs)
    }
    assert claimed == {name for name in globals() if re.match(r"test_(nvtabular|tft?)_", name)}
