"""Which server of a fleet gets a shard: one of two that its name points to, the less loaded one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import xxhash

# How much the latest batch counts in a server's pace.
WEIGHT = 0.2
# A server that failed is passed over for so long while there are others.
COOL_DOWN_S = 5.0


@dataclass(slots=True)
class _Server:
    """What this client has seen of a server: streams it has open, seconds it takes for a batch.

    pace_s is None before its first batch, failed_s the time of its last failure.
    """

    streams: int = 0
    pace_s: float | None = None
    failed_s: float | None = None


class Placement:
    """Chooses servers for the shards of one client; any thread may use it.

    The two candidates of a shard are those of the highest rendezvous hashes (Thaler and
    Ravishankar, 1996) of its key and their addresses: clients that read the same shard find the
    same caches, and when a server comes or goes, only the shards move that it was or becomes a
    candidate of. Of the two, the one with less outstanding work gets it: open streams times the
    observed pace.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}

    def choose(self, key: bytes, addresses: Sequence[str], tried: Collection[str] = ()) -> str:
        """The server for a shard, of at least one address.

        Servers that were tried, and those that failed a moment ago, come after all others.
        """
        with self._lock:
            now = self._clock()
            ranked = sorted(addresses, key=lambda address: self._rank(key, address, tried, now))
            first = ranked[0]
            if len(ranked) == 1:
                return first
            second = ranked[1]
            if self._passed_over(first, tried, now) != self._passed_over(second, tried, now):
                return first
            return second if self._load(second) < self._load(first) else first

    def opened(self, address: str) -> None:
        """Notes that a stream to a server was opened."""
        with self._lock:
            self._of(address).streams += 1

    def closed(self, address: str) -> None:
        """Notes that it has ended."""
        with self._lock:
            self._of(address).streams -= 1

    def took(self, address: str, seconds: float) -> None:
        """Notes how long a batch was waited for, until it came."""
        with self._lock:
            server = self._of(address)
            server.failed_s = None
            self._pace(server, seconds)

    def slow(self, address: str, seconds: float) -> None:
        """Notes how long a batch was waited for, and has not come."""
        with self._lock:
            self._pace(self._of(address), seconds)

    def _pace(self, server: _Server, seconds: float) -> None:
        before = seconds if server.pace_s is None else server.pace_s
        server.pace_s = before + WEIGHT * (seconds - before)

    def failed(self, address: str) -> None:
        """Notes that a server cannot be used just now."""
        with self._lock:
            self._of(address).failed_s = self._clock()

    def _of(self, address: str) -> _Server:
        return self._servers.setdefault(address, _Server())

    def _rank(
        self, key: bytes, address: str, tried: Collection[str], now: float
    ) -> tuple[bool, int, str]:
        digest = xxhash.xxh64_intdigest(key + address.encode())
        return self._passed_over(address, tried, now), -digest, address

    def _passed_over(self, address: str, tried: Collection[str], now: float) -> bool:
        failed_s = self._servers[address].failed_s if address in self._servers else None
        return address in tried or (failed_s is not None and now - failed_s < COOL_DOWN_S)

    def _load(self, address: str) -> float:
        """Seconds of work that a further stream would wait behind, and be."""
        known = [s.pace_s for s in self._servers.values() if s.pace_s is not None]
        server = self._servers.get(address, _Server())
        # One that is not known yet is taken for as fast as the fastest.
        pace_s = min(known, default=1.0) if server.pace_s is None else server.pace_s
        return (server.streams + 1) * pace_s
