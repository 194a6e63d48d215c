"""States restored at every batch, and merged with other numbers of ranks, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from preprocessor_server.server import Server
from tests.fakes.parquet import ROW_COUNT
from trainer_client import BatchStream, Dataset, Label, Sparse, merge_state_dicts, parquet

Start = Callable[..., Server]
Open = Callable[..., list[BatchStream]]
BATCH = 450
RANKS = 4
DATASET = Dataset(
    source=parquet("rows", group_by=["request"]), features=[Sparse("id"), Label("label")]
)


@pytest.fixture
def open_ranks(dataset_root: Path, tmp_path: Path, start_server: Start) -> Iterator[Open]:
    """Makes the streams of every rank, of one server and one snapshot."""
    address = start_server(data_root=(dataset_root,)).address
    streams: list[BatchStream] = []

    def make(world_size: int, **options: Any) -> list[BatchStream]:
        made = [
            BatchStream(
                DATASET,
                target=f"static:///{address}",
                batch_size=BATCH,
                seed=11,
                num_shards=5,
                rank=rank,
                world_size=world_size,
                snapshot_dir=tmp_path / "snapshots",
                **options,
            )
            for rank in range(world_size)
        ]
        streams.extend(made)
        return made

    yield make
    for stream in streams:
        stream.close()


def take(stream: BatchStream, steps: int) -> list[int]:
    iterator = iter(stream)
    return [i for _ in range(steps) for i in ids(next(iterator))]


def ids(batch: Any) -> list[int]:
    found: list[int] = batch.sparse["id"].values.tolist()
    return found


def rest(streams: Sequence[BatchStream], state: dict[str, Any]) -> list[int]:
    found: list[int] = []
    for stream in streams:
        stream.load_state_dict(json.loads(json.dumps(state)))
        found += [i for batch in stream for i in ids(batch)]
    return found


@pytest.mark.filterwarnings("ignore:epoch 0 has fewer batches")
@pytest.mark.parametrize("uneven", ["none", "drop"])
@pytest.mark.parametrize("interleave", [1, 4])
def test_four_ranks_go_on_as_any_number(open_ranks: Open, interleave: int, uneven: str) -> None:
    for steps in (1, 3, 5):
        before = open_ranks(RANKS, uneven=uneven, interleave=interleave)
        delivered = [i for stream in before for i in take(stream, steps)]
        merged = merge_state_dicts([stream.state_dict() for stream in before])
        for world_size in (1, 2, 3, 8):
            after = open_ranks(world_size, uneven=uneven, interleave=interleave)
            found = delivered + rest(after, merged)
            stats = [stream.stats() for stream in after]
            assert len(set(found)) == len(found)
            assert len(found) + stats[0].left_out_rows == ROW_COUNT
            if uneven == "drop":
                assert len({each.batches for each in stats}) == 1
                assert stats[0].left_out_batches < world_size
            else:
                assert stats[0].left_out_batches == 0
            assert [stream.epoch for stream in after] == [1] * world_size


@pytest.mark.parametrize("interleave", [1, 4])
def test_four_ranks_go_on_from_every_batch(open_ranks: Open, interleave: int) -> None:
    for stream, again in zip(
        open_ranks(RANKS, interleave=interleave),
        open_ranks(RANKS, interleave=interleave),
        strict=True,
    ):
        states = [stream.state_dict()]
        batches = []
        for batch in stream:
            batches.append(ids(batch))
            states.append(json.loads(json.dumps(stream.state_dict(batch))))
        following = ids(next(iter(stream)))
        for step, state in enumerate(states[:-1]):
            again.load_state_dict(state)
            assert [ids(batch) for batch in again] == batches[step:]
        # The end of an epoch is the start of the next; and a state may be loaded twice.
        for _ in range(2):
            again.load_state_dict(states[-1])
            assert ids(next(iter(again))) == following
            assert again.epoch == 1


@pytest.mark.parametrize("uneven", ["none", "drop"])
def test_two_changes_in_a_row(open_ranks: Open, uneven: str) -> None:
    delivered: list[int] = []
    merged: dict[str, Any] = {}
    for world_size, steps in ((4, 2), (3, 1), (2, 2)):
        streams = open_ranks(world_size, uneven=uneven)
        for stream in streams:
            stream.load_state_dict(merged)
            delivered += take(stream, steps)
        merged = merge_state_dicts([stream.state_dict() for stream in streams])
    only = open_ranks(1, uneven=uneven)
    delivered += rest(only, merged)
    assert sorted(delivered) == list(range(ROW_COUNT))


def test_the_state_of_the_batch_that_was_trained_on(open_ranks: Open) -> None:
    """A pipeline (TorchRec's, say) holds two batches more than the model has seen."""
    (stream,) = open_ranks(1)
    (again,) = open_ranks(1)
    ahead: list[Any] = []
    trained: list[int] = []
    batches = iter(stream)
    for batch in batches:
        ahead.append(batch)
        if len(ahead) > 2:
            oldest = ahead.pop(0)
            trained += ids(oldest)
            again.load_state_dict(stream.state_dict(oldest))
            following = ids(next(iter(again)))
            assert following == ids(ahead[0])
    assert len(trained) == ROW_COUNT - sum(batch.batch_size for batch in ahead)


def test_a_state_without_even_steps_goes_on_with_padding(open_ranks: Open) -> None:
    before = open_ranks(3, uneven="none")
    delivered = [i for stream in before for i in take(stream, 2)]
    steps = set()
    for stream, old in zip(open_ranks(3, uneven="pad"), before, strict=True):
        stream.load_state_dict(old.state_dict())
        batches = list(stream)
        steps.add(len(batches))
        delivered += [i for batch in batches if not batch.padding for i in ids(batch)]
    assert len(steps) == 1
    assert sorted(delivered) == list(range(ROW_COUNT))
