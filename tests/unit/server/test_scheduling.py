"""How the threads of a server's process are woken."""

from __future__ import annotations

import os
import threading

import pytest

from benchmarks.harness import fresh_process
from preprocessor_server.scheduling import wake_gently

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the kernel is not Linux")


def policies(chosen: int) -> tuple[bool, list[int]]:
    """Whether a process of a policy is changed; what it, and a thread that it starts, have then."""
    os.sched_setscheduler(0, chosen, os.sched_param(0))
    changed = wake_gently()
    found = [os.sched_getscheduler(0)]
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return changed, found


def test_threads_that_are_started_later_wake_gently_too() -> None:
    assert fresh_process(policies, os.SCHED_OTHER) == (True, [os.SCHED_BATCH] * 2)


def test_a_policy_that_was_chosen_stays() -> None:
    assert fresh_process(policies, os.SCHED_IDLE) == (False, [os.SCHED_IDLE] * 2)
    assert fresh_process(policies, os.SCHED_BATCH) == (False, [os.SCHED_BATCH] * 2)
