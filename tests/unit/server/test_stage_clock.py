from __future__ import annotations

import threading
import time

import pytest

from preprocessor_server.stage_clock import (
    MAX_PARTS,
    READING,
    StageClock,
    count_bytes,
    count_parts,
    within,
)


def spin(seconds: float) -> None:
    """Uses so much CPU."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_an_inner_stage_is_not_counted_for_the_outer_one() -> None:
    clock = StageClock()
    with clock.stage("read"):
        spin(0.01)
        with within("decode"):
            spin(0.03)
            count_bytes("decode", 7)
            count_parts("decode", {"x": 5})
        count_parts("decode", {"x": 6, "y": 1})
    times = clock.read()
    assert times["decode"].cpu_ns >= 3e7 > times["read"].cpu_ns >= 1e7
    # The two clocks are read one after the other.
    assert times["decode"].wall_ns >= times["decode"].cpu_ns - 1e6
    assert times["decode"].size_bytes == 7
    assert times["decode"].parts == {"x": 11, "y": 1}
    assert sum(each.wall_ns for each in times.values()) <= clock.uptime_ns()


def test_without_a_clock_nothing_is_counted() -> None:
    clock = StageClock()
    with within("decode"):
        count_bytes("decode", 7)
        count_parts("decode", {"x": 5})
    assert clock.read()["decode"].wall_ns == 0


def test_what_is_under_way_counts() -> None:
    clock = StageClock()
    inside, over = threading.Event(), threading.Event()

    def work() -> None:
        with clock.stage("encode"):
            spin(0.02)
            inside.set()
            over.wait(10)

    def send() -> None:
        with clock.blocked("send"):
            over.wait(10)

    threads = [threading.Thread(target=each) for each in (work, send)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    first, second = clock.read(), clock.read()
    over.set()
    for thread in threads:
        thread.join(10)
    last = clock.read()
    for name in ("encode", "send"):
        wall = [times[name].wall_ns for times in (first, second, last)]
        assert 0 < wall[0] < wall[1] < wall[2]
        assert clock.read()[name].wall_ns == wall[2]
    assert last["encode"].cpu_ns >= first["encode"].cpu_ns >= 2e7


def test_a_wait_is_of_the_stage_that_is_named_for_it() -> None:
    clock = StageClock()
    with clock.stage("decode", waits=True):
        spin(0.02)
        threading.Event().wait(0.05)
    times = clock.read()
    # A thread that waits for nothing but a core is queued, and that is no wait.
    assert times["read"].wall_ns >= 4e7
    assert times["read"].cpu_ns == 0
    assert times["decode"].cpu_ns >= 2e7
    queued_ns = times["decode"].queued_ns or 0
    assert times["decode"].wall_ns <= times["decode"].cpu_ns + queued_ns + 1e6


def test_reads_are_of_their_own_stage_and_so_is_their_copying() -> None:
    clock = StageClock()
    with clock.stage("decode", reads=True):
        spin(0.02)
        with READING:
            threading.Event().wait(0.05)
            spin(0.01)
        # This wait is none for storage.
        threading.Event().wait(0.1)
    with READING:
        spin(0.01)
    times = clock.read()
    read, decode = times["read"], times["decode"]
    assert read.wall_ns >= 5e7
    assert decode.wall_ns >= 1e8
    assert read.cpu_ns + decode.cpu_ns >= 3e7
    assert decode.cpu_ns >= 1e7


def test_a_read_under_way_counts() -> None:
    clock = StageClock()
    inside, over = threading.Event(), threading.Event()

    def work() -> None:
        with clock.stage("decode", reads=True), READING:
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    first, second = clock.read()["read"].wall_ns, clock.read()["read"].wall_ns
    over.set()
    thread.join(10)
    assert 0 < first < second < clock.read()["read"].wall_ns


def test_a_stage_that_fails_is_left() -> None:
    clock = StageClock()
    with pytest.raises(ValueError, match="damaged"), clock.stage("read"), within("decode"):
        raise ValueError("damaged")
    with pytest.raises(ValueError, match="cancelled"), clock.blocked("send"):
        raise ValueError("cancelled")
    first, second = clock.read(), clock.read()
    assert first == second


def test_parts_are_bounded() -> None:
    clock = StageClock()
    clock.add_parts("decode", {f"c{i}": 1 for i in range(MAX_PARTS + 10)})
    clock.add_parts("decode", {"c0": 1, "new": 1})
    parts = clock.read()["decode"].parts
    assert len(parts) == MAX_PARTS
    assert parts["c0"] == 2
