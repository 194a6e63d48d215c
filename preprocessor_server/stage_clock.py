"""Where the time of a process goes: wall, CPU and queued time by stage, up to now.

A worker thread is in one stage at a time: what happens in an inner stage is not counted for the
outer one. What is under way counts up to the moment of reading, so that two readings differ by what
was done in between, however long a single read takes.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import TracebackType

# Threads of the worker pool are in these, streams (which only wait) in the others.
WORK_STAGES = ("read", "decode", "transform", "order", "encode")
STREAM_STAGES = ("send", "wait", "memory", "open")
# Parts are columns and features; of more names than these, the rest is not told apart.
MAX_PARTS = 4096
# Who has waited for less than this in all has not waited for a core: that need not be looked up.
_NO_WAIT_NS = 20_000
# docs.kernel.org/scheduler/sched-stats.html: CPU time, time on a run queue, number of time slices.
_SCHEDSTAT = "/proc/thread-self/schedstat"


@dataclass(slots=True)
class StageTimes:
    """What a stage took, in nanoseconds over all threads, and the bytes that came out of it.

    queued_ns is the time without a core of threads that could have run; None where the system does
    not tell. parts are nanoseconds by name.
    """

    wall_ns: int = 0
    cpu_ns: int = 0
    queued_ns: int | None = None
    size_bytes: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)


class _Watch:
    """What a thread is at, and what had passed for it when that was last counted."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.stage: Stage | None = None
        self.wall_ns = self.cpu_ns = 0
        self.queued_ns: int | None = None
        # What reads took in all and since when one is under way (0: none); only this thread writes
        # them. Then what was counted of it.
        self.reads_ns = self.reading_ns = 0
        self._counted_reads_ns = 0
        self._schedstat: int | None = None

    def open(self) -> None:
        """Begins to watch; called by the thread itself."""
        if self._schedstat is None:
            with suppress(OSError):
                self._schedstat = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        self.passed(time.CLOCK_THREAD_CPUTIME_ID)
        self._counted_reads_ns = self.reads_ns

    def passed(self, cpu_clock: int) -> tuple[int, int, int | None]:
        """(wall, CPU, queued) nanoseconds since the last call."""
        now_ns, now_cpu_ns = time.perf_counter_ns(), time.clock_gettime_ns(cpu_clock)
        wall_ns, cpu_ns = now_ns - self.wall_ns, now_cpu_ns - self.cpu_ns
        self.wall_ns, self.cpu_ns = now_ns, now_cpu_ns
        before_ns = self.queued_ns
        if before_ns is not None and wall_ns - cpu_ns < _NO_WAIT_NS:
            return wall_ns, cpu_ns, 0
        self.queued_ns = self._queued()
        if before_ns is None or self.queued_ns is None:
            return wall_ns, cpu_ns, None
        return wall_ns, cpu_ns, self.queued_ns - before_ns

    def read(self) -> int:
        """Nanoseconds in reads since the last call, up to when passed() was called."""
        under_way_ns = self.wall_ns - self.reading_ns if self.reading_ns else 0
        total_ns = self.reads_ns + max(0, under_way_ns)
        # One that ends this very moment may be counted a little late.
        found_ns = max(0, total_ns - self._counted_reads_ns)
        self._counted_reads_ns += found_ns
        return found_ns

    def _queued(self) -> int | None:
        if self._schedstat is None:
            return None
        try:
            return int(os.pread(self._schedstat, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def __del__(self) -> None:
        if self._schedstat is not None:
            os.close(self._schedstat)


class _Here(threading.local):
    """The watch of this thread."""

    def __init__(self) -> None:
        self.watch = _Watch()


_here = _Here()


class StageClock:
    """The stages of one process; any thread may use it."""

    def __init__(self) -> None:
        # Tells this clock from that of the process after a restart.
        self.instance_id = secrets.randbits(64)
        self._lock = threading.Lock()
        self._began_ns = time.perf_counter_ns()
        self._totals = {name: StageTimes() for name in (*WORK_STAGES, *STREAM_STAGES)}
        self._parts: dict[str, dict[str, int]] = defaultdict(dict)
        # Streams in a stage now: their beginnings are subtracted from its total already.
        self._blocked = dict.fromkeys(STREAM_STAGES, 0)
        # Threads in a stage of work. They leave it under the lock, so those in here are alive.
        self._working: set[_Watch] = set()

    def uptime_ns(self) -> int:
        """How long the clock has been counting."""
        return time.perf_counter_ns() - self._began_ns

    def stage(self, name: str, *, reads: bool = False, waits: bool = False) -> Stage:
        """Counts what this thread does inside as a stage of work.

        With reads, what is inside of READING is of stage read; with waits, the time in which the
        thread waits for anything but a core.
        """
        return Stage(self, name, reads=reads, waits=waits)

    @contextmanager
    def blocked(self, name: str) -> Iterator[None]:
        """Counts the time inside as a stage of streams; any thread may leave it."""
        times = self._totals[name]
        with self._lock:
            times.wall_ns -= time.perf_counter_ns()
            self._blocked[name] += 1
        try:
            yield
        finally:
            with self._lock:
                times.wall_ns += time.perf_counter_ns()
                self._blocked[name] -= 1

    def add_bytes(self, name: str, size: int) -> None:
        """Counts bytes that came out of a stage."""
        with self._lock:
            self._totals[name].size_bytes += size

    def add_parts(self, name: str, parts: Mapping[str, int]) -> None:
        """Counts nanoseconds of parts of a stage, by name."""
        with self._lock:
            known = self._parts[name]
            for part, wall_ns in parts.items():
                if part in known or len(known) < MAX_PARTS:
                    known[part] = known.get(part, 0) + wall_ns

    def read(self) -> dict[str, StageTimes]:
        """What every stage took up to now."""
        with self._lock:
            for watch in self._working:
                self._charge(watch, time.pthread_getcpuclockid(watch.thread))
            now_ns = time.perf_counter_ns()
            return {
                name: StageTimes(
                    times.wall_ns + self._blocked.get(name, 0) * now_ns,
                    times.cpu_ns,
                    times.queued_ns,
                    times.size_bytes,
                    dict(self._parts.get(name, {})),
                )
                for name, times in self._totals.items()
            }

    def enter(self, stage: Stage) -> None:
        """Has this thread be in a stage."""
        watch = _here.watch
        with self._lock:
            if watch.stage is None:
                watch.open()
                self._working.add(watch)
            else:
                self._charge(watch, time.CLOCK_THREAD_CPUTIME_ID)
            stage.outer, watch.stage = watch.stage, stage

    def leave(self, stage: Stage) -> None:
        """Has this thread be where it was before a stage."""
        watch = _here.watch
        with self._lock:
            self._charge(watch, time.CLOCK_THREAD_CPUTIME_ID)
            watch.stage = stage.outer
            if watch.stage is None:
                self._working.discard(watch)

    def _charge(self, watch: _Watch, cpu_clock: int) -> None:
        """Counts what has passed for a thread as its stage's."""
        stage = watch.stage
        assert stage is not None
        wall_ns, cpu_ns, queued_ns = watch.passed(cpu_clock)
        if stage.reads or stage.waits:
            ran_ns = cpu_ns + (queued_ns or 0)
            waited_ns = max(0, wall_ns - ran_ns)
            read_ns = min(watch.read(), wall_ns) if stage.reads else waited_ns
            # What of a read is no wait is copying, which needs a core as all else does.
            copied = (read_ns - min(waited_ns, read_ns)) / ran_ns if ran_ns else 0.0
            copied_ns = int(copied * cpu_ns)
            copied_queued_ns = None if queued_ns is None else int(copied * queued_ns)
            self._add("read", read_ns, copied_ns, copied_queued_ns)
            wall_ns, cpu_ns = wall_ns - read_ns, cpu_ns - copied_ns
            if queued_ns is not None:
                queued_ns -= copied_queued_ns or 0
        self._add(stage.name, wall_ns, cpu_ns, queued_ns)

    def _add(self, name: str, wall_ns: int, cpu_ns: int, queued_ns: int | None) -> None:
        times = self._totals[name]
        times.wall_ns += wall_ns
        times.cpu_ns += cpu_ns
        if queued_ns is not None:
            times.queued_ns = (times.queued_ns or 0) + queued_ns


class Stage:
    """A thread's stay in a stage of work."""

    def __init__(self, clock: StageClock, name: str, *, reads: bool, waits: bool) -> None:
        self.clock, self.name, self.reads, self.waits = clock, name, reads, waits
        self.outer: Stage | None = None

    def __enter__(self) -> None:
        self.clock.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clock.leave(self)


class _Reading:
    """Marks a read. It costs next to nothing: there is one for every column chunk."""

    def __enter__(self) -> None:
        _here.watch.reading_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        watch = _here.watch
        began_ns, watch.reading_ns = watch.reading_ns, 0
        watch.reads_ns += time.perf_counter_ns() - began_ns


READING = _Reading()


def within(name: str, *, reads: bool = False, waits: bool = False) -> AbstractContextManager[None]:
    """As stage() of the clock that this thread is on; without one, nothing is counted."""
    stage = _here.watch.stage
    return nullcontext() if stage is None else Stage(stage.clock, name, reads=reads, waits=waits)


def count_bytes(name: str, size: int) -> None:
    """As add_bytes() of the clock that this thread is on."""
    stage = _here.watch.stage
    if stage is not None:
        stage.clock.add_bytes(name, size)


def count_parts(name: str, parts: Mapping[str, int]) -> None:
    """As add_parts() of the clock that this thread is on."""
    stage = _here.watch.stage
    if stage is not None:
        stage.clock.add_parts(name, parts)
