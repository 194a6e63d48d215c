"""The judgement: a pure function from what both sides counted to what bounds the rate.

The time of the loop is divided among what the loop was at: its step, a copy, or a wait. A wait is
for a batch to be decoded, or for a message; that of each server is explained by what that server
did meanwhile. What takes most of the time that is not the step's bounds the rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer_client.explain.bounds import BOUND_BY_STAGE, Bound
from trainer_client.explain.figures import ServerTimes, Situation

# Below, nothing is said: what happened to be under way would decide.
LEAST_S = 0.5
LEAST_BATCHES = 5
# Fewer batches are enough after so long: each of them is slow.
LONG_S = 2.0
# An epoch must have been read for this share of the time.
READING = 0.75
# A loop that waits less than this share of its time has its batches when it asks for them.
HARDLY = 0.05
# A GPU's copies that take this share of the time are what its steps wait for.
COPYING = 0.8
# Streams that wait for workers for this share of the time that the client waits for messages
# explain that wait; else the messages were on their way.
EXPLAINS = 0.5
# Worker threads at work, or cores in use, for this share of the time are the limit.
POOL_BUSY, CORES_BUSY = 0.7, 0.85
# A message that takes no longer than so many round trips is bound by them, not by its bytes.
ROUND_TRIPS = 4
# Below, a round trip is no way to speak of.
LEAST_ROUND_TRIP_S = 0.002
# One of several servers is the slow one if it is waited for most, and so many times as long as the
# others for each message.
MOST, SLOWER = 0.5, 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounds the rate, and the seconds of the loop's time by what they went to.

    server is set if one of several servers holds up all. stage is the stage that takes most of the
    servers' workers, whatever bounds. reason says why nothing can be said.
    """

    bound: Bound
    seconds: Mapping[Bound, float] = field(default_factory=dict)
    server: str = ""
    stage: str = ""
    reason: str = ""

    @property
    def share(self) -> float:
        """The share of the loop's time that the bound takes."""
        total_s = sum(self.seconds.values())
        return self.seconds.get(self.bound, 0.0) / total_s if total_s else 0.0


def judge(situation: Situation) -> Verdict:
    """The verdict on an interval."""
    loop, total_s = situation.loop, situation.total_s
    stage = busiest_stage(situation)
    if total_s < LEAST_S or (loop.batches < LEAST_BATCHES and total_s < LONG_S):
        return Verdict(
            Bound.UNKNOWN,
            stage=stage,
            reason=f"{loop.batches:.0f} batches in {total_s:.1f} s of the loop are too few: ask "
            "again after some seconds, while an epoch is being read",
        )
    if total_s < READING * loop.at_s:
        return Verdict(
            Bound.UNKNOWN,
            stage=stage,
            reason=f"an epoch was being read for {total_s:.1f} of {loop.at_s:.1f} s only, and what "
            "servers do meanwhile says little: ask while one is being read",
        )
    received = _received_for(situation)
    found = {name: diagnose(situation, name) for name in received}
    seconds: dict[Bound, float] = defaultdict(float)
    seconds[Bound.STEP] = loop.step_s
    seconds[Bound.COPY] = loop.copied_s
    seconds[Bound.RANKS] = loop.ranks_s
    seconds[Bound.CLIENT] = loop.decoded_for_s
    for name, (bound, _) in found.items():
        seconds[bound] += received[name]
    # The loop's own work in next(), or a wait for a stream that failed and goes on elsewhere.
    rest_s = max(0.0, total_s - sum(seconds.values()))
    seconds[Bound.FAILURES if situation.retries else Bound.HANDOVER] += rest_s
    if loop.next_s < HARDLY * total_s:
        copying = loop.device_copy_s >= COPYING * total_s
        return Verdict(Bound.COPY if copying else Bound.STEP, dict(seconds), stage=stage)
    bound = max(set(seconds) - {Bound.STEP}, key=lambda each: seconds[each])
    blamed = {name for name, (each, _) in found.items() if each is bound}
    slow = _slow_server(situation, received)
    server = slow if slow in blamed else ""
    if server:
        stage = busiest_stage(situation, server)
    reasons = [reason for name, (_, reason) in found.items() if name in blamed and reason]
    return Verdict(bound, dict(seconds), server, stage, reasons[0] if reasons else "")


