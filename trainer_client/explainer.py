"""Reads the counters of both sides, and explains what happened between two readings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainer_client.explain import (
    Explanation,
    ServerTimes,
    Situation,
    explain,
    server_times,
)
from trainer_client.loop_clock import LoopTimes, usable_cores
from trainer_client.options import Options
from trainer_client.session import Session
from trainer_client.telemetry import Meter
from trainer_client.transport.server_counters import Reading

# A pause between epochs that is longer than this share of what was counted starts a new count:
# servers that idled meanwhile would look as if they were not needed.
LONG_PAUSE_SHARE = 0.05


class Explainer:
    """Of one stream. Not to be used by two threads at once."""

    def __init__(self, meter: Meter, session: Session, options: Options) -> None:
        self._meter = meter
        self._session = session
        self._options = options
        self._before: LoopTimes | None = None
        self._retries = 0

    @contextmanager
    def opening(self) -> Iterator[None]:
        """An epoch is being opened inside; what that takes is not explained."""
        if self._before is not None:
            times = self._meter.clock.read().since(self._before)
            pause_s = times.at_s - times.step_s - times.next_s
            if pause_s > LONG_PAUSE_SHARE * times.at_s:
                self._before = None
        if self._before is None and self._session.connection is not None:
            # Before the first stream is opened, which says where counting begins.
            self._session.connection.counters.forget()
        yield
        if self._before is None:
            self._start(self._meter.clock.read())

    def explain(self) -> Explanation:
        """What bounded the rate since the last call, or since the epoch began."""
        connection = self._session.connection
        now, before = self._meter.clock.read(), self._before
        if connection is None or before is None:
            return explain(Situation(LoopTimes(), usable_cores(), self._options.interleave))
        times = now.since(before)
        used = sorted(name for name, seconds in times.receiving_s.items() if seconds > 0)
        readings = connection.counters.read(used)
        retries = self._retries
        # Asking is no step of the loop.
        self._start(self._meter.clock.read())
        return explain(
            Situation(
                loop=times,
                cores=usable_cores(),
                interleave=self._options.interleave,
                beside=self._options.reader_process or self._options.pin_memory,
                retries=self._retries - retries,
                servers={name: _times(each) for name, each in readings.items()},
            )
        )

    def _start(self, now: LoopTimes) -> None:
        self._before, self._retries = now, self._meter.stats().retries


def _times(reading: Reading) -> ServerTimes | str:
    """What a server did, or why that is not known."""
    if reading.now is None:
        return reading.failure
    if reading.before is None:
        return "its counters were read for the first time just now: ask again after some seconds"
    return server_times(reading.before, reading.now, reading.round_trip_s)
