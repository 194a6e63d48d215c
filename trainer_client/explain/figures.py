"""What both sides did in an interval: the difference of two readings of their counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from headrace.v1 import preprocessor_service_pb2 as pb
from trainer_client.explain.bounds import BOUND_BY_STAGE
from trainer_client.loop_clock import LoopTimes


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds in a stage, over all threads. parts are seconds by column or feature.

    queued_s is the time in which a thread could have run and had no core, 0 where nobody knows.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    queued_s: float = 0.0
    size_bytes: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def own_s(self) -> float:
        """What the stage takes where it never waits for a core."""
        return max(0.0, self.wall_s - self.queued_s)


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """What a server did in elapsed_s seconds, for all of its trainers; stages are by name."""

    elapsed_s: float
    cpu_threads: int
    cores: float
    cpu_s: float
    stages: Mapping[str, StageTimes]
    batches: int = 0
    round_trip_s: float = 0.0
    held_share: float = 0.0

    def stage(self, name: str) -> StageTimes:
        """The times of a stage."""
        return self.stages.get(name, StageTimes())

    @property
    def busy_s(self) -> float:
        """Seconds that worker threads were at something."""
        return sum(self.stage(name).wall_s for name in BOUND_BY_STAGE)

    @property
    def busy_share(self) -> float:
        """The share of the worker threads' time in which they were at something."""
        return self.busy_s / (self.elapsed_s * self.cpu_threads) if self.elapsed_s else 0.0

    @property
    def cpu_share(self) -> float:
        """The share of its cores that the process used."""
        return self.cpu_s / (self.elapsed_s * self.cores) if self.elapsed_s else 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What is judged: the loop's times, and by address those of the servers, or why there are none.

    cores are those that the trainer may use; beside says that a process of its own reads,
    or cannot.
    """

    loop: LoopTimes
    cores: float = 1.0
    interleave: int = 1
    beside: bool = False
    retries: int = 0
    servers: Mapping[str, ServerTimes | str] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """The time of the loop."""
        return self.loop.step_s + self.loop.next_s

    @property
    def known_servers(self) -> dict[str, ServerTimes]:
        """The servers that said what they did."""
        return {name: each for name, each in self.servers.items() if isinstance(each, ServerTimes)}


def server_times(
    before: pb.GetCountersResponse, now: pb.GetCountersResponse, round_trip_s: float
) -> ServerTimes:
    """What a server did between two answers; all it ever did, if it was started in between.

    As for parts, an earlier answer without any says nothing of how much of them was done before it.
    """
    if before.instance_id != now.instance_id:
        before = pb.GetCountersResponse()
        parts_known = True
    else:
        parts_known = any(stage.parts for stage in before.stages) or not before.batch_count
    earlier = {stage.stage: stage for stage in before.stages}
    known = set(pb.Stage.values())
    return ServerTimes(
        elapsed_s=_seconds(now.uptime) - _seconds(before.uptime),
        cpu_threads=max(1, now.cpu_threads),
        cores=now.cores or 1.0,
        cpu_s=_seconds(now.cpu) - _seconds(before.cpu),
        stages={
            pb.Stage.Name(stage.stage).removeprefix("STAGE_").lower(): _stage_times(
                earlier.get(stage.stage, pb.StageCounters()), stage, parts_known=parts_known
            )
            for stage in now.stages
            # A newer server may have more.
            if stage.stage in known
        },
        batches=now.batch_count - before.batch_count,
        round_trip_s=round_trip_s,
        held_share=now.held_bytes / now.read_ahead_bytes if now.read_ahead_bytes else 0.0,
    )


def _stage_times(
    before: pb.StageCounters, now: pb.StageCounters, *, parts_known: bool
) -> StageTimes:
    earlier = {part.name: _seconds(part.wall) for part in before.parts}
    parts = {
        part.name: _seconds(part.wall) - earlier.get(part.name, 0.0)
        for part in (now.parts if parts_known else ())
    }
    return StageTimes(
        wall_s=_seconds(now.wall) - _seconds(before.wall),
        cpu_s=_seconds(now.cpu) - _seconds(before.cpu),
        queued_s=_seconds(now.queued) - _seconds(before.queued),
        size_bytes=now.size_bytes - before.size_bytes,
        parts=parts,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
