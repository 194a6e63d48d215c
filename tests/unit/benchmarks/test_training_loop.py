"""The training loop takes a batch a step and counts what it did; how fast is not tested."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from benchmarks.training_loop import TURN_S, WARM_UP_STEPS, TrainingLoop, cores


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_every_step_takes_a_batch_and_the_core_is_given_back() -> None:
    laps = []
    affinity = []
    taken: list[int] = []
    others: list[int] = []

    def run() -> None:
        loop = TrainingLoop(step_s=0.001)
        laps.append(loop.alone(0.01))
        laps.append(loop.fed(itertools.count(), taken.append, 0.01))
        laps.extend(loop.both(itertools.count(), others.append, 2 * TURN_S))
        affinity.append(os.sched_getaffinity(threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    alone, fed, turns_alone, turns_fed = laps
    assert others == list(range(WARM_UP_STEPS + turns_fed.steps))
    assert turns_alone.taking.wall_s + turns_alone.computing.wall_s >= TURN_S
    assert alone.steps > 0
    assert fed.steps > 0
    assert taken == list(range(WARM_UP_STEPS + fed.steps))
    assert fed.steps_per_s > 0
    assert 0 <= fed.disturbed_share < 1
    assert fed.computing.cpu_s <= fed.all_cpu_s
    assert affinity == [cores()[1]]


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(RuntimeError, match="give this process two"):
        cores()
