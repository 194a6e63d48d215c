"""Where the time of a training loop goes, up to now: its steps, its waits and why, its lanes.

Two readings differ by what was done in between. Times are of time.perf_counter, in seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

# docs.kernel.org/admin-guide/cgroup-v2.html: "$MAX $PERIOD", microseconds of CPU in every so many.
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# What is not the loop's: the fields of LoopTimes that a reader process has to add to.
_OF_LANES = ("decoding_s", "decoding_cpu_s", "cpu_s", "receiving_s", "messages")


@dataclass(frozen=True, slots=True)
class LoopTimes:
    """Seconds and counts; step_s and next_s make up the time of the loop.

    step_s is the time between two next(), next_s that in them. Of next_s: received_for_s is the
    wait for a message, by the server that sent it; decoded_for_s that for a batch to be decoded;
    ranks_s that for other ranks; copied_s the copying of batches to a device. device_copy_s is what
    copies took on a GPU, beside everything else. Of all lanes (reading threads) together:
    receiving_s is the time waiting for messages, by server, decoding_s that of decoding and
    decoding_cpu_s the CPU time of it. messages, rows and wire_bytes are by server. cpu_s is that of
    the process, and of its reader process.
    """

    at_s: float = 0.0
    step_s: float = 0.0
    next_s: float = 0.0
    decoded_for_s: float = 0.0
    ranks_s: float = 0.0
    copied_s: float = 0.0
    device_copy_s: float = 0.0
    decoding_s: float = 0.0
    decoding_cpu_s: float = 0.0
    cpu_s: float = 0.0
    batches: float = 0.0
    received_for_s: Mapping[str, float] = field(default_factory=dict)
    receiving_s: Mapping[str, float] = field(default_factory=dict)
    messages: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, float] = field(default_factory=dict)
    wire_bytes: Mapping[str, float] = field(default_factory=dict)

    def since(self, before: LoopTimes) -> LoopTimes:
        """What was done after another reading; at_s is the time between the two."""
        changes: dict[str, Any] = {}
        for each in fields(self):
            now, then = getattr(self, each.name), getattr(before, each.name)
            if isinstance(now, Mapping):
                changes[each.name] = {name: now[name] - then.get(name, 0.0) for name in now}
            else:
                changes[each.name] = now - then
        return LoopTimes(**changes)


class Lane(NamedTuple):
    """When a lane asked for a batch, when its message was there, and when it was decoded."""

    asked_s: float = 0.0
    arrived_s: float = 0.0
    decoded_s: float = 0.0


class _Receiving:
    """The wait of a lane for a message; a class, since it is entered once a batch."""

    __slots__ = ("_lock", "_server", "_sums", "_waiting")

    def __init__(
        self, lock: threading.RLock, sums: dict[str, float], waiting: dict[str, int], server: str
    ) -> None:
        self._lock, self._sums, self._waiting, self._server = lock, sums, waiting, server

    def __enter__(self) -> None:
        server, sums = self._server, self._sums
        with self._lock:
            sums[server] = sums.get(server, 0.0) - time.perf_counter()
            self._waiting[server] = self._waiting.get(server, 0) + 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._sums[self._server] += time.perf_counter()
            self._waiting[self._server] -= 1


class LoopClock:
    """The clock of one stream: its loop asks, waits and takes, its lanes receive and decode."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may ask for the times.
        self._lock = threading.RLock()
        self._sums: dict[str, float] = {}
        self._by_server: dict[str, dict[str, float]] = {
            name: {} for name in ("received_for_s", "receiving_s", "messages", "rows", "wire_bytes")
        }
        # What the loop is at: "step_s", "next_s", or "" outside of it, and since when.
        self._at = ""
        self._since_s = time.perf_counter()
        # Lanes that wait for a message: their beginnings are subtracted from the sum already.
        self._receiving: dict[str, int] = {}

    def asks(self) -> None:
        """The loop enters next()."""
        self._turn("next_s")

    def takes(self) -> None:
        """The loop leaves next() with a batch."""
        self._turn("step_s", batches=1)

    def leaves(self) -> None:
        """The loop is over, or interrupted."""
        self._turn("")

    @property
    def away_s(self) -> float:
        """How long the loop has been over; 0 while it runs."""
        with self._lock:
            return 0.0 if self._at else time.perf_counter() - self._since_s

    def add(self, **seconds: float) -> None:
        """Adds to fields of LoopTimes."""
        with self._lock:
            for name, value in seconds.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def waited(self, span: tuple[float, float], lane: Lane, server: str) -> None:
        """Says what the loop waited for: for what the lane was at, as far as that was meanwhile."""
        began_s, ended_s = span
        if lane.decoded_s <= began_s:
            return  # It was there already, as most are where the trainer is the slower side.
        received_s = min(ended_s, lane.arrived_s) - max(began_s, lane.asked_s)
        decoded_s = min(ended_s, lane.decoded_s) - max(began_s, lane.arrived_s)
        sums, by_server = self._sums, self._by_server["received_for_s"]
        with self._lock:
            if received_s > 0:
                by_server[server] = by_server.get(server, 0.0) + received_s
            if decoded_s > 0:
                sums["decoded_for_s"] = sums.get("decoded_for_s", 0.0) + decoded_s

    def receiving(self, server: str) -> _Receiving:
        """Counts the time inside as a lane's wait for a message from a server."""
        return _Receiving(self._lock, self._by_server["receiving_s"], self._receiving, server)

    def delivered(self, server: str, rows: int, wire_bytes: int) -> None:
        """Counts a batch of a server that the loop has."""
        all_rows, all_bytes = self._by_server["rows"], self._by_server["wire_bytes"]
        with self._lock:
            all_rows[server] = all_rows.get(server, 0.0) + rows
            all_bytes[server] = all_bytes.get(server, 0.0) + wire_bytes

    def decoded(self, server: str, seconds: float, cpu_s: float) -> None:
        """Counts a message of a server that a lane has decoded, and what that took."""
        sums, messages = self._sums, self._by_server["messages"]
        with self._lock:
            sums["decoding_s"] = sums.get("decoding_s", 0.0) + seconds
            sums["decoding_cpu_s"] = sums.get("decoding_cpu_s", 0.0) + cpu_s
            messages[server] = messages.get(server, 0.0) + 1

    def merge(self, times: LoopTimes) -> None:
        """Adds what lanes in another process did, between two readings of their clock."""
        with self._lock:
            for name in _OF_LANES:
                value = getattr(times, name)
                if isinstance(value, Mapping):
                    own = self._by_server[name]
                    own.update({key: own.get(key, 0.0) + each for key, each in value.items()})
                else:
                    self._sums[name] = self._sums.get(name, 0.0) + value

    def read(self) -> LoopTimes:
        """The times up to now."""
        with self._lock:
            now_s = time.perf_counter()
            sums = dict(self._sums)
            cpu_s = time.process_time() + sums.pop("cpu_s", 0.0)
            if self._at:
                sums[self._at] = sums.get(self._at, 0.0) + now_s - self._since_s
            by_server = {name: dict(each) for name, each in self._by_server.items()}
            for server, lanes in self._receiving.items():
                by_server["receiving_s"][server] += lanes * now_s
            fields_by_name: dict[str, Any] = {**sums, **by_server}
            return LoopTimes(at_s=now_s, cpu_s=cpu_s, **fields_by_name)

    def _turn(self, at: str, batches: int = 0) -> None:
        with self._lock:
            now_s = time.perf_counter()
            if batches:
                self._sums["batches"] = self._sums.get("batches", 0.0) + batches
            if self._at:
                self._sums[self._at] = self._sums.get(self._at, 0.0) + now_s - self._since_s
            elif not at:
                return
            self._at, self._since_s = at, now_s


def usable_cores() -> float:
    """The cores that this process may use: its affinity, or its container's limit if that is less.

    A container sees its own control group at the root of the file system.
    """
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return cores
