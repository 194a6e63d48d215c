"""A plan deals every row once, evenly, and cuts row groups only where it may."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import batch_pb2
from preprocessor_server.errors import RequestError
from preprocessor_server.plan.epoch import MAX_REREAD_SHARE, EpochPlan, RowGroups, plan_epoch
from preprocessor_server.plan.identity import Cursor, Identity, Split

NO_LIMIT = 1 << 60


def row_groups(rows: list[int], bytes_a_row: int = 100) -> RowGroups:
    """Row groups, three to a file."""
    counts = np.array(rows, np.int64)
    number = np.arange(len(rows))
    return RowGroups(number // 3, number % 3, counts, counts, counts, counts * bytes_a_row)


def identity(batch_size: int, **changes: int | bool) -> Identity:
    fields: dict[str, int | bool] = {
        "seed": 0,
        "epoch": 0,
        "num_shards": 0,
        "shuffle": True,
        "window_splits": 1,
        "encoding_version": 1,
    }
    return Identity(batch_size=batch_size, **(fields | changes))  # type: ignore[arg-type]


def delivered(plan: EpochPlan) -> Counter[tuple[int, int, int]]:
    return Counter(
        (split.file, split.row_group, row)
        for split in itertools.chain.from_iterable(plan.shards)
        for row in range(split.first_row, split.first_row + split.row_count)
    )


@given(
    rows=st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(any),
    batch_size=st.integers(1, 50),
    num_shards=st.integers(0, 9),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
    known=st.booleans(),
    max_split_bytes=st.sampled_from([700, 2500, NO_LIMIT]),
)
def test_every_row_is_dealt_exactly_once(
    rows: list[int],
    batch_size: int,
    num_shards: int,
    seed: int,
    shuffle: bool,
    known: bool,
    max_split_bytes: int,
) -> None:
    groups = row_groups(rows)
    wanted = identity(batch_size, num_shards=num_shards, seed=seed, shuffle=shuffle)
    plan = plan_epoch(groups, wanted, max_split_bytes=max_split_bytes, counts_known=known)
    expected = Counter((i // 3, i % 3, row) for i, count in enumerate(rows) for row in range(count))
    assert delivered(plan) == expected
    assert plan == plan_epoch(groups, wanted, max_split_bytes=max_split_bytes, counts_known=known)
    if num_shards:
        assert len(plan.shards) == num_shards
    for split in itertools.chain.from_iterable(plan.shards):
        assert split.row_count >= 1
        assert split.row_count * 100 <= max(max_split_bytes, 100)
    if known:
        sizes = tuple(sum(s.row_count for s in shard) for shard in plan.shards)
        assert plan.row_counts == sizes
        assert plan.batch_counts == tuple(-(-size // batch_size) for size in sizes)
    else:
        assert plan.row_counts is plan.batch_counts is None


@given(
    counts=st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=1, max_size=30).filter(
        lambda counts: any(rows for rows, _ in counts)
    ),
    batch_size=st.integers(1, 50),
    num_shards=st.integers(0, 9),
    seed=st.integers(0, 2**64 - 1),
    max_split_bytes=st.sampled_from([700, 2500, NO_LIMIT]),
)
def test_counts_of_a_filter_are_those_of_whole_row_groups(
    counts: list[tuple[int, float]],
    batch_size: int,
    num_shards: int,
    seed: int,
    max_split_bytes: int,
) -> None:
    rows = [count for count, _ in counts]
    passing = [int(count * share) for count, share in counts]
    groups = replace(row_groups(rows), delivered=np.array(passing, np.int64), whole=True)
    plan = plan_epoch(
        groups,
        identity(batch_size, num_shards=num_shards, seed=seed),
        max_split_bytes=max_split_bytes,
        counts_known=True,
    )
    expected = Counter((i // 3, i % 3, row) for i, count in enumerate(rows) for row in range(count))
    assert delivered(plan) == expected
    # All parts of a row group are in one shard, and count there together.
    held = [{3 * split.file + split.row_group for split in shard} for shard in plan.shards]
    assert sum(map(len, held)) == sum(map(bool, rows))
    sizes = tuple(sum(passing[i] for i in shard) for shard in held)
    assert plan.row_counts == sizes
    assert plan.batch_counts == tuple(-(-size // batch_size) for size in sizes)


def test_shards_of_whole_batches_where_cuts_are_cheap() -> None:
    groups = row_groups([1000] * 1000)
    plan = plan_epoch(
        groups, identity(64, num_shards=8), max_split_bytes=NO_LIMIT, counts_known=True
    )
    assert 0 < plan.reread_share <= MAX_REREAD_SHARE
    sizes = plan.row_counts or ()
    short = [size for size in sizes if size % 64]
    assert len(short) <= 1
    assert sum(plan.batch_counts or ()) == -(-1_000_000 // 64)


def test_shards_of_whole_row_groups_where_cuts_would_cost_too_much() -> None:
    groups = row_groups([1000] * 10)
    plan = plan_epoch(
        groups, identity(64, num_shards=4), max_split_bytes=NO_LIMIT, counts_known=True
    )
    assert plan.reread_share == 0
    assert {split.row_count for shard in plan.shards for split in shard} == {1000}
    assert sorted(plan.row_counts or ()) == [2000, 2000, 3000, 3000]
    assert any("whole row groups" in note for note in plan.notes)


def test_large_row_groups_are_cut_and_the_plan_says_what_it_costs() -> None:
    plan = plan_epoch(
        row_groups([1000, 10]), identity(64), max_split_bytes=25_000, counts_known=False
    )
    assert plan.reread_share == pytest.approx((250 + 500 + 750) / 1010)
    assert any("max_split_bytes" in note for note in plan.notes)


def test_default_number_of_shards_follows_the_data() -> None:
    groups = row_groups([4096] * 320)
    plan = plan_epoch(groups, identity(4096), max_split_bytes=NO_LIMIT, counts_known=True)
    assert len(plan.shards) == 20
    few = plan_epoch(
        row_groups([5000] * 2), identity(10), max_split_bytes=NO_LIMIT, counts_known=True
    )
    assert len(few.shards) == 2


def test_shuffling_permutes_splits_by_seed_and_epoch() -> None:
    groups = row_groups([10] * 50)

    def order(**changes: int | bool) -> tuple[Split, ...]:
        wanted = identity(10, num_shards=1, **changes)
        return plan_epoch(groups, wanted, max_split_bytes=NO_LIMIT, counts_known=True).shards[0]

    in_order = order(shuffle=False)
    assert list(in_order) == sorted(in_order)
    orders = {order(), order(epoch=1), order(seed=1), in_order}
    assert len(orders) == 4


SPLITS = (Split(0, 0, 0, 10), Split(0, 1, 0, 5), Split(1, 0, 0, 7))


@pytest.mark.parametrize("cursor", [(0, 0, 0, 0), (0, 14, 0, 3), (2, 6, 0, 1), (3, 0, 0, 9)])
def test_cursors_that_fit(cursor: tuple[int, int, int, int]) -> None:
    message = Cursor(*cursor).to_proto()
    assert Cursor.from_proto(message, SPLITS, window_splits=2, grouped=False) == cursor


@pytest.mark.parametrize(
    "cursor", [(1, 0, 0, 0), (0, 15, 0, 0), (2, 7, 0, 0), (3, 1, 0, 0), (4, 0, 0, 0), (0, 1, 1, 0)]
)
def test_cursors_that_do_not(cursor: tuple[int, int, int, int]) -> None:
    message = batch_pb2.Cursor(
        split=cursor[0], parquet_row=cursor[1], offset=cursor[2], batch=cursor[3]
    )
    with pytest.raises(RequestError) as caught:
        Cursor.from_proto(message, SPLITS, window_splits=2, grouped=False)
    assert caught.value.reason == "CURSOR_INVALID"
