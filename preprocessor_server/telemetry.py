"""Logs and metrics of the server. Every metric says what low and high mean."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

log: structlog.stdlib.BoundLogger = structlog.get_logger("headrace")


def configure_logging(log_format: str, level: str) -> None:
    """Logs to stderr, readable (text) or one JSON object a line (json)."""
    renderers: list[structlog.typing.Processor]
    if log_format == "json":
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        renderers = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class Metrics:
    """The counters of one server process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.streams = Gauge(
            "headrace_server_streams",
            "Streams being served. At --max-streams, trainers are sent elsewhere: add servers.",
            registry=self.registry,
        )
        self.rows = Counter(
            "headrace_server_rows",
            "Rows streamed. Flat while trainers wait: see stage seconds for what is slow.",
            registry=self.registry,
        )
        self.batches = Counter(
            "headrace_server_batches", "Batches streamed.", registry=self.registry
        )
        self.wire_bytes = Counter(
            "headrace_server_wire_bytes",
            "Bytes of batches streamed, compressed. High for each row: cluster the files, or raise "
            "--zstd-level.",
            registry=self.registry,
        )
        self.stage_seconds = Counter(
            "headrace_server_stage_seconds",
            "Thread seconds spent in a stage (read, transform, encode) or blocked in sending "
            "(send). The highest of the first three bounds a busy server; a high send means that "
            "trainers are slower than the servers.",
            ["stage"],
            registry=self.registry,
        )
        self.held_bytes = Gauge(
            "headrace_server_held_bytes",
            "Memory held for decoded rows and messages. Near --read-ahead-bytes: streams wait for "
            "memory.",
            registry=self.registry,
        )
        self.shared_batches = Counter(
            "headrace_server_shared_batches",
            "Batches by whether they had been made for another stream (hit) or were made now "
            "(miss), by dataset fingerprint. Trainers of one dataset that run apart miss: start "
            "them together, or raise --shared-bytes.",
            ["dataset", "result"],
            registry=self.registry,
        )
        self.shared_bytes = Gauge(
            "headrace_server_shared_bytes",
            "Memory held for what other streams may want, part of held_bytes. At --shared-bytes: "
            "the oldest is dropped.",
            registry=self.registry,
        )
        self.evictions = Gauge(
            "headrace_server_evictions",
            "Times that a stalled stream's decoded rows were dropped for others. High: splits are "
            "read again; raise --read-ahead-bytes or lower max_split_bytes.",
            registry=self.registry,
        )
        self.errors = Counter(
            "headrace_server_errors",
            "Calls that failed, by reason. Any is worth a look.",
            ["reason"],
            registry=self.registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time spent inside as seconds of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).inc(time.perf_counter() - start)

    def serve(self, address: str) -> int:
        """Serves the metrics on host:port; returns the port."""
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), host.strip("[]"), registry=self.registry)
        return int(server.server_port)
