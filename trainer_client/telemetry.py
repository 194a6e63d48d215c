"""What a stream counts, and the same as Prometheus metrics."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer_client.loop_clock import LoopClock

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class ServerStats:
    """What one server sent of what was delivered."""

    rows: int = 0
    batches: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream has done since it was made.

    wire_bytes is compressed, arena_bytes decompressed. wait_s is the time that next() waited for
    data, elapsed_s the time from the first next() to the last: a wait share near 0 says that the
    trainer is the slower side, near 1 that the servers are. left_out_batches were left out to keep
    ranks in step (counted once per epoch, over all ranks); dropped_rows lay in short batches that
    drop_last left out.
    """

    rows: int = 0
    batches: int = 0
    wire_bytes: int = 0
    arena_bytes: int = 0
    wait_s: float = 0.0
    elapsed_s: float = 0.0
    retries: int = 0
    moves: int = 0
    refetches: int = 0
    hedges: int = 0
    hedges_won: int = 0
    left_out_batches: int = 0
    left_out_rows: int = 0
    padded_batches: int = 0
    skipped_batches: int = 0
    skipped_rows: int = 0
    dropped_batches: int = 0
    dropped_rows: int = 0
    servers: dict[str, ServerStats] = field(default_factory=dict)

    @property
    def wait_share(self) -> float:
        """The share of the elapsed time spent waiting, from 0 to 1."""
        return min(1.0, self.wait_s / self.elapsed_s) if self.elapsed_s else 0.0


class Meter:
    """Counts for one stream; any thread may call it."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        # Reentrant: a signal handler may ask for the counts.
        self._lock = threading.RLock()
        self._counts: dict[str, float] = {}
        # The fields of ServerStats; what was delivered in all is their sum.
        self._servers: dict[str, list[int]] = {}
        self._arena_bytes = 0
        self._began_s: float | None = None
        self._ended_s = 0.0
        _METERS.add(self)

    def add(self, **counts: float) -> None:
        """Adds to fields of StreamStats."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] = self._counts.get(name, 0) + count

    def counts(self) -> dict[str, float]:
        """What add has added up, so far."""
        with self._lock:
            return dict(self._counts)

    def began(self) -> None:
        """Marks the first next(), or the first after a pause between epochs."""
        with self._lock:
            if self._began_s is None:
                self._began_s = self._ended_s = time.monotonic()

    def paused(self) -> None:
        """Marks the end of an epoch: time until the next one is nobody's wait."""
        with self._lock:
            if self._began_s is not None:
                elapsed = time.monotonic() - self._began_s
                self._counts["elapsed_s"] = self._counts.get("elapsed_s", 0) + elapsed
                self._began_s = None

    def delivered(self, *, server: str, rows: int, wire_bytes: int, arena_bytes: int) -> None:
        """Counts a batch handed to the trainer."""
        with self._lock:
            counts = self._servers.setdefault(server, [0, 0, 0])
            counts[0] += rows
            counts[1] += 1
            counts[2] += wire_bytes
            self._arena_bytes += arena_bytes
            self._ended_s = time.monotonic()
        self.clock.delivered(server, rows, wire_bytes)

    def stats(self) -> StreamStats:
        """The counts so far."""
        with self._lock:
            counts = dict(self._counts)
            if self._began_s is not None:
                running = self._ended_s - self._began_s
                counts["elapsed_s"] = counts.get("elapsed_s", 0) + running
            seconds = {name: counts.pop(name, 0.0) for name in ("wait_s", "elapsed_s")}
            whole = {name: int(count) for name, count in counts.items()}
            servers = {name: ServerStats(*own) for name, own in sorted(self._servers.items())}
            return StreamStats(
                **whole,
                rows=sum(server.rows for server in servers.values()),
                batches=sum(server.batches for server in servers.values()),
                wire_bytes=sum(server.wire_bytes for server in servers.values()),
                arena_bytes=self._arena_bytes,
                wait_s=seconds["wait_s"],
                elapsed_s=seconds["elapsed_s"],
                servers=servers,
            )


_METERS: weakref.WeakSet[Meter] = weakref.WeakSet()

METRICS = {
    "rows": "Rows handed to the trainer. Its rate is the trainer's speed.",
    "batches": "Batches handed to the trainer.",
    "arena_bytes": "Bytes of tensors handed to the trainer, after decompression.",
    "wait_s": (
        "Seconds that the trainer waited for a batch. A rate near 0: the trainer is the slower "
        "side, add GPUs or leave it. Near 1: the servers are, add servers or cores."
    ),
    "retries": (
        "Calls and streams that had to go on at another server. Steady growth: servers crash, "
        "drain or are full; their logs say which."
    ),
    "moves": (
        "Streams that left a server for one with less load. Steady growth: some servers are slower "
        "than others."
    ),
    "refetches": "Batches fetched again since their bytes were damaged. Above 0: suspect hardware.",
    "hedges": (
        "Batches that a second server was asked for, since the first took unusually long. Growth: "
        "look for a slow server."
    ),
    "hedges_won": "Hedges in which the second server was faster.",
    "skipped_rows": "Rows that the trainer asked to leave out (BatchStream.skip).",
    "padded_batches": "Batches repeated so that ranks take as many steps.",
    "dropped_rows": "Rows left out by drop_last.",
    "left_out_rows": "Rows left out to keep ranks in step, over all ranks.",
}
_SERVER_METRICS = {
    "rows": "Rows that one server sent. A server far below the others is slow or often retried.",
    "wire_bytes": "Compressed bytes that one server sent.",
}
_UNITS = {"wait_s": "wait_seconds"}


class MetricsServer:
    """Serves the metrics of every live stream of this process; close() ends it."""

    def __init__(self, listen: str) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"{listen!r} is no address to listen on: give host:port")
        registry = CollectorRegistry()
        registry.register(_collector())
        self._server, self._thread = start_http_server(
            int(port), addr=host.strip("[]"), registry=registry
        )
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def serve_metrics(listen: str) -> MetricsServer:
    """Serves metrics on "host:port" (port 0 picks one). ValueError or OSError if it cannot."""
    return MetricsServer(listen)


def _collector() -> Collector:
    from prometheus_client.core import CounterMetricFamily
    from prometheus_client.registry import Collector

    class StreamCollector(Collector):
        def collect(self) -> Iterable[Metric]:
            stats = [meter.stats() for meter in list(_METERS)]
            for name, text in METRICS.items():
                total = sum(getattr(s, name) for s in stats)
                full = f"headrace_client_{_UNITS.get(name, name)}"
                metric = CounterMetricFamily(full, text)
                metric.add_metric([], total)
                yield metric
            yield from _by_server(stats)

    def _by_server(stats: list[StreamStats]) -> Iterator[Metric]:
        for name, text in _SERVER_METRICS.items():
            metric = CounterMetricFamily(f"headrace_client_server_{name}", text, labels=["server"])
            for server in sorted({server for s in stats for server in s.servers}):
                total = sum(getattr(s.servers[server], name) for s in stats if server in s.servers)
                metric.add_metric([server], total)
            yield metric

    return StreamCollector()
