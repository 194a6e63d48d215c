"""Ranks with different numbers of batches."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.fleet import FakeFleet
from tests.fakes.step_group import FakeGroup
from tests.unit.client.conftest import DATA, DATASET, MakeStream, drain, ids_of, ranks
from trainer_client import (
    Batch,
    BatchStream,
    HeadraceError,
    RequestError,
    ServerUnavailableError,
    StateMismatchError,
    StreamTimeoutError,
    merge_state_dicts,
)
from trainer_client.device import DeviceMover
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
        for stream in streams:
            with pytest.raises(
                RequestError, match=r"batches for \d+ ranks, so some have none.*drop"
            ):
                next(iter(stream))


@pytest.mark.parametrize("uneven", ["drop", "pad"])
def test_modes_that_need_counts_say_so(
    make_stream: MakeStream, tmp_path: Path, uneven: str
) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = ranks(make_stream, fleet.target, 2, tmp_path, uneven=uneven)[0]
        with pytest.raises(ValueError, match=r"needs row counts.*\"sync\".*\"none\""):
            next(iter(stream))


def test_known_counts_need_no_word_between_ranks(make_stream: MakeStream, tmp_path: Path) -> None:
    with FakeFleet(DATA) as fleet:
        for asked, same in (("sync", "drop"), ("sync-pad", "pad")):
            one = ranks(make_stream, fleet.target, 2, tmp_path, uneven=asked)
            other = ranks(make_stream, fleet.target, 2, tmp_path, uneven=same)
            assert [drain(stream) for stream in one] == [drain(stream) for stream in other]


def test_pad_goes_on_where_fewer_batches_are_left_than_ranks(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(DATA) as fleet:
        before = ranks(make_stream, fleet.target, 2, tmp_path, uneven="pad")
        ids: list[int] = []
        for stream in before:
            iterator = iter(stream)
            for _ in range(len(stream) - 1):
                ids += ids_of(next(iterator))
        merged = merge_state_dicts([stream.state_dict() for stream in before])
        after = ranks(make_stream, fleet.target, 5, tmp_path, uneven="pad")
        padded = 0
        for stream in after:
            stream.load_state_dict(json.loads(json.dumps(merged)))
            (batch,) = stream
            padded += batch.padding
            ids += [] if batch.padding else ids_of(batch)
        assert sorted(ids) == list(range(DATA.row_count))
        assert padded >= 3


@pytest.mark.parametrize("uneven", ["sync", "sync-pad"])
def test_modes_that_need_a_process_group_say_so(
    make_stream: MakeStream, tmp_path: Path, uneven: str
) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = ranks(make_stream, fleet.target, 2, tmp_path, uneven=uneven)[0]
        with pytest.raises(RequestError, match=r"init_process_group first"):
            next(iter(stream))


def test_a_state_of_another_deal_is_refused(make_stream: MakeStream, tmp_path: Path) -> None:
    with FakeFleet(DATA) as fleet:
        streams = ranks(make_stream, fleet.target, 2, tmp_path, uneven="none")
        for stream in streams:
            next(iter(stream))
        states = [stream.state_dict() for stream in streams]
        others = ranks(make_stream, fleet.target, 2, tmp_path, uneven="drop")
        others[0].load_state_dict(states[0])
        with pytest.raises(StateMismatchError, match=r"uneven='drop'.*merge_state_dicts"):
            next(iter(others[0]))
        merged = merge_state_dicts(states)
        ids: list[int] = []
        for stream in others:
            stream.load_state_dict(merged)
            ids += [i for batch in stream for i in ids_of(batch)]
        assert len(ids) == DATA.row_count - 8 - others[0].stats().left_out_rows


def test_padding_follows_none_unless_a_rank_had_ended(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    """With "none" a rank may be in the next epoch while another one still has a batch."""
    world_size = 4
    assert BATCHES % world_size
    with FakeFleet(DATA) as fleet:
        steps = BATCHES // world_size
        for taken in range(1, steps + 1):
            before = ranks(make_stream, fleet.target, world_size, tmp_path, uneven="none")
            after = ranks(make_stream, fleet.target, world_size, tmp_path, uneven="pad")
            ids: list[int] = []
            for stream, other in zip(before, after, strict=True):
                iterator = iter(stream)
                for _ in range(taken):
                    ids += ids_of(next(iterator))
                other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
            behind = [stream for stream in after if stream.epoch == 0]
            if taken == steps:
                assert 0 < len(behind) < world_size
                for stream in behind:
                    with pytest.raises(
                        StateMismatchError, match=r"uneven='none'.*uneven='pad'.*merge_state_dicts"
                    ):
                        next(iter(stream))
                after = [make_stream(fleet.target, snapshot_dir=tmp_path)]
                for stream in after:
                    stream.load_state_dict(merge_state_dicts([s.state_dict() for s in before]))
            taken_after = [list(stream) for stream in after]
            assert len({len(batches) for batches in taken_after}) == 1
            for batches in taken_after:
                ids += [i for batch in batches if not batch.padding for i in ids_of(batch)]
            assert sorted(ids) == list(range(DATA.row_count))


def test_many_dropped_rows_are_told(make_stream: MakeStream) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = make_stream(fleet.target, drop_last=True)
        with pytest.warns(UserWarning, match=r"drop_last left out \d+ of \d+ rows.*num_shards"):
            drain(stream)


def test_an_unknown_mode_is_refused(make_stream: MakeStream) -> None:
    with pytest.raises(RequestError, match=r"uneven is 'even'.*'sync-pad'"):
        make_stream("static:///nowhere:1", uneven="even")


class Counted:
    """A reader of some batches, and then perhaps a failure."""

    def __init__(self, batches: list[Batch], failure: Exception | None = None) -> None:
        self._batches = iter(batches)
        self._failure = failure
        self._last: Batch | None = None
        self.closed = False

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Batch:
        for batch in self._batches:
            self._last = batch
            return batch
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    def ready(self) -> bool:
        return True

    def last(self) -> Batch | None:
        return self._last

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


def test_counting_what_is_left_has_a_bound() -> None:
    batches = batches_of_an_epoch()
    group = FakeGroup(2)
    meter = Meter()
    # The other rank has nothing.
    group.ask(1)(0, 0, 0)
    steps = InStep(Counted(batches[:5]), group.ask(0), 0, meter, pad=False, count_for_s=0.0)
    with pytest.warns(UserWarning, match=r"more batches of epoch 0.*stopped after 0 s.*num_shards"):
        assert list(steps) == []
    assert meter.stats().left_out_batches == 1
    failure = ServerUnavailableError("gone", server="a:1")
    group.ask(1)(0, 0, 0)
    steps = InStep(Counted(batches[:3], failure), group.ask(0), 0, meter, pad=False)
    with pytest.warns(UserWarning, match=r"not all that are left out were counted.*gone"):
        assert list(steps) == []
    assert meter.stats().left_out_batches == 4


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


def test_a_rank_whose_peers_are_gone_says_why_it_failed() -> None:
    class Silent:
        def ready(self) -> bool:
            return False

        def wait(self) -> list[tuple[int, int, int]]:
            raise StreamTimeoutError("a rank does not say")

    failure = ValueError("pinned memory")
    steps = InStep(Counted([], failure), lambda *_: Silent(), 0, Meter(), pad=False)
    with pytest.raises(ValueError, match="pinned memory"):
        next(steps)
    with pytest.raises(StreamTimeoutError):
        next(InStep(Counted([]), lambda *_: Silent(), 0, Meter(), pad=False))


@pytest.mark.parametrize("failure", [None, ServerUnavailableError("gone", server="a:1")])
def test_a_mover_tells_the_end_after_the_batch_at_hand(failure: Exception | None) -> None:
    batches = batches_of_an_epoch()[:3]
    mover = DeviceMover(Counted(batches, failure), torch.device("meta"), lambda: True)
    assert [next(mover).index for _ in range(3)] == [batch.index for batch in batches]
    for _ in range(2):
        with pytest.raises(StopIteration if failure is None else ServerUnavailableError):
            next(mover)


def test_ranks_that_are_out_of_step_are_told() -> None:
    batches = batches_of_an_epoch()
    for result in run([Counted(batches), Counted(batches)], pad=False, epochs=[0, 1]):
        assert isinstance(result, StateMismatchError)
        assert "at step 0 of epoch" in str(result)
