from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_client import StreamClosedError, StreamTimeoutError
from trainer_client.prefetch import Prefetcher

T = TypeVar("T")


class ListSource:
    """Gives items, then fails if told to; counts what was taken from it."""

    def __init__(self, items: list[int], failure: Exception | None = None) -> None:
        self.items = items
        self.failure = failure
        self.given = 0
        self.changed = threading.Condition()
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        for item in self.items:
            with self.changed:
                self.given += 1
                self.changed.notify_all()
            yield item
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.closed.set()

    def rival(self, given: int) -> None:
        del given

    def wait_for_given(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.given >= count, 10)


class SilentSource(ListSource):
    """Gives its items, then nothing until it is closed."""

    def __iter__(self) -> Iterator[int]:
        yield from super().__iter__()
        self.closed.wait(30)


def prefetch(
    sources: list[ListSource], *, lanes: int = 2, budget: int = 1 << 20, items: int = 2
) -> Prefetcher[int]:
    return Prefetcher(
        range(len(sources)),
        lambda n: sources[n],
        lanes=lanes,
        budget_bytes=budget,
        items_per_lane=items,
        size_bytes=lambda item: item,
    )


def rest(prefetcher: Prefetcher[int], segment: int) -> list[int]:
    items = []
    while (item := prefetcher.take(segment, 10)) is not None:
        items.append(item)
    return items


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=6), max_size=8),
    st.integers(1, 4),
    st.integers(1, 200),
    st.integers(1, 3),
)
def test_everything_arrives_in_order(
    contents: list[list[int]], lanes: int, budget: int, items: int
) -> None:
    prefetcher = prefetch(
        [ListSource(c) for c in contents], lanes=lanes, budget=budget, items=items
    )
    try:
        assert [rest(prefetcher, n) for n in range(len(contents))] == contents
    finally:
        prefetcher.close()


def test_a_lane_holds_its_share_of_the_bytes() -> None:
    source = ListSource([10] * 9)
    prefetcher = prefetch([source], lanes=1, budget=35, items=100)
    assert source.wait_for_given(3)
    assert prefetcher.take(0, 10) == 10
    assert source.wait_for_given(4)
    # Three items of 10 bytes fit 35; a fourth was never asked for while they lay there.
    assert source.given == 4
    prefetcher.close()


def test_a_lane_holds_no_more_than_its_items() -> None:
    source = ListSource([1] * 9)
    prefetcher = prefetch([source], lanes=1, items=2)
    assert source.wait_for_given(2)
    assert prefetcher.ready(0)
    assert source.given == 2
    prefetcher.close()


def test_an_item_above_the_budget_still_passes() -> None:
    prefetcher = prefetch([ListSource([100, 100])], lanes=1, budget=1)
    assert rest(prefetcher, 0) == [100, 100]
    prefetcher.close()


def test_a_later_segment_never_starves_behind_one_that_nobody_takes_from() -> None:
    """One lane, full with the first segment: the second is not begun, and that is no deadlock."""
    sources = [ListSource([1]), ListSource([2, 3]), ListSource([4])]
    prefetcher = prefetch(sources, lanes=2, budget=2, items=1)
    assert rest(prefetcher, 1) == [2, 3]
    assert prefetcher.take(2, 10) == 4
    assert rest(prefetcher, 0) == [1]
    prefetcher.close()


def test_an_error_is_raised_in_its_turn_and_again() -> None:
    prefetcher = prefetch([ListSource([1, 2], ValueError("bad")), ListSource([3])])
    assert rest(prefetcher, 1) == [3]
    assert prefetcher.take(0, 10) == 1
    assert prefetcher.take(0, 10) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            prefetcher.take(0, 10)
    prefetcher.close()


def test_a_source_that_is_silent_ends_in_a_timeout() -> None:
    source = SilentSource([1])
    prefetcher = prefetch([source])
    assert prefetcher.take(0, 10) == 1
    assert not prefetcher.ready(0)
    with pytest.raises(StreamTimeoutError):
        prefetcher.take(0, 0.05)
    prefetcher.close()
    assert source.closed.is_set()


class Item:
    """Something that can be seen to be gone."""


class GatedSource(ListSource):
    """Says when it is asked for an item beyond those it has given, and gives it once it may."""

    def __init__(self, items: list[int], given_at_once: int = 0) -> None:
        super().__init__(items)
        self.at_once = given_at_once
        self.asked = threading.Event()
        self.open = threading.Event()

    def __iter__(self) -> Iterator[int]:
        for number, item in enumerate(super().__iter__()):
            if number == self.at_once:
                self.asked.set()
                self.open.wait(30)
            yield item


def test_a_take_that_waits_gets_its_own_segment_whatever_arrives_before() -> None:
    gated, others = GatedSource([1, 2]), [ListSource([3]), ListSource([4])]
    prefetcher = prefetch([gated, *others], lanes=2)
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(prefetcher.take(0, 30)))
    thread.start()
    assert all(other.wait_for_given(1) for other in others)
    assert taken == []
    gated.open.set()
    thread.join(10)
    assert taken == [1]
    assert [rest(prefetcher, segment) for segment in range(3)] == [[2], [3], [4]]
    prefetcher.close()


def test_a_lane_does_not_keep_what_was_taken_from_it() -> None:
    source = GatedSource([1 << 70, 2], given_at_once=1)
    made: list[weakref.ref[Item]] = []

    class ItemSource:
        def __iter__(self) -> Iterator[Item]:
            for _ in source:
                item = Item()
                made.append(weakref.ref(item))
                yield item
                del item

        def rival(self, given: int) -> None:
            del given

        def close(self) -> None:
            source.open.set()

    prefetcher: Prefetcher[Item] = Prefetcher(
        [0],
        lambda _: ItemSource(),
        lanes=1,
        budget_bytes=1 << 20,
        items_per_lane=2,
        size_bytes=lambda _: 1,
    )
    assert prefetcher.take(0, 10) is not None
    assert source.asked.wait(10)
    assert made[0]() is None
    prefetcher.close()


def test_what_is_taken_after_closing_is_not_the_end_of_a_segment() -> None:
    prefetcher = prefetch([SilentSource([])])
    prefetcher.close()
    with pytest.raises(StreamClosedError):
        prefetcher.take(0, 30)


def test_closing_ends_a_take_that_waits() -> None:
    source = SilentSource([])
    prefetcher = prefetch([source])
    caught: list[Exception] = []

    def take() -> None:
        with pytest.raises(StreamClosedError) as closed:
            prefetcher.take(0, 30)
        caught.append(closed.value)

    thread = threading.Thread(target=take)
    thread.start()
    prefetcher.close()
    prefetcher.close()
    thread.join(10)
    assert len(caught) == 1
