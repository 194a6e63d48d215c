"""Waits for what other processes do, where they give no event."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

LIMIT_S = 60.0
LOOK_S = 0.1


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Returns when a condition has come true; fails if it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        select.select([], [], [], LOOK_S)
