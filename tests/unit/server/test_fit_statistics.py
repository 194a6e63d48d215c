"""Parts of statistics, merged, against all values at once."""

from __future__ import annotations

import math
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor_server.errors import DataError
from preprocessor_server.fit.counts import Counts, count_values
from preprocessor_server.fit.moments import Moments
from preprocessor_server.fit.quantiles import Quantiles
from preprocessor_server.transform import arrow_to_column

NUMBERS = st.floats(-1e9, 1e9)
PARTS = st.lists(st.lists(NUMBERS, max_size=20), min_size=1, max_size=6)


@given(PARTS)
def test_merged_moments_are_those_of_all_values(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged = merged.merge(Moments.of(np.array(part, np.float64)))
    values = np.array([value for part in parts for value in part])
    assert merged.count == len(values)
    if len(values):
        assert (merged.min, merged.max) == (values.min(), values.max())
        scale = max(1.0, float(np.abs(values).max()))
        assert merged.mean == pytest.approx(values.mean(), abs=1e-12 * scale)
        assert merged.std == pytest.approx(values.std(), rel=1e-9, abs=1e-7 * scale)


def test_a_small_spread_far_from_zero_is_kept() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=100_000)
    merged = Moments()
    for part in np.split(values, 10):
        merged = merged.merge(Moments.of(part))
    assert merged.std == pytest.approx(values.std(), rel=1e-9)


def test_no_values_have_no_spread() -> None:
    assert Moments.of(np.zeros(0)) == Moments(0, 0.0, 0.0, math.inf, -math.inf)
    assert Moments().std == 0.0


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(-50, 50) | st.integers(-(2**63), 2**63 - 1), max_size=60)),
    st.sampled_from([2, 4, 16]),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_quantiles_keep_their_error(
    parts: list[list[int]], level_values: int, shares: list[float]
) -> None:
    merged = Quantiles(np.dtype(np.int64), level_values)
    for part in parts:
        sketch = Quantiles(np.dtype(np.int64), level_values)
        sketch.add(np.array(part, np.int64))
        merged.merge(sketch)
    values = sorted(value for part in parts for value in part)
    assert merged.count == len(values)
    if values:
        check_ranks(np.array(values), merged, shares)
    else:
        with pytest.raises(ValueError, match="no values"):
            merged.at(shares)


def check_ranks(ordered: np.ndarray, sketch: Quantiles, shares: list[float]) -> None:
    """Each quantile is a value whose rank is as far from the wanted one as the error allows."""
    allowed = sketch.rank_error * len(ordered)
    for share, value in zip(shares, sketch.at(shares), strict=True):
        wanted = math.ceil(share * len(ordered))
        assert value in ordered
        assert np.searchsorted(ordered, value, "left") - allowed <= max(wanted - 1, 0)
        assert np.searchsorted(ordered, value, "right") + allowed >= wanted


@pytest.mark.parametrize("order", ["drawn", "ascending", "descending", "tied"])
def test_quantiles_of_many_values_are_close(order: str) -> None:
    values = np.random.default_rng(1).lognormal(size=1_000_000).astype(np.float32)
    if order != "drawn":
        values = np.sort(values)[:: -1 if order == "descending" else 1]
    if order == "tied":
        values = np.floor(values)
    sketch = Quantiles(values.dtype)
    for part in np.array_split(values, 37):
        sketch.add(part)
    assert 0 < sketch.rank_error < 0.001
    check_ranks(np.sort(values), sketch, [i / 100 for i in range(101)])


VALUES = {
    pa.string(): st.sampled_from(["", "a", "b", "ab", "ü", "\x00"]),
    pa.binary(): st.sampled_from([b"", b"\xff", b"\x00", b"a"]),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", "b", "ü"]),
    pa.int64(): st.integers(-3, 3) | st.just(-(2**63)),
    pa.uint64(): st.sampled_from([0, 1, 2**63 - 1]),
}


@settings(max_examples=8)
@given(
    st.sampled_from(list(VALUES)).flatmap(
        lambda kind: st.tuples(
            st.just(kind), st.lists(st.lists(st.none() | VALUES[kind], max_size=9), min_size=1)
        )
    ),
    st.integers(1, 2),
    st.integers(0, 3),
)
def test_counts_are_those_of_duckdb(
    tmp_path_factory: pytest.TempPathFactory,
    column: tuple[pa.DataType, list[list[int | str | bytes | None]]],
    min_count: int,
    max_size: int,
) -> None:
    kind, parts = column
    # Nothing is held: each part goes to disk.
    counts = Counts(tmp_path_factory.mktemp("counts") / "0", 0)
    for part in parts:
        values = arrow_to_column(pa.array(part, kind))
        counts.add(count_values(values))  # type: ignore[arg-type]
    counted, batches = counts.finish(100_000_000, 1, min_count, max_size)
    found = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    expected = expected_counts([value for part in parts for value in part])
    assert (counted.distinct, counted.total) == (len(expected), sum(c for _, c in expected))
    kept = [row for row in expected if row[1] >= min_count]
    assert found == (kept[:max_size] if max_size else kept)


def expected_counts(values: list[int | str | bytes | None]) -> list[tuple[int | bytes, int]]:
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    known = [value for value in raw if value is not None]
    kind = pa.binary() if known and isinstance(known[0], bytes) else pa.int64()
    with duckdb.connect() as connection:
        connection.register("rows", pa.table({"value": pa.array(known, kind)}))
        return connection.sql(
            "SELECT value, count(*) AS n FROM rows GROUP BY value ORDER BY n DESC, value"
        ).fetchall()


def test_counts_in_memory_and_on_disk_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    parts = [pa.array(rng.zipf(1.3, 20_000) % 50_000) for _ in range(8)]
    results = []
    for held_bytes in (0, 200_000, 1 << 30):
        counts = Counts(tmp_path / str(held_bytes), held_bytes)
        for part in parts:
            counts.add(count_values(arrow_to_column(part)))  # type: ignore[arg-type]
        counted, batches = counts.finish(100_000_000, 2, 1, 0)
        results.append((counted, pa.Table.from_batches(batches)))
    assert results[0][0].total == 160_000
    assert results[0] == results[1] == results[2]


def test_integers_that_no_vocabulary_lists_are_refused() -> None:
    column = arrow_to_column(pa.array([1, 2**63], pa.uint64()))
    with pytest.raises(DataError, match=r"9223372036854775808 is no int64.*HashBucket"):
        count_values(column)  # type: ignore[arg-type]
