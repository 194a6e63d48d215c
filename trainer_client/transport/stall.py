"""Ends calls that stay silent: a gRPC stream's next message has no deadline of its own."""

from __future__ import annotations

import threading
import time

import grpc

# Without a deadline to watch, how long the thread sleeps: a shorter one wakes it.
IDLE_S = 60.0


class _Limit:
    """A call that is watched; a class, since it is entered once a batch."""

    __slots__ = ("_call", "_guard", "_seconds")

    def __init__(self, guard: StallGuard, call: grpc.Call, seconds: float) -> None:
        self._guard, self._call, self._seconds = guard, call, seconds

    def __enter__(self) -> None:
        self._guard.watch(self._call, self._seconds)

    def __exit__(self, *_: object) -> None:
        self._guard.release(self._call)


class StallGuard:
    """Cancels calls whose time is over, from one thread for all of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[grpc.Call, float] = {}
        # When the thread looks again by itself.
        self._wakes_s = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def limit(self, call: grpc.Call, seconds: float) -> _Limit:
        """Cancels the call if the body takes longer."""
        return _Limit(self, call, seconds)

    def watch(self, call: grpc.Call, seconds: float) -> None:
        """Cancels the call if it is not released before."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="headrace-stall-guard", daemon=True
                )
                self._thread.start()
            deadline = time.monotonic() + seconds
            self._deadlines[call] = deadline
            # One that looks too early looks again: it is not woken to sleep longer.
            if deadline < self._wakes_s:
                self._changed.notify()

    def release(self, call: grpc.Call) -> None:
        """Leaves a call alone."""
        with self._changed:
            self._deadlines.pop(call, None)

    def close(self) -> None:
        """Ends the thread; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [call for call, deadline in self._deadlines.items() if deadline <= now]
                for call in due:
                    del self._deadlines[call]
                    call.cancel()
                self._wakes_s = min(self._deadlines.values(), default=now + IDLE_S)
                self._changed.wait(self._wakes_s - now)
