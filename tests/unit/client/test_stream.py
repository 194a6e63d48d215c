from __future__ import annotations

import gc
import json
import multiprocessing
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet, Script, Stall
from tests.unit.client.conftest import DATA, DATASET, MakeStream, drain, ids_of
from trainer_client import (
    BatchStream,
    RequestError,
    StreamClosedError,
    StreamTimeoutError,
)

ALL_IDS = list(range(DATA.row_count))
UNKNOWN = replace(DATA, counts_known=False)


def flat(batches: list[list[int]]) -> list[int]:
    return sorted(i for batch in batches for i in batch)


def test_an_epoch_delivers_every_row_once(make_stream: MakeStream) -> None:
    with FakeFleet(DATA, 2) as fleet:
        stream = make_stream(fleet.target)
        batches = drain(stream)
        assert flat(batches) == ALL_IDS
        assert len(batches) == len(stream)
        stats = stream.stats()
        assert (stats.rows, stats.batches) == (DATA.row_count, len(batches))
        assert sum(s.rows for s in stats.servers.values()) == DATA.row_count
        assert sum(s.wire_bytes for s in stats.servers.values()) == stats.wire_bytes
        # Where neither is busy, all shards may hash to the same one.
        assert set(stats.servers) == {fleet.addresses[opened.server] for opened in fleet.opened}
        assert stats.retries == stats.refetches == 0
        assert stats.elapsed_s > 0
        assert 0 <= stats.wait_share <= 1


@pytest.mark.parametrize("servers", [2, 4])
@pytest.mark.parametrize("data", [DATA, UNKNOWN])
def test_the_order_does_not_depend_on_the_servers(
    make_stream: MakeStream, servers: int, data: FakeData
) -> None:
    with FakeFleet(data) as one, FakeFleet(data, servers) as many:
        assert drain(make_stream(one.target)) == drain(make_stream(many.target))


def test_the_order_is_the_schedules(make_stream: MakeStream) -> None:
    """Round-robin over two segments, from what the fake's shards hold."""
    with FakeFleet(DATA) as fleet:
        shards = [list(DATA.batches(s, 0, 3)) for s in range(5)]
        expected, slots, unopened = [], [shards[0], shards[1]], shards[2:]
        while slots:
            slot = slots.pop(0)
            expected.append(slot.pop(0))
            if not slot and unopened:
                slot = unopened.pop(0)
            if slot:
                slots.append(slot)
        assert drain(make_stream(fleet.target, interleave=2)) == expected


@pytest.mark.parametrize("data", [DATA, UNKNOWN])
@pytest.mark.parametrize("window", [1, 2])
def test_restoring_at_every_batch_gives_the_identical_rest(
    make_stream: MakeStream, data: FakeData, window: int
) -> None:
    with FakeFleet(data, 2) as fleet:
        options = {"interleave": 3, "shuffle_window_splits": window}
        stream = make_stream(fleet.target, **options)
        states: list[dict[str, Any]] = [stream.state_dict()]
        order = []
        for batch in stream:
            order.append(ids_of(batch))
            assert stream.state_dict() == stream.state_dict(batch)
            states.append(json.loads(json.dumps(stream.state_dict(batch))))
        following = drain(stream)
        for done, state in enumerate(states):
            resumed = make_stream(fleet.target, **options)
            resumed.load_state_dict(state)
            if state["epoch"] == 1:
                assert (done, drain(resumed)) == (len(order), following)
                continue
            assert resumed.epoch == 0
            resumed.set_epoch(0)
            assert resumed.state_dict() == state
            assert drain(resumed) == order[done:]
            assert resumed.epoch == 1
            resumed.close()


