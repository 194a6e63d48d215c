"""One dataset reads logged, clustered and grouped files, and yields the same rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocessor_server.server import Server
from tests.fakes.grouped import FORMS, write_layout
from trainer_client import Batch, BatchStream, Dataset, Dense, Label, Sparse, ops, parquet

Start = Callable[..., Server]

FEATURES = (
    Dense("item_score", "price", "age", ops=[ops.FillNull(0), ops.Log1p()]),
    Sparse("id", "request", "history", "item_pair"),
    Sparse("region", "item_city", ops=[ops.HashBucket(1000)]),
    Sparse("item_tags", ops=[ops.Tail(1), ops.HashBucket(1000)]),
    Label("label"),
)
FILTERS = [
    "",
    "price < 0.6 AND item_city IS NOT NULL",
    "age > 20",
    "region = 'region 1' OR label = 1",
    "age IS NULL AND price >= 0.9",
    "TRUE",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grouped")
    counts = {write_layout(folder / layout, layout) for layout in ("logged", "clustered", *FORMS)}
    assert len(counts) == 1
    return folder


def dataset(layout: str, where: str, **options: Any) -> Dataset:
    """Of one definition: the path is all that differs, and what the struct form names as rows."""
    rows = FORMS["struct" if layout == "struct" else "lists"]
    source = parquet(layout, group_by=options.pop("group_by", ["request"]), rows=rows)
    return Dataset(source=source, where=where, features=FEATURES, **options)


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name in batch:
        feature = batch[name]
        columns[name] = feature.tolist() if hasattr(feature, "tolist") else feature.to_list()
    return [{name: column[i] for name, column in columns.items()} for i in range(len(batch))]


def read(server: Server, data: Dataset, **options: Any) -> list[list[dict[str, Any]]]:
    """The rows of every batch."""
    defaults: dict[str, Any] = {"batch_size": 37, "num_shards": 2, "seed": 3}
    with BatchStream(data, target=f"static:///{server.address}", **defaults | options) as stream:
        return [rows_of(batch) for batch in stream]


def all_rows(batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return sorted((row for batch in batches for row in batch), key=lambda row: row["id"])


@pytest.mark.parametrize("where", FILTERS)
def test_every_layout_yields_the_same_rows(start_server: Start, root: Path, where: str) -> None:
    server = start_server(data_root=(root,))
    expected = all_rows(read(server, dataset("clustered", where)))
    assert len(expected) > 20
    for layout in ("logged", *FORMS):
        assert all_rows(read(server, dataset(layout, where))) == expected, layout
        windowed = read(server, dataset(layout, where), shuffle_window_splits=4, num_shards=1)
        assert all_rows(windowed) == expected, layout


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group_by", [[], ["request"], ["region", "age"]])
def test_requests_stay_together_and_in_order(
    start_server: Start, root: Path, form: str, group_by: list[str]
) -> None:
    server = start_server(data_root=(root,))
    orders = []
    for epoch_seed in (1, 2):
        batches = read(server, dataset(form, "", group_by=group_by), num_shards=1, seed=epoch_seed)
        rows = [row for batch in batches for row in batch]
        requests = [row["request"][0] for row in rows]
        starts = [i for i in range(1, len(rows)) if requests[i] != requests[i - 1]]
        assert len(starts) + 1 == len(set(requests))
        for before, after in itertools.pairwise(rows):
            if before["request"] == after["request"]:
                assert after["id"][0] == before["id"][0] + 1
        orders.append([row["id"][0] for row in rows])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(orders[0])))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("form", FORMS)
def test_without_shuffling_rows_come_in_file_order(
    start_server: Start, root: Path, form: str
) -> None:
    server = start_server(data_root=(root,))
    batches = read(server, dataset(form, ""), num_shards=1, shuffle=False)
    ids = [row["id"][0] for batch in batches for row in batch]
    assert ids == list(range(len(ids)))
    assert {len(batch) for batch in batches[:-1]} == {37}


@pytest.mark.parametrize("form", FORMS)
def test_ranks_share_the_rows_of_grouped_files(
    start_server: Start, root: Path, tmp_path: Path, form: str
) -> None:
    """Some ranks start in the middle of a shard, where no cursor is known yet."""
    server = start_server(data_root=(root,))
    whole = read(server, dataset(form, ""), num_shards=3)
    ranks = [
        read(
            server,
            dataset(form, ""),
            num_shards=3,
            rank=rank,
            world_size=4,
            snapshot_dir=tmp_path,
        )
        for rank in range(4)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    dealt = [batch for batches in ranks for batch in batches]
    assert len(whole) - len(dealt) < 4
    assert all(batch in whole for batch in dealt)
    ids = [row["id"][0] for batch in dealt for row in batch]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_restores_at_every_batch(start_server: Start, root: Path, form: str) -> None:
    server = start_server(data_root=(root,))
    target = f"static:///{server.address}"
    options: dict[str, Any] = {"batch_size": 50, "num_shards": 3, "interleave": 2}
    with BatchStream(dataset(form, ""), target=target, **options) as stream:
        seen, states = [], []
        for batch in stream:
            seen.append(rows_of(batch))
            states.append(stream.state_dict(batch))
    for number in range(0, len(states), 3):
        with BatchStream(dataset(form, ""), target=target, **options) as stream:
            stream.load_state_dict(states[number])
            assert [rows_of(batch) for batch in stream] == seen[number + 1 :]
