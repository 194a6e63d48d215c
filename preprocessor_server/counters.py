"""What a server process has done since it started, as a message."""

from __future__ import annotations

import heapq
import os
import time
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from prometheus_client import Counter, Gauge

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.pipeline import Pipeline
from preprocessor_server.stage_clock import WORK_STAGES

# Of each stage, those that took most: an answer stays a few kB.
MAX_PARTS_SHOWN = 64
# docs.kernel.org/admin-guide/cgroup-v2.html: "$MAX $PERIOD", microseconds of CPU in every so many.
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# docs.kernel.org/scheduler/sched-bwc.html: the same of version 1; -1 for no limit.
_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def counters(pipeline: Pipeline, *, with_parts: bool = True) -> pb.GetCountersResponse:
    """The counters up to now."""
    metrics, stages = pipeline.metrics, pipeline.metrics.clock.read()
    response = pb.GetCountersResponse(
        instance_id=metrics.clock.instance_id,
        uptime=_duration(metrics.clock.uptime_ns()),
        cpu_threads=pipeline.settings.cpu_threads,
        cores=usable_cores(),
        cpu=_duration(time.process_time_ns()),
        row_count=_value(metrics.rows),
        batch_count=_value(metrics.batches),
        wire_bytes=_value(metrics.wire_bytes),
        stream_count=_value(metrics.streams),
        held_bytes=pipeline.budget.used,
        read_ahead_bytes=pipeline.budget.capacity,
    )
    for name, times in stages.items():
        working = name in WORK_STAGES
        queued = times.queued_ns
        stage = response.stages.add(
            stage=pb.Stage.Value(f"STAGE_{name.upper()}"),
            wall=_duration(times.wall_ns),
            cpu=_duration(times.cpu_ns) if working else None,
            queued=_duration(queued) if working and queued is not None else None,
            size_bytes=times.size_bytes,
        )
        if with_parts:
            for part, wall_ns in heapq.nlargest(
                MAX_PARTS_SHOWN, times.parts.items(), key=lambda item: (item[1], item[0])
            ):
                stage.parts.add(name=part, wall=_duration(wall_ns))
    return response


def usable_cores() -> float:
    """The cores that this process may use: its affinity, or its container's limit if that is less.

    A container sees its own control group at the root of the file system.
    """
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (_CPU_MAX.read_text() if _CPU_MAX.exists() else _of_version_1()).split()
        return cores if quota in ("max", "-1") else min(cores, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def _of_version_1() -> str:
    return f"{_QUOTA.read_text()} {_PERIOD.read_text()}"


def _duration(nanoseconds: int) -> Duration:
    seconds, nanos = divmod(max(0, nanoseconds), 10**9)
    return Duration(seconds=seconds, nanos=nanos)


def _value(metric: Counter | Gauge) -> int:
    return int(next(iter(metric.collect())).samples[0].value)
