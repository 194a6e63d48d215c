"""Rows that differ, as a trainer sees them: the laws, and counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from preprocessor_server.server import Server
from tests.integration.test_stream_laws import fingerprint, ids_of, target
from trainer_client import BatchStream, Dataset, Dense, Label, RequestError, Sparse, parquet

Start = Callable[..., Server]


def test_rows_that_differ_are_the_same_from_every_batch_on_for_any_ranks(
    start_server: Start, dataset_root: Path, tmp_path: Path
) -> None:
    servers = [start_server(data_root=(dataset_root,)) for _ in range(2)]
    dataset = Dataset(
        parquet("rows"), [Dense("price"), Sparse("id"), Label("label")], distinct_by=["request"]
    )
    common: dict[str, Any] = {
        "target": target(servers),
        "batch_size": 400,
        "seed": 5,
        "num_shards": 3,
        "snapshot_dir": tmp_path,
    }
    with BatchStream(dataset, **common) as stream:
        whole, states = [], [stream.state_dict()]
        for batch in stream:
            whole.append(batch)
            states.append(stream.state_dict(batch))
    assert len(whole) > 6
    for i, state in enumerate(states[:-1]):
        with BatchStream(dataset, **common) as stream:
            stream.load_state_dict(state)
            assert [fingerprint(b) for b in stream] == [fingerprint(b) for b in whole[i:]]
        rest: list[int] = []
        for rank in range(2):
            with BatchStream(dataset, rank=rank, world_size=2, uneven="none", **common) as stream:
                stream.load_state_dict(state)
                rest += [row for batch in stream for row in ids_of(batch)]
        assert sorted(rest) == sorted(row for batch in whole[i:] for row in ids_of(batch))


def test_rows_that_differ_are_counted_and_told_apart_from_others(
    dataset_root: Path, tmp_path: Path, start_server: Start
) -> None:
    server = start_server(data_root=(dataset_root,))
    groups = [
        pq.ParquetFile(path).read_row_group(number)
        for path in sorted((dataset_root / "rows").iterdir())
        for number in range(pq.ParquetFile(path).num_row_groups)
    ]

    def opened(*names: str, where: str = "", **options: Any) -> BatchStream:
        differing = Dataset(parquet("rows"), [Sparse("id")], distinct_by=names, where=where)
        directory = tmp_path / "snapshots"
        return BatchStream(
            differing, target=target([server]), batch_size=64, snapshot_dir=directory, **options
        )

    with opened("label", "city", count="exact") as stream:
        steps = len(stream)
        rows = [row for batch in stream for row in ids_of(batch)]
        # The first of each, as Arrow sees it.
        first = [
            each.group_by(["label", "city"]).aggregate([("id", "min")])["id_min"].to_pylist()
            for each in groups
        ]
        assert sorted(rows) == sorted(itertools.chain.from_iterable(first))
        assert (stream.row_count(), stream.stats().batches) == (len(rows), steps)
        state = stream.state_dict()
    with (
        opened("city", count="exact", snapshot=state["snapshot"]) as stream,
        pytest.raises(RequestError, match="counts the rows of another distinct_by"),
    ):
        len(stream)
    with (
        opened(
            "label", "city", where="id > 7", count="exact", snapshot=state["snapshot"]
        ) as stream,
        pytest.raises(RequestError, match="counts the rows of no filter"),
    ):
        len(stream)
    with opened("city") as stream, pytest.raises(TypeError, match="distinct_by decides"):
        len(stream)
