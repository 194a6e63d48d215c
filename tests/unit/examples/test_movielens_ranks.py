"""A small data set on many ranks: fewer shards than ranks, and fewer batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from movielens_data import write_dataset
from movielens_raw import Raw
from train_movielens import movielens

from preprocessor_server.server import Server
from preprocessor_server.settings import Settings
from trainer_client import BatchStream


@pytest.fixture
def data(raw: Raw, tmp_path: Path) -> Path:
    write_dataset(raw, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def target(data: Path) -> Iterator[str]:
    server = Server(Settings(listen="127.0.0.1:0", data_root=(data,), cpu_threads=2))
    server.start()
    yield f"static:///{server.address}"
    server.stop()


def batches_of(target: str, data: Path, **options: Any) -> tuple[list[int], int, int]:
    """The steps of every rank, the rows delivered, and those left out."""
    steps, rows = [], 0
    for rank in range(options["world_size"]):
        with BatchStream(
            movielens("train"), target=target, rank=rank, snapshot_dir=data / "s", **options
        ) as stream:
            batches = list(stream)
            assert len(stream) == len(batches)
            steps.append(len(batches))
            rows += sum(batch.batch_size for batch in batches)
            left_out = stream.stats().left_out_rows
    return steps, rows, left_out


@pytest.mark.parametrize("uneven", ["drop", "none"])
@pytest.mark.parametrize("world_size", [4, 8])
def test_fewer_shards_than_ranks(target: str, data: Path, world_size: int, uneven: str) -> None:
    total = sum(pq.read_metadata(path).num_rows for path in (data / "train").glob("*.parquet"))
    # 20 batches of the real one.
    batch_size = 4096 if total > 50_000 else total // 20
    steps, rows, left_out = batches_of(
        target, data, world_size=world_size, batch_size=batch_size, uneven=uneven, num_shards=2
    )
    assert rows + left_out == total
    assert min(steps) > 0
    if uneven == "drop":
        assert len(set(steps)) == 1
        assert left_out < world_size * batch_size
    else:
        assert left_out == 0


def test_fewer_batches_than_ranks(target: str, data: Path) -> None:
    with pytest.warns(UserWarning, match=r"fewer batches .[12]. than there are ranks .4."):
        steps, rows, left_out = batches_of(
            target, data, world_size=4, batch_size=1 << 16, num_shards=2
        )
    assert (steps, rows) == ([0] * 4, 0)
    assert left_out > 0
