"""What a peer's process says to the harness: events, one JSON object a line, on its stdout.

    ready      {"settings": {...}, "versions": {...}}                  it can deliver
    checksums  benchmarks.peers.checksum.Checksum.as_json              with --check
    run        {"rows", "values", "seconds", "cpu_s": {"server", "client"}, "wire_bytes"}

One process makes one run, after a short one that does not count. CPU is of whole process trees:
client is the process that a trainer would be, with the workers it cannot do without; server is
everything that could stand on another machine. wire_bytes is null where nothing says it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.checksum import Checksum
from benchmarks.peers.homefeed import RowBatch, Split, splits

# Two row groups a core: code is compiled, files are open, pools are filled.
WARM_UP_SPLITS = 4

Cpu = dict[str, float]
Settings = dict[str, Any]


class Peer(Protocol):
    """One system, running."""

    def batches(self, wanted: Sequence[Split]) -> Iterable[RowBatch]:
        """The batches of these row groups: one pass, with nothing kept from the pass before."""
        ...

    def cpu_s(self) -> Cpu:
        """CPU seconds so far of the server's and of the client's side."""
        ...

    def wire_bytes(self) -> int | None:
        """Bytes so far between the two sides, or None where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a run stands: what was delivered, when, and what it has cost."""

    rows: int
    values: int
    now_s: float
    cpu_s: Cpu
    wire_bytes: int | None

    def since(self, start: Mark) -> dict[str, Any]:
        """The run between two marks, as the event's fields."""
        known = self.wire_bytes is not None and start.wire_bytes is not None
        return {
            "rows": self.rows - start.rows,
            "values": self.values - start.values,
            "seconds": self.now_s - start.now_s,
            "cpu_s": {side: spent - start.cpu_s[side] for side, spent in self.cpu_s.items()},
            "wire_bytes": (self.wire_bytes or 0) - (start.wire_bytes or 0) if known else None,
        }


class Consumer:
    """A trainer that takes every batch and does nothing with it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.rows = 0
        self.values = 0

    def take(self, wanted: Sequence[Split]) -> Iterator[Mark | None]:
        """Takes one pass, a step a batch."""
        for batch in self._peer.batches(wanted):
            self.rows += len(batch)
            self.values += 0 if batch.values is None else len(batch.values)
            yield None

    def mark(self) -> Mark:
        """Where it stands."""
        peer = self._peer
        return Mark(self.rows, self.values, time.monotonic(), peer.cpu_s(), peer.wire_bytes())


Timing = Callable[[Peer, Sequence[Split], float], dict[str, Any]]


def whole_passes(peer: Peer, wanted: Sequence[Split], seconds: float) -> dict[str, Any]:
    """Whole passes until seconds have gone by, the start of each included."""
    consumer = Consumer(peer)
    start = consumer.mark()
    while time.monotonic() - start.now_s < seconds:
        for _ in consumer.take(wanted):
            pass
    return consumer.mark().since(start)


def first_to_last(peer: Peer, wanted: Sequence[Split], seconds: float) -> dict[str, Any]:
    """The steady rate: from the first batch of one pass to its last, neither start nor end."""
    del seconds  # A pass over a million rows lasts longer.
    consumer = Consumer(peer)
    steps = consumer.take(wanted)
    next(steps)
    start = end = consumer.mark()
    for _ in steps:
        end = consumer.mark()
    return end.since(start)


def slope(peer: Peer, wanted: Sequence[Split], seconds: float) -> dict[str, Any]:
    """The difference of long and short passes, so that what every start costs drops out.

    As many of both as it takes for the difference to last so long: starts differ by a second.
    """
    short = wanted[: len(wanted) // 4]
    consumer = Consumer(peer)
    run = dict.fromkeys(("rows", "values", "seconds"), 0.0)
    cpu_s = dict.fromkeys(peer.cpu_s(), 0.0)
    while run["seconds"] < seconds:
        for part, sign in ((short, -1), (wanted, 1)):
            began = consumer.mark()
            for _ in consumer.take(part):
                pass
            took = consumer.mark().since(began)
            run = {name: sofar + sign * took[name] for name, sofar in run.items()}
            cpu_s = {side: sofar + sign * took["cpu_s"][side] for side, sofar in cpu_s.items()}
    return run | {"cpu_s": cpu_s, "wire_bytes": None}


def say(event: str, **fields: Any) -> None:
    """One event."""
    print(json.dumps({"event": event, **fields}), flush=True)


def versions(*names: str) -> dict[str, str]:
    """The versions of distributions, and Python's."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def arguments() -> argparse.Namespace:
    """What the harness tells a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="homefeed in one layout")
    parser.add_argument("--settings", type=json.loads, default={}, help="as JSON")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a run lasts at least")
    parser.add_argument("--row-groups", type=int, help="no more than the first so many")
    parser.add_argument("--check", action="store_true", help="checksums instead of a run")
    return parser.parse_args()


def serve(
    start: Callable[[Path, Settings], AbstractContextManager[Peer]],
    packages: Sequence[str],
    timing: Timing = whole_passes,
) -> None:
    """The command line of a peer: starts it, and checks it or makes one run."""
    options = arguments()
    with start(options.folder, options.settings) as peer:
        say("ready", settings=options.settings, versions=versions(*packages))
        wanted = splits(options.folder)[: options.row_groups]
        if options.check:
            checksum = Checksum()
            for batch in peer.batches(wanted):
                checksum.add(batch)
            say("checksums", **checksum.as_json())
            return
        for _ in peer.batches(wanted[:WARM_UP_SPLITS]):
            pass
        say("run", **timing(peer, wanted, options.seconds))
