"""How a server's threads come by a core: without taking one from a thread that is at work.

A batch wakes about ten threads. By default each may interrupt what runs on its core, which then
goes on with cold caches.
"""

from __future__ import annotations

import contextlib
import os


def wake_gently() -> bool:
    """Has this thread, and those that it starts from now on, wake without interrupting others.

    They become SCHED_BATCH (sched(7)): their share of the cores stays the same, but one that wakes
    waits for the end of a turn, a few milliseconds where all cores are busy. A policy that whoever
    started the process chose stays. False where nothing changes: then, and where the system has no
    such policy or refuses it.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return True
    return False
