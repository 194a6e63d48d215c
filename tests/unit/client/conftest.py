from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.epochs import FakeData
from trainer_client import Batch, BatchStream, Dataset, Dense, Label, Sparse, kernels, parquet

DATASET = Dataset(
    source=parquet("data/*.parquet"),
    features=[Dense("dense_*"), Sparse("cat", "seq"), Label("label")],
)
DATA = FakeData(shards=((10, 7), (5,), (20, 3, 4), (9,), (8, 8)), batch_size=4)

MakeStream = Callable[..., BatchStream]


@pytest.fixture(scope="session", autouse=True)
def _kernels() -> None:
    """No test waits for a compiler within its own time limits."""
    kernels.load()


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, or takes a launcher's variables for its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Every thread that this package starts ends with its stream."""
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("headrace-")]
    assert not left


@pytest.fixture
def make_stream() -> Iterator[MakeStream]:
    """Makes streams of DATASET with DATA's batch size and a short timeout, closed at the end."""
    streams = []

    def make(target: str, **options: Any) -> BatchStream:
        defaults = {"batch_size": DATA.batch_size, "timeout": 5.0, "seed": 3}
        stream = BatchStream(DATASET, target=target, **(defaults | options))
        streams.append(stream)
        return stream

    yield make
    for stream in streams:
        stream.close()


def ranks(
    make: MakeStream, target: str, world_size: int, snapshot_dir: Path, **options: Any
) -> list[BatchStream]:
    """The streams of every rank."""
    return [
        make(target, rank=rank, world_size=world_size, snapshot_dir=snapshot_dir, **options)
        for rank in range(world_size)
    ]


def ids_of(batch: Batch) -> list[int]:
    """The ids of a batch's rows; every feature of theirs is checked against them."""
    assert batch.dense is not None
    assert batch.labels is not None
    assert batch.sparse is not None
    ids: list[int] = batch.dense[:, 0].long().tolist()
    assert batch.dense[:, 1].tolist() == [i / 2 for i in ids]
    assert batch.labels[:, 0].tolist() == [i % 2 for i in ids]
    assert batch.sparse["cat"].to_list() == [[i + (1 << 40)] for i in ids]
    assert batch.sparse["seq"].to_list() == [[i] * (i % 4) for i in ids]
    return ids


def drain(stream: BatchStream) -> list[list[int]]:
    """The ids of an epoch, batch by batch."""
    return [ids_of(batch) for batch in stream]