def test_the_state_is_of_what_was_trained_not_of_what_was_fetched(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        iterator = iter(stream)
        trained = next(iterator)
        rest = [ids_of(batch) for batch in iterator]
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(stream.state_dict(trained.to("meta").to("meta")))
        assert drain(resumed) == rest


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_take_equal_steps_and_share_every_row(
    make_stream: MakeStream, world_size: int, tmp_path: Any
) -> None:
    with FakeFleet(DATA, 2) as fleet:
        streams = [
            make_stream(fleet.target, rank=r, world_size=world_size, snapshot_dir=tmp_path / "s")
            for r in range(world_size)
        ]
        parts = [drain(stream) for stream in streams]
        total = sum(map(DATA.batches_in, range(5)))
        assert {len(part) for part in parts} == {total // world_size}
        ids = [i for part in parts for i in flat(part)]
        stats = streams[0].stats()
        assert stats.left_out_batches == total % world_size
        assert len(ids) == len(set(ids)) == DATA.row_count - stats.left_out_rows
        assert fleet.describe_count == 1


@pytest.mark.filterwarnings("ignore:drop_last left out")
def test_drop_last_leaves_short_batches_out_and_counts_them(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as known, FakeFleet(UNKNOWN) as unknown:
        streams = [make_stream(f.target, drop_last=True) for f in (known, unknown)]
        full = [b for s in range(5) for b in DATA.batches(s, 0, 3) if len(b) == 4]
        assert len(streams[0]) == len(full)
        for stream in streams:
            assert flat(drain(stream)) == flat(full)
            assert stream.stats().dropped_rows == DATA.row_count - 4 * len(full)
            assert stream.stats().dropped_batches == 4


def test_unknown_counts_have_no_length(make_stream: MakeStream) -> None:
    with FakeFleet(UNKNOWN) as fleet:
        stream = make_stream(fleet.target)
        with pytest.raises(TypeError, match="unknown"):
            len(stream)
        assert len(list(stream)) == sum(map(DATA.batches_in, range(5)))


def test_epochs_follow_one_another(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        first, second = drain(stream), drain(stream)
        assert first != second
        assert flat(first) == flat(second)
        assert stream.epoch == 2
        stream.sampler.set_epoch(0)
        assert drain(stream) == first
        assert fleet.describe_count == 1


def test_iter_is_lazy_and_ends_for_good(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        iterator = iter(stream)
        assert iter(iterator) is iterator
        assert not fleet.opened
        assert fleet.describe_count == 0
        assert len(list(iterator)) == len(stream)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(iterator)


def test_a_new_iterator_closes_the_old_one(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        old = iter(stream)
        first = ids_of(next(old))
        new = iter(stream)
        for _ in range(2):
            with pytest.raises(StreamClosedError, match="newer one"):
                next(old)
        # An epoch that was not finished starts again.
        assert ids_of(next(new)) == first


def test_an_abandoned_iterator_lets_its_streams_go(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, prefetch_bytes=1)
        for _ in stream:
            break
        gc.collect()
        assert fleet.wait_for_streams(0)


def test_a_forgotten_stream_lets_everything_go() -> None:
    with FakeFleet(DATA) as fleet:
        iterator = iter(BatchStream(DATASET, target=fleet.target, batch_size=4, prefetch_bytes=1))
        # The stream lives as long as its iterator.
        assert len(ids_of(next(iterator))) == 4
        del iterator
        gc.collect()
        assert fleet.wait_for_streams(0)


def test_closing_ends_a_next_that_waits(make_stream: MakeStream) -> None:
    script = Script(batches={(0, 0): [Stall()]})
    with FakeFleet(DATA, script=script) as fleet:
        stream = make_stream(fleet.target, timeout=60.0)
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                next(iter(stream))
            except StreamClosedError as error:
                failures.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        assert fleet.wait_for_stall()
        stream.close()
        stream.close()
        thread.join(10)
        assert not thread.is_alive()
        assert len(failures) == 1
        with pytest.raises(StreamClosedError, match="closed"):
            iter(stream)


def test_a_failed_iterator_does_not_say_that_the_epoch_is_over(make_stream: MakeStream) -> None:
    script = Script(batches={(0, 1): [Stall()] * 9})
    with FakeFleet(DATA, script=script) as fleet:
        stream = make_stream(fleet.target, timeout=0.5, interleave=1)
        iterator = iter(stream)
        next(iterator)
        for _ in range(2):
            with pytest.raises(StreamTimeoutError, match="shard 0 of epoch 0"):
                next(iterator)
        # The state is still that of the last good batch.
        resumed = make_stream(fleet.target, interleave=1)
        resumed.load_state_dict(stream.state_dict())
        fleet.script.batches.clear()
        assert len(drain(resumed)) == len(resumed) - 1


def test_batches_arrive_on_the_device(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        batches = list(make_stream(fleet.target, device="meta"))
        assert {batch.device for batch in batches} == {torch.device("meta")}
        assert len({batch.position for batch in batches}) == len(batches)
        cpu = make_stream(fleet.target, device="cpu")
        assert drain(cpu) == drain(make_stream(fleet.target))


def test_expanding_ahead_changes_nothing_but_when_it_is_done(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        assert drain(make_stream(fleet.target, expand=True)) == drain(make_stream(fleet.target))


def _use(stream: BatchStream, results: Any) -> None:
    try:
        next(iter(stream))
    except StreamClosedError as error:
        results.put(str(error))


def test_a_forked_child_is_told_so(make_stream: MakeStream) -> None:
    stream = make_stream("static:///127.0.0.1:1")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_use, args=(stream, results))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert "num_workers=0" in results.get()


def test_pin_memory_without_a_gpu_warns_like_a_dataloader(make_stream: MakeStream) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="pin_memory"):
        make_stream("static:///127.0.0.1:1", pin_memory=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 1 << 21}, "1,048,576"),
        ({"seed": -1}, "seed"),
        ({"num_shards": 0}, "num_shards"),
        ({"shuffle": 1}, "shuffle is 1"),
        ({"interleave": 0}, "interleave"),
        ({"prefetch_factor": 0}, "prefetch_factor"),
        ({"prefetch_bytes": 0}, "prefetch_bytes"),
        ({"timeout": 0}, "timeout"),
        ({"expand": 1}, "expand is 1"),
        ({"expand": True, "device": "meta"}, "expanded on the device"),
        ({"rank": 2, "world_size": 2}, "0 <= rank < world_size"),
        ({"rank": 0}, "both or neither"),
        ({"target": "ray://x"}, "forms are"),
        ({"dataset": "x"}, "Dataset.from_yaml"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"dataset": DATASET, "target": "local://1", "batch_size": 4}
    arguments |= options
    with pytest.raises(RequestError, match=message):
        BatchStream(arguments.pop("dataset"), **arguments)
