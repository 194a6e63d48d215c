"""Several trainers of one epoch: each gets all of it, and it is made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from preprocessor_server.server import Server
from tests.fakes.parquet import ROW_COUNT
from trainer_client import BatchStream, Dataset, Label, Sparse, parquet

pytestmark = pytest.mark.alone

Start = Callable[..., Server]
Open = Callable[..., BatchStream]


def made(servers: list[Server]) -> Counter[str]:
    """How many batches were found (hit) and made (miss), and ends of shards."""
    counts: Counter[str] = Counter()
    for server in servers:
        for metric in server._metrics.shared_batches.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    counts[sample.labels["result"]] += int(sample.value)
    return counts


def sequence(stream: BatchStream) -> Iterator[tuple[int, int, list[int]]]:
    for batch in stream:
        assert batch.sparse is not None
        yield batch.shard, batch.index, batch.sparse["id"].values.tolist()


@pytest.fixture
def servers(dataset_root: Path, start_server: Start) -> list[Server]:
    return [start_server(data_root=(dataset_root,)) for _ in range(2)]


@pytest.fixture
def open_stream(servers: list[Server], tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as streams:

        def make(**options: Any) -> BatchStream:
            defaults: dict[str, Any] = {
                "target": "static:///" + ",".join(server.address for server in servers),
                "batch_size": 100,
                "num_shards": 8,
                "snapshot_dir": tmp_path / "snapshots",
                "timeout": 20.0,
            }
            dataset = Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")])
            return streams.enter_context(BatchStream(dataset, **(defaults | options)))

        yield make


def test_trainers_in_step_share_what_is_made(servers: list[Server], open_stream: Open) -> None:
    trainers = [sequence(open_stream()) for _ in range(3)]
    steps = list(zip(*trainers, strict=True))
    assert all(first == second == third for first, second, third in steps)
    assert sum(len(first[2]) for first, *_ in steps) == ROW_COUNT
    counts = made(servers)
    # A shard may be opened on the other server by one of them, where loads differ.
    assert len(steps) <= counts["miss"] < 2 * len(steps)
    assert counts.total() >= 3 * len(steps)


def test_one_that_stops_harms_nobody(servers: list[Server], open_stream: Open) -> None:
    stopped, going = sequence(open_stream(prefetch_factor=1)), sequence(open_stream())
    begun = [next(stopped) for _ in range(3)]
    expected = list(going)
    assert begun + list(stopped) == expected
    assert all(server.budget.used <= server.budget.capacity for server in servers)


def test_other_epochs_and_seeds_are_made_for_themselves(
    servers: list[Server], open_stream: Open
) -> None:
    first = list(sequence(open_stream(seed=1)))
    before = made(servers)
    other = list(sequence(open_stream(seed=2)))
    assert first != other
    assert made(servers)["hit"] == before["hit"]
    assert list(sequence(open_stream(seed=1))) == first


def test_nothing_is_kept_where_nothing_may_be(
    dataset_root: Path, start_server: Start, open_stream: Open
) -> None:
    alone = start_server(data_root=(dataset_root,), shared_bytes=0)
    target = f"static:///{alone.address}"
    first = list(sequence(open_stream(target=target)))
    assert list(sequence(open_stream(target=target))) == first
    assert made([alone])["miss"] >= 2 * len(first)
    assert alone.budget.used == 0
