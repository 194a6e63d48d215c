"""A second server for a batch that holds up the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet, Script, Stall
from tests.unit.client.conftest import MakeStream, drain
from trainer_client import ServerUnavailableError, StreamClosedError, StreamTimeoutError
from trainer_client.epoch import Hedger
from trainer_client.prefetch import Prefetcher

MANY = FakeData(shards=tuple((8, 5 + i) for i in range(13)), batch_size=4)


class Racer:
    """Gives its items up to hold, where it waits for go or for its end."""

    def __init__(
        self, items: list[int], hold: int | None = None, other: Racer | None = None
    ) -> None:
        self.items = items
        self.hold = hold
        self.other = other
        self.failure: Exception | None = None
        self.held = threading.Event()
        self.go = threading.Event()
        self.closed = False
        self.asked: list[int] = []

    def __iter__(self) -> Iterator[int]:
        for number, item in enumerate(self.items):
            if number == self.hold:
                self.held.set()
                assert self.go.wait(20)
                if self.closed:
                    raise StreamClosedError("closed")
            yield item
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.closed = True
        self.go.set()

    def rival(self, given: int) -> Racer | None:
        self.asked.append(given)
        return self.other


def prefetcher(source: Racer) -> Prefetcher[int]:
    return Prefetcher(
        [0], lambda _: source, lanes=1, budget_bytes=1 << 20, items_per_lane=4, size_bytes=int
    )


def take_all(racing: Prefetcher[int], hedge_after_s: float) -> list[int]:
    items = []
    while (item := racing.take(0, 10, hedge_after_s)) is not None:
        items.append(item)
    return items


def test_the_rival_goes_on_where_it_was_faster() -> None:
    slow = Racer([1, 2, 3, 4], hold=2, other=Racer([3, 4]))
    racing = prefetcher(slow)
    assert take_all(racing, 0.01) == [1, 2, 3, 4]
    assert slow.closed
    assert slow.asked == [2]
    assert (racing.hedges, racing.hedges_won) == (1, 1)
    racing.close()


def test_a_rival_may_have_a_rival() -> None:
    last = Racer([4])
    second = Racer([3, 4], hold=1, other=last)
    racing = prefetcher(Racer([1, 2, 3, 4], hold=2, other=second))
    assert take_all(racing, 0.01) == [1, 2, 3, 4]
    assert second.asked == [3]
    assert racing.hedges_won == 2
    racing.close()


def test_the_source_goes_on_where_it_was_faster() -> None:
    rival = Racer([2, 3], hold=0)
    slow = Racer([1, 2, 3], hold=1, other=rival)
    racing = prefetcher(slow)
    assert racing.take(0, 10, 0.01) == 1
    taken: list[int | None] = []
    consumer = threading.Thread(target=lambda: taken.append(racing.take(0, 10, 0.01)))
    consumer.start()
    assert rival.held.wait(20)
    slow.go.set()
    consumer.join(20)
    assert [*taken, *take_all(racing, 5)] == [2, 3]
    assert rival.closed
    assert not slow.closed
    assert (racing.hedges, racing.hedges_won) == (1, 0)
    racing.close()


@pytest.mark.parametrize("failure", [None, ServerUnavailableError("gone", server="a:1")])
def test_a_rival_that_has_nothing_changes_nothing(failure: Exception | None) -> None:
    rival = Racer([])
    rival.failure = failure
    slow = Racer([1, 2], hold=1, other=rival)
    racing = prefetcher(slow)
    assert racing.take(0, 10, 0.01) == 1
    with pytest.raises(StreamTimeoutError):
        racing.take(0, 0.1, 0.01)
    slow.go.set()
    assert take_all(racing, 5) == [2]
    assert racing.hedges_won == 0
    racing.close()


def test_without_another_server_there_is_no_hedge() -> None:
    slow = Racer([1, 2], hold=1)
    racing = prefetcher(slow)
    assert racing.take(0, 10, 0.01) == 1
    with pytest.raises(StreamTimeoutError):
        racing.take(0, 0.1, 0.01)
    assert slow.asked == [1]
    assert racing.hedges == 0
    racing.close()


def test_closing_ends_both() -> None:
    rival = Racer([2], hold=0)
    slow = Racer([1, 2], hold=1, other=rival)
    racing = prefetcher(slow)
    assert racing.take(0, 10, 0.01) == 1
    with pytest.raises(StreamTimeoutError):
        racing.take(0, 0.1, 0.01)
    assert rival.held.wait(20)
    racing.close()
    assert slow.closed
    assert rival.closed
    assert not [t for t in threading.enumerate() if t.name.startswith("headrace-")]


def test_when_a_batch_is_hedged() -> None:
    hedger = Hedger()
    for _ in range(Hedger.MIN_WAITS - 1):
        hedger.waited(0.2)
        assert hedger.after_s(0) == float("inf")
    hedger.waited(0.2)
    assert hedger.after_s(0) == pytest.approx(0.6)
    # One in twenty at most.
    assert hedger.after_s(1) == float("inf")
    for _ in range(20):
        hedger.waited(0.0)
    assert hedger.after_s(1) == pytest.approx(0.6)
    for _ in range(400):
        hedger.waited(0.0)
    assert hedger.after_s(1) == Hedger.MIN_AFTER_S


@pytest.mark.parametrize("known", [True, False])
def test_a_stalled_server_is_raced_against(make_stream: MakeStream, known: bool) -> None:
    data = replace(MANY, counts_known=known)
    with FakeFleet(data) as calm, FakeFleet(data, 2) as fleet:
        expected = drain(make_stream(calm.target))
        fleet.script = Script(batches={(12, 2): [Stall()]})
        stream = make_stream(fleet.target, hedge=True, timeout=60.0, prefetch_factor=1)
        assert drain(stream) == expected
        stats = stream.stats()
        assert (stats.hedges, stats.hedges_won, stats.retries) == (1, 1, 0)
        assert fleet.wait_for_streams(0)