def diagnose(situation: Situation, server: str) -> tuple[Bound, str]:
    """Why messages of a server are waited for, and of what is not known, why not."""
    times = situation.servers.get(server, "its counters were not read")
    if isinstance(times, str):
        return Bound.UNKNOWN, f"{server}: {times}"
    loop = situation.loop
    waiting_s = loop.receiving_s.get(server, 0.0)
    messages = max(1.0, loop.messages.get(server, 0.0))
    # Other trainers' streams wait for workers too.
    own = min(1.0, messages / times.batches) if times.batches else 1.0
    own *= loop.at_s / times.elapsed_s if times.elapsed_s else 1.0
    opening_s, memory_s, working_s, sending_s = (
        own * times.stage(name).wall_s for name in ("open", "memory", "wait", "send")
    )
    explained_s = opening_s + memory_s + working_s
    if explained_s >= EXPLAINS * waiting_s:
        if opening_s > max(memory_s, working_s):
            return Bound.OPENING, ""
        if memory_s > working_s:
            return Bound.MEMORY, ""
        return _at_work(times), ""
    on_the_way_s = waiting_s - explained_s
    if loop.cpu_s >= CORES_BUSY * loop.at_s * situation.cores:
        return Bound.CLIENT, ""
    round_trips_s = ROUND_TRIPS * times.round_trip_s
    if times.round_trip_s >= LEAST_ROUND_TRIP_S and on_the_way_s / messages <= round_trips_s:
        return Bound.LATENCY, ""
    if sending_s >= EXPLAINS * on_the_way_s:
        return Bound.WIRE, ""
    if times.cpu_share >= CORES_BUSY:
        return _at_work(times), ""
    return Bound.UNKNOWN, (
        f"{server} is neither at work nor blocked in sending for most of the time that its batches "
        "are waited for"
    )


def busiest_stage(situation: Situation, server: str = "") -> str:
    """The stage that takes most of the worker threads' time, of one server or of all."""
    times = situation.known_servers
    chosen = [times[server]] if server in times else list(times.values())
    own_s = {name: sum(each.stage(name).own_s for each in chosen) for name in BOUND_BY_STAGE}
    return max(own_s, key=lambda name: own_s[name]) if any(own_s.values()) else ""


def _at_work(times: ServerTimes) -> Bound:
    """What bounds a server whose streams wait for its workers."""
    own_s = {name: times.stage(name).own_s for name in BOUND_BY_STAGE}
    stage = max(own_s, key=lambda name: own_s[name])
    # With as many streams waiting as there are threads, more of them find none idle, be it that
    # handing over work takes its time.
    enough = times.stage("wait").wall_s >= times.elapsed_s * times.cpu_threads
    full = enough or times.busy_share >= POOL_BUSY or times.cpu_share >= CORES_BUSY
    # Who waits for storage needs no core, so idle ones say nothing.
    if stage == "read" or full:
        return BOUND_BY_STAGE[stage]
    return Bound.LANES


def _received_for(situation: Situation) -> dict[str, float]:
    """Seconds that the loop waited for a message, by server."""
    loop = situation.loop
    if loop.batches:
        return {name: seconds for name, seconds in loop.received_for_s.items() if seconds > 0}
    # Only once a batch is there is it known what the wait for it was for: the lanes know already.
    lanes_s = sum(loop.receiving_s.values())
    if not lanes_s:
        return {}
    rest_s = max(0.0, loop.next_s - loop.decoded_for_s - loop.ranks_s - loop.copied_s)
    return {name: rest_s * (each / lanes_s) for name, each in loop.receiving_s.items()}


def _slow_server(situation: Situation, received: Mapping[str, float]) -> str:
    """The server that holds up the others, "" if none does."""
    messages = situation.loop.messages
    total_s = sum(received.values())
    if len(situation.servers) < 2 or not total_s:
        return ""
    server = max(received, key=lambda name: received[name])
    others = sum(count for name, count in messages.items() if name != server)
    others_s = total_s - received[server]
    each_s = received[server] / max(1.0, messages.get(server, 0.0))
    slower = others > 0 and each_s >= SLOWER * others_s / others
    return server if slower and received[server] >= MOST * total_s else ""
