"""Ranks with different numbers of batches."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.fleet import FakeFleet
from tests.fakes.step_group import FakeGroup
from tests.unit.client.conftest import DATA, DATASET, MakeStream, ids_of, ranks
from trainer_client import (
    Batch,
    BatchStream,
    HeadraceError,
    RequestError,
    ServerUnavailableError,
    StateMismatchError,
)
from trainer_client.in_step import InStep
from trainer_client.telemetry import Meter

UNKNOWN = replace(DATA, counts_known=False)
BATCHES = sum(-(-sum(shard) // DATA.batch_size) for shard in DATA.shards)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_none_delivers_everything(make_stream: MakeStream, tmp_path: Path, world_size: int) -> None:
    with FakeFleet(DATA) as fleet:
        streams = ranks(make_stream, fleet.target, world_size, tmp_path, uneven="none")
        taken = [list(stream) for stream in streams]
        assert [len(batches) for batches in taken] == [len(stream) for stream in streams]
        ids = [i for batches in taken for batch in batches for i in ids_of(batch)]
        assert sorted(ids) == list(range(DATA.row_count))
        assert {stream.stats().left_out_rows for stream in streams} == {0}


@pytest.mark.parametrize("world_size", [2, 3, 4, 5])
def test_pad_repeats_the_last_batch_of_a_rank(
    make_stream: MakeStream, tmp_path: Path, world_size: int
) -> None:
    steps = -(-BATCHES // world_size)
    with FakeFleet(DATA) as fleet:
        streams = ranks(make_stream, fleet.target, world_size, tmp_path, uneven="pad")
        ids: list[int] = []
        for stream in streams:
            batches = list(stream)
            assert len(stream) == len(batches) == steps
            own = [batch for batch in batches if not batch.padding]
            assert batches[: len(own)] == own
            assert all(ids_of(batch) == ids_of(own[-1]) for batch in batches[len(own) :])
            assert stream.stats().padded_batches == steps - len(own) <= 1
            assert stream.stats().rows == sum(map(len, own))
            ids += [i for batch in own for i in ids_of(batch)]
        assert sorted(ids) == list(range(DATA.row_count))


@pytest.mark.parametrize("interleave", [1, 4])
def test_padding_is_resumed_at_every_step(
    make_stream: MakeStream, tmp_path: Path, interleave: int
) -> None:
    with FakeFleet(DATA) as fleet:
        options = {"uneven": "pad", "interleave": interleave}
        for stream in ranks(make_stream, fleet.target, 4, tmp_path, **options):
            whole = [(ids_of(batch), batch.padding, stream.state_dict(batch)) for batch in stream]
            for done, (_, _, state) in enumerate(whole[:-1], start=1):
                (resumed,) = [
                    each
                    for each in ranks(make_stream, fleet.target, 4, tmp_path, **options)
                    if each._rank == stream._rank
                ]
                resumed.load_state_dict(json.loads(json.dumps(state)))
                rest = [(ids_of(batch), batch.padding) for batch in resumed]
                assert rest == [(ids, padding) for ids, padding, _ in whole[done:]]
            assert whole[-1][2]["epoch"] == 1


def test_a_rank_without_a_batch_has_nothing_to_repeat(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(DATA) as fleet:
        streams = ranks(make_stream, fleet.target, BATCHES + 1, tmp_path, uneven="pad")
        with pytest.raises(RequestError, match=r"fewer batches than ranks.*drop"):
            next(iter(streams[-1]))


@pytest.mark.parametrize("uneven", ["drop", "pad"])
def test_modes_that_need_counts_say_so(
    make_stream: MakeStream, tmp_path: Path, uneven: str
) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = ranks(make_stream, fleet.target, 2, tmp_path, uneven=uneven)[0]
        with pytest.raises(ValueError, match=r"needs row counts.*\"sync\".*\"none\""):
            next(iter(stream))


@pytest.mark.parametrize("uneven", ["sync", "sync-pad"])
def test_modes_that_need_a_process_group_say_so(
    make_stream: MakeStream, tmp_path: Path, uneven: str
) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = ranks(make_stream, fleet.target, 2, tmp_path, uneven=uneven)[0]
        with pytest.raises(RequestError, match=r"init_process_group first"):
            next(iter(stream))


def test_an_unknown_mode_is_refused(make_stream: MakeStream) -> None:
    with pytest.raises(RequestError, match=r"uneven is 'even'.*'sync-pad'"):
        make_stream("static:///nowhere:1", uneven="even")


class Counted:
    """A reader of some batches, and then perhaps a failure."""

    def __init__(self, batches: list[Batch], failure: Exception | None = None) -> None:
        self._batches = iter(batches)
        self._failure = failure
        self.closed = False

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Batch:
        for batch in self._batches:
            return batch
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


@functools.cache
def batches_of_an_epoch() -> list[Batch]:
    with (
        FakeFleet(DATA) as fleet,
        BatchStream(DATASET, target=fleet.target, batch_size=4) as stream,
    ):
        return list(stream)


def run(
    readers: list[Counted], *, pad: bool, epochs: list[int] | None = None
) -> list[tuple[list[Batch], Meter] | Exception]:
    """What every rank gets from its reader, all of them at the same time."""
    group = FakeGroup(len(readers))

    def rank(number: int) -> tuple[list[Batch], Meter] | Exception:
        meter = Meter()
        epoch = epochs[number] if epochs else 0
        try:
            return list(InStep(readers[number], group.ask(number), epoch, meter, pad=pad)), meter
        except HeadraceError as error:
            return error

    with ThreadPoolExecutor(len(readers)) as pool:
        return list(pool.map(rank, range(len(readers))))


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_sync_ends_every_rank_at_the_same_step(counts: list[int]) -> None:
    batches = batches_of_an_epoch()
    results = run([Counted(batches[:count]) for count in counts], pad=False)
    for result, count in zip(results, counts, strict=True):
        assert not isinstance(result, Exception)
        taken, meter = result
        assert taken == batches[: min(counts)]
        left = batches[min(counts) : count]
        assert meter.stats().left_out_batches == len(left)
        assert meter.stats().left_out_rows == sum(map(len, left))


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_sync_pad_goes_on_until_every_rank_has_ended(counts: list[int]) -> None:
    batches = batches_of_an_epoch()
    results = run([Counted(batches[:count]) for count in counts], pad=True)
    for result, count in zip(results, counts, strict=True):
        assert not isinstance(result, Exception)
        taken, meter = result
        assert len(taken) == max(counts)
        assert taken[:count] == batches[:count]
        assert all(each.padding for each in taken[count:])
        assert all(each.memory is batches[count - 1].memory for each in taken[count:])
        assert meter.stats().left_out_batches == 0


def test_sync_pad_without_a_batch_to_repeat_ends_on_every_rank() -> None:
    batches = batches_of_an_epoch()
    for result in run([Counted(batches[:2]), Counted([])], pad=True):
        assert isinstance(result, RequestError)
        assert "rank 1 has no batch at all" in str(result)
    assert all(not isinstance(each, Exception) for each in run([Counted([])] * 2, pad=True))


@pytest.mark.parametrize("pad", [False, True])
def test_a_failure_of_one_rank_ends_all(pad: bool) -> None:
    batches = batches_of_an_epoch()
    failure = ServerUnavailableError("gone", server="a:1")
    first, second = run([Counted(batches[:5]), Counted(batches[:2], failure)], pad=pad)
    assert second is failure
    assert isinstance(first, HeadraceError)
    assert "rank 1 has no next batch because of an error" in str(first)


def test_ranks_that_are_out_of_step_are_told() -> None:
    batches = batches_of_an_epoch()
    for result in run([Counted(batches), Counted(batches)], pad=False, epochs=[0, 1]):
        assert isinstance(result, StateMismatchError)
        assert "at step 0 of epoch" in str(result)
