"""Logs and metrics of the server. Every metric says what low and high mean."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from preprocessor_server.stage_clock import STREAM_STAGES, WORK_STAGES, StageClock

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
            "Bytes of batches streamed, compressed. High for each row: cluster the files, or "
            "set --zstd-level to 3.",
            registry=self.registry,
        )
        self.clock = StageClock()
        self.registry.register(_StageCollector(self.clock))
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
        self.skipped_row_groups = Counter(
            "headrace_server_skipped_row_groups",
            "Row groups, or the parts of one, that were not read since their footer proves that no "
            "row passes the filter. Zero with a filter on a column that files are sorted by: write "
            "them with statistics.",
            registry=self.registry,
        )
        self.rows_left_out = Counter(
            "headrace_server_rows_left_out",
            "Rows that were read and not delivered, each time they were, by what left them out "
            "(where, sampling, distinct_by). where high for each row streamed: sort the files by "
            "the filter's columns, so that row groups are skipped.",
            ["by"],
            registry=self.registry,
        )
        self.errors = Counter(
            "headrace_server_errors",
            "Calls that failed, by reason. Any is worth a look.",
            ["reason"],
            registry=self.registry,
        )

    def leave_out(self, by: str, rows: int) -> None:
        """Counts rows that were read and are not delivered."""
        self.rows_left_out.labels(by).inc(rows)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Counts the time spent inside as that of a stage, of a worker thread or of a stream."""
        return self.clock.blocked(name) if name in STREAM_STAGES else self.clock.stage(name)

    def serve(self, address: str) -> int:
        """Serves the metrics on host:port; returns the port."""
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), host.strip("[]"), registry=self.registry)
        return int(server.server_port)


class _StageCollector(Collector):
    """The stages of a clock as Prometheus metrics."""

    def __init__(self, clock: StageClock) -> None:
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Seconds by stage."""
        wall = CounterMetricFamily(
            "headrace_server_stage_seconds",
            "Thread seconds that workers spent in a stage (read: waiting for storage; decode, "
            "transform, order, encode), and that streams were blocked (send: by the network or a "
            "slow trainer; wait: for a worker; memory; open). The highest of the first five bounds "
            "a busy server.",
            labels=["stage"],
        )
        cpu = CounterMetricFamily(
            "headrace_server_stage_cpu_seconds",
            "CPU seconds that workers spent in a stage. Far below its stage seconds, other than of "
            "read: threads wait for cores; fewer --cpu-threads, or a higher CPU limit.",
            labels=["stage"],
        )
        for name, times in self._clock.read().items():
            wall.add_metric([name], times.wall_ns / 1e9)
            if name in WORK_STAGES:
                cpu.add_metric([name], times.cpu_ns / 1e9)
        return wall, cpu
