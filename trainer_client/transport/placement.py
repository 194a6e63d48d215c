"""Which server of a fleet gets a shard: one of two that its name points to, while it has room."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from xxhash import xxh64_intdigest

# What a server did so long ago counts for 1/e of what it does now.
MEMORY_S = 5.0
# With fewer batches than these (they fade), a server's pace is not known.
LEAST_BATCHES = 0.5
# A candidate may have so many times the load of the least loaded server.
SLACK = 1.25
# A server holds nobody up whose load is less than this share of the time that a stream takes for a
# batch.
RESTS = 0.5
# A stream leaves a server whose load is so many times what its own would be elsewhere, and so many
# seconds more: its split is read again there.
WORTH_MOVING = 1.4
WORTH_MOVING_S = 0.01
# Of all streams, one at a time: what a move changes must show before the next.
BETWEEN_MOVES_S = 0.5
# A server that failed is passed over for so long while there are others, though it may give batches
# meanwhile: one that drains does.
COOL_DOWN_S = 5.0


@dataclass(slots=True)
class _Server:
    """What this client has seen of a server.

    streams counts what it was chosen for and is not released, waiting those that wait for a
    message now. busy_s is how long any did, open_s how long each was there, together, and batches
    what they got, all as of settled_s and fading. failed_s is the time of its last failure.
    """

    settled_s: float
    streams: int = 0
    waiting: int = 0
    busy_s: float = 0.0
    open_s: float = 0.0
    batches: float = 0.0
    failed_s: float | None = None

    @property
    def known(self) -> bool:
        """Whether its pace is."""
        return self.batches > LEAST_BATCHES

    def rests(self, streams: int) -> bool:
        """Whether it would hold up none of so many streams."""
        return self.known and streams * self.busy_s < RESTS * self.open_s

    def settle(self, now: float) -> None:
        """Lets what was seen fade, and counts the time since then."""
        kept = math.exp(-(now - self.settled_s) / MEMORY_S)
        since_s = MEMORY_S * (1 - kept)
        self.batches *= kept
        self.open_s = self.open_s * kept + since_s * self.streams
        self.busy_s = self.busy_s * kept + (since_s if self.waiting else 0.0)
        self.settled_s = now


class _Waiting:
    """The wait for a server; a class, since it is entered once a batch."""

    __slots__ = ("_clock", "_lock", "_server")

    def __init__(self, lock: threading.Lock, clock: Callable[[], float], server: _Server) -> None:
        self._lock, self._clock, self._server = lock, clock, server

    def __enter__(self) -> None:
        with self._lock:
            self._server.settle(self._clock())
            self._server.waiting += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._server.settle(self._clock())
            self._server.waiting -= 1


class Placement:
    """Chooses servers for the shards of one client; any thread may use it.

    The two candidates of a shard are those of the highest rendezvous hashes (Thaler and
    Ravishankar, 1996) of its key and their addresses: clients that read the same shard find the
    same caches, and when a server comes or goes, only the shards move that it was or becomes a
    candidate of. Load is bounded, as in Mirrokni, Thorup and Zadimoghaddam, *Consistent Hashing
    with Bounded Loads* (2016): where neither has room, the least loaded server of the fleet gets
    the shard. A server's load is its open streams times the seconds that it is waited for a batch
    (busy time over completions). A candidate has room too where that is little of the time that a
    stream takes for a batch, so nothing moves for its sake while nobody waits. A server that was
    slow is tried again once that has faded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._looks_s = 0.0

    def choose(self, key: bytes, addresses: Sequence[str], tried: Collection[str] = ()) -> str:
        """The server for a shard, of at least one address; it counts as its load until released.

        Servers that failed a moment ago come after all others, those that were tried last.
        """
        with self._lock:
            address = self._best(key, addresses, tried)
            self._of(address).streams += 1
            return address

    def leaves(self, address: str, addresses: Sequence[str]) -> bool:
        """Whether a stream should go on at another server, since this one has far more load."""
        with self._lock:
            now = self._clock()
            if now < self._looks_s:
                return False
            self._looks_s = now + BETWEEN_MOVES_S
            usable = [each for each in addresses if not self._failed_lately(each, now)]
            loads = self._loads({*usable, address}, now)
            server = self._servers[address]
            load = loads[address] * server.streams / (server.streams + 1)
            worth = WORTH_MOVING * min(loads.values()) + WORTH_MOVING_S
            return load > worth and not server.rests(server.streams)

    def release(self, address: str) -> None:
        """Notes that what a server was chosen for has ended."""
        with self._lock:
            server = self._of(address)
            server.settle(self._clock())
            server.streams -= 1

    def waiting(self, address: str) -> _Waiting:
        """Notes that a server is waited for, inside."""
        with self._lock:
            return _Waiting(self._lock, self._clock, self._of(address))

    def took(self, address: str) -> None:
        """Notes that a server gave a batch."""
        with self._lock:
            self._of(address).batches += 1

    def failed(self, address: str) -> None:
        """Notes that a server cannot be used just now."""
        with self._lock:
            self._of(address).failed_s = self._clock()

    def _of(self, address: str) -> _Server:
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = _Server(self._clock())
        return server

    def _best(self, key: bytes, addresses: Sequence[str], tried: Collection[str]) -> str:
        now = self._clock()
        untried = [each for each in addresses if each not in tried]
        usable = [each for each in untried if not self._failed_lately(each, now)]
        loads = self._loads(usable or untried or addresses, now)
        room = SLACK * min(loads.values())
        ranked = sorted(loads, key=lambda each: (-xxh64_intdigest(key + each.encode()), each))
        for candidate in ranked[:2]:
            server = self._servers[candidate]
            if loads[candidate] <= room or server.rests(server.streams + 1):
                return candidate
        return min(ranked, key=loads.__getitem__)

    def _failed_lately(self, address: str, now: float) -> bool:
        failed_s = self._servers[address].failed_s if address in self._servers else None
        return failed_s is not None and now - failed_s < COOL_DOWN_S

    def _loads(self, addresses: Collection[str], now: float) -> dict[str, float]:
        """Seconds for which a further stream would wait for its batch, by address."""
        servers = {address: self._of(address) for address in addresses}
        for server in servers.values():
            server.settle(now)
        paces = [s.busy_s / s.batches for s in servers.values() if s.known]
        # One that is not known, or no longer, is taken for as fast as the fastest.
        fastest = min(paces, default=1.0)
        return {
            address: (server.streams + 1) * (server.busy_s + fastest) / (server.batches + 1)
            for address, server in servers.items()
        }
