from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trainer_client.transport.stall import StallGuard


class Call:
    """Something to cancel."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def guard() -> Iterator[StallGuard]:
    guard = StallGuard()
    yield guard
    guard.close()


def limit(guard: StallGuard, call: Any, seconds: float) -> Any:
    return guard.limit(call, seconds)


def test_a_call_that_takes_too_long_is_cancelled(guard: StallGuard) -> None:
    call = Call()
    with limit(guard, call, 0.01):
        assert call.cancelled.wait(10)


def test_a_shorter_limit_is_kept_whatever_the_guard_waits_for(guard: StallGuard) -> None:
    for longer in (30.0, 20.0):
        waiting, call = Call(), Call()
        with limit(guard, waiting, longer), limit(guard, call, 0.01):
            assert call.cancelled.wait(10)
        assert not waiting.cancelled.is_set()


def test_a_longer_limit_is_kept_after_a_shorter_one_that_was_not_reached(
    guard: StallGuard,
) -> None:
    first, second = Call(), Call()
    with limit(guard, first, 0.1):
        pass
    with limit(guard, second, 0.2):
        assert second.cancelled.wait(10)
    assert not first.cancelled.is_set()


def test_a_call_that_is_over_is_left_alone(guard: StallGuard) -> None:
    over, witness = Call(), Call()
    with limit(guard, over, 0.01):
        pass
    with limit(guard, witness, 0.02):
        assert witness.cancelled.wait(10)
    assert not over.cancelled.is_set()
