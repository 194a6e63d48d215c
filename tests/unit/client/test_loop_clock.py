from __future__ import annotations

import threading

import pytest

from trainer_client.loop_clock import Lane, LoopClock, LoopTimes, usable_cores


def test_the_loop_is_in_its_step_or_in_next() -> None:
    clock = LoopClock()
    before = clock.read()
    clock.asks()
    under_way = clock.read().since(before)
    assert under_way.next_s > 0
    clock.takes()
    clock.asks()
    clock.leaves()
    times = clock.read().since(before)
    assert times.batches == 1
    assert times.next_s > under_way.next_s
    assert 0 < times.step_s + times.next_s <= times.at_s
    # Nothing is counted while it is over.
    clock.leaves()
    later = clock.read().since(before)
    assert (later.step_s, later.next_s) == (times.step_s, times.next_s)


def test_a_wait_is_for_what_the_lane_was_at() -> None:
    clock = LoopClock()
    clock.waited((1.0, 5.0), Lane(0.0, 3.0, 4.5), "a:1")
    clock.waited((10.0, 11.0), Lane(0.0, 3.0, 4.5), "b:1")
    clock.waited((20.0, 22.0), Lane(19.0, 19.5, 25.0), "a:1")
    # Of what was there already, nothing was waited for.
    clock.waited((30.0, 31.0), Lane(19.0, 29.0, 30.0), "b:1")
    times = clock.read()
    assert times.received_for_s == {"a:1": pytest.approx(2.0)}
    assert times.decoded_for_s == pytest.approx(1.5 + 2.0)


def test_a_lane_that_waits_counts_while_it_does() -> None:
    clock = LoopClock()
    received, arrived = threading.Event(), threading.Event()

    def lane() -> None:
        with clock.receiving("a:1"):
            received.set()
            arrived.wait(10)

    thread = threading.Thread(target=lane)
    thread.start()
    assert received.wait(10)
    first, second = clock.read(), clock.read()
    arrived.set()
    thread.join(10)
    last = clock.read()
    waited = [times.receiving_s["a:1"] for times in (first, second, last)]
    assert 0 < waited[0] < waited[1] < waited[2]
    assert clock.read().receiving_s["a:1"] == pytest.approx(waited[2])


def test_decoding_counts_messages() -> None:
    clock = LoopClock()
    clock.decoded("a:1", 2.0, 0.5)
    clock.decoded("b:1", 1.0, 0.25)
    clock.decoded("a:1", 1.0, 0.25)
    times = clock.read()
    assert (times.decoding_s, times.decoding_cpu_s) == (4.0, 1.0)
    assert times.messages == {"a:1": 2, "b:1": 1}


def test_readings_differ_by_server_too() -> None:
    clock = LoopClock()
    clock.delivered("a:1", 5, 10)
    before = clock.read()
    clock.delivered("a:1", 7, 0)
    clock.delivered("b:1", 1, 3)
    times = clock.read().since(before)
    assert times.rows == {"a:1": 7, "b:1": 1}
    assert times.wire_bytes == {"a:1": 0, "b:1": 3}
    assert LoopTimes().since(LoopTimes()) == LoopTimes()


def test_there_are_cores() -> None:
    assert usable_cores() > 0
