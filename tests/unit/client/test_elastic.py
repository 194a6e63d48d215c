"""States of all ranks, merged, and restored with any world_size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA, MakeStream, ids_of, ranks
from trainer_client import BatchStream, StateMismatchError, merge_state_dicts

UNKNOWN = replace(DATA, counts_known=False)
MANY = FakeData(shards=tuple((8, 5 + i) for i in range(13)), batch_size=4)


def take(streams: Sequence[BatchStream], steps: int) -> tuple[list[int], dict[str, Any]]:
    """The ids of some steps of every rank, and the merged state after them."""
    ids: list[int] = []
    for stream in streams:
        iterator = iter(stream)
        for _ in range(steps):
            ids += ids_of(next(iterator))
    states = [json.loads(json.dumps(stream.state_dict())) for stream in streams]
    return ids, merge_state_dicts(states[::-1])


def rest(streams: Sequence[BatchStream], state: dict[str, Any]) -> list[int]:
    ids: list[int] = []
    for stream in streams:
        stream.load_state_dict(json.loads(json.dumps(state)))
        for batch in stream:
            ids += ids_of(batch)
    return ids


@pytest.mark.parametrize("interleave", [1, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("steps", [0, 1, 5, 9])
def test_a_merged_state_is_restored_with_any_world_size(
    make_stream: MakeStream, tmp_path: Path, steps: int, world_size: int, interleave: int
) -> None:
    with FakeFleet(MANY) as fleet:
        before = ranks(make_stream, fleet.target, 4, tmp_path, interleave=interleave)
        ids, state = take(before, steps)
        after = ranks(make_stream, fleet.target, world_size, tmp_path, interleave=interleave)
        ids += rest(after, state)
        (left_out,) = {stream.stats().left_out_rows for stream in after}
        assert len({stream.stats().batches for stream in after}) == 1
        assert after[0].stats().left_out_batches < world_size
        assert len(ids) == len(set(ids))
        assert len(ids) + left_out == MANY.row_count
        assert [stream.epoch for stream in after] == [1] * world_size


@pytest.mark.parametrize("sizes", [(1, 3, 2), (4, 4, 1), (2, 5, 3)])
def test_restores_in_a_row(make_stream: MakeStream, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with FakeFleet(MANY) as fleet:
        ids: list[int] = []
        state: dict[str, Any] = {}
        for world_size in sizes:
            streams = ranks(make_stream, fleet.target, world_size, tmp_path)
            for stream in streams:
                stream.load_state_dict(state)
            taken, state = take(streams, 2)
            ids += taken
        ids += rest(ranks(make_stream, fleet.target, 1, tmp_path), state)
        assert sorted(ids) == list(range(MANY.row_count))


@pytest.mark.filterwarnings("ignore:the dataset's row counts are unknown")
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_unknown_counts(make_stream: MakeStream, tmp_path: Path, world_size: int) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        ids, state = take(ranks(make_stream, fleet.target, 2, tmp_path), 3)
        ids += rest(ranks(make_stream, fleet.target, world_size, tmp_path), state)
        assert sorted(ids) == list(range(UNKNOWN.row_count))


@pytest.mark.filterwarnings("ignore:the dataset's row counts are unknown")
def test_a_rank_that_is_done_is_merged_with_those_that_are_not(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        first, second = ranks(make_stream, fleet.target, 2, tmp_path)
        ids = [i for batch in first for i in ids_of(batch)]
        ids += ids_of(next(iter(second)))
        assert (first.state_dict()["epoch"], second.state_dict()["epoch"]) == (1, 0)
        state = merge_state_dicts([first.state_dict(), second.state_dict()])
        ids += rest(ranks(make_stream, fleet.target, 3, tmp_path), state)
        assert sorted(ids) == list(range(UNKNOWN.row_count))


def test_the_end_of_an_epoch_is_the_start_of_the_next(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(DATA) as fleet:
        streams = ranks(make_stream, fleet.target, 2, tmp_path)
        for stream in streams:
            for _ in stream:
                pass
        state = merge_state_dicts([stream.state_dict() for stream in streams])
        assert (state["epoch"], state["position"]) == (1, None)
        only = make_stream(fleet.target, snapshot_dir=tmp_path)
        assert sorted(rest([only], state)) == list(range(DATA.row_count))
        assert only.epoch == 2


def test_the_state_of_an_only_rank_needs_no_merging(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(MANY) as fleet:
        only = make_stream(fleet.target, snapshot_dir=tmp_path)
        iterator = iter(only)
        ids = ids_of(next(iterator)) + ids_of(next(iterator))
        after = ranks(make_stream, fleet.target, 2, tmp_path)
        ids += rest(after, only.state_dict())
        assert len(ids) + after[0].stats().left_out_rows == MANY.row_count


def test_len_and_the_next_epoch_after_a_merged_state(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(MANY) as fleet:
        _, state = take(ranks(make_stream, fleet.target, 2, tmp_path), 3)
        only = make_stream(fleet.target, snapshot_dir=tmp_path)
        whole = len(only)
        only.load_state_dict(state)
        assert len(only) == whole - 6
        assert len(list(only)) == whole - 6
        assert len(only) == len(list(only)) == whole


def test_states_that_do_not_belong_together_are_refused(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(MANY) as fleet:
        streams = ranks(make_stream, fleet.target, 3, tmp_path)
        _, merged = take(streams, 1)
        one, two, three = (stream.state_dict() for stream in streams)
        for states, message in [
            ([], "no state"),
            ([one, three], "rank 1 of 3 are missing"),
            ([one, two, two, three], "two states are of rank 1"),
            ([one, two, {**three, "seed": 9}], "seed is 9 on rank 2"),
            ([one, two, {**three, "epoch": 1}], "epoch is 1 on rank 2"),
            ([merged], "merged already"),
            ([one, two, {**three, "version": 9}], "version 9"),
        ]:
            with pytest.raises(StateMismatchError, match=message):
                merge_state_dicts(states)
        with pytest.raises(StateMismatchError, match=r"world_size 3.*merge_state_dicts"):
            make_stream(fleet.target).load_state_dict(one)
        broken = json.loads(json.dumps(merged))
        broken["position"]["deals"][0]["positions"][0]["next_segment"] = 99
        other = make_stream(fleet.target, snapshot_dir=tmp_path)
        other.load_state_dict(broken)
        with pytest.raises(StateMismatchError, match="does not fit the plan of epoch 0"):
            next(iter(other))
