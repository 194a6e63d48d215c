"""A busy training loop in pure Python, on a core of its own: how fast it is, alone and fed.

A step takes a batch and then computes for as long as a trainer of a given rate has. While it
computes, the loop gives up its core only when another thread wants the GIL: the time that it is
off the core then, and how often, is what that thread costs it. Time in which the loop could run
and another process had the core is the kernel's run delay (/proc/thread-self/schedstat), and is
counted apart: the loop is meant to have a core to itself. The clocks are read without letting go
of the GIL, which would be an offer to other threads that the loop by itself does not make.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.harness import tree_cpu_s

T = TypeVar("T")

WARM_UP_STEPS = 8
# A lap that is fed, and the time in which buffers are filled behind it.
TURN_S = 0.4
SETTLE_S = 0.1
CALIBRATION_S = 0.1
# PyDLL keeps the GIL during a call; os.pread and every method of a file let go of it.
_C = ctypes.PyDLL(None, use_errno=True)
_C.pread.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64)
_C.pread.restype = ctypes.c_ssize_t


def cores() -> tuple[int, set[int]]:
    """The loop's core, and those of everything else. Raises RuntimeError if there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise RuntimeError("the training loop needs a core of its own: give this process two")
    return first, set(others)


class Mark(NamedTuple):
    """Where the calling thread stands: seconds of each kind, and how often it blocked."""

    wall_s: float
    cpu_s: float
    delay_s: float
    blocked: float

    @classmethod
    def now(cls, schedstat: int) -> Mark:
        """Reads the clocks; schedstat is the descriptor of the thread's file of that name."""
        text = ctypes.create_string_buffer(100)
        if _C.pread(schedstat, text, len(text) - 1, 0) < 0:
            raise OSError(ctypes.get_errno(), "reading /proc/thread-self/schedstat")
        delay_s = int(text.value.split()[1]) / 1e9
        blocked = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return cls(time.perf_counter(), time.thread_time(), delay_s, blocked)

    @property
    def off_core_s(self) -> float:
        """Seconds in which the thread waited for something other than its core."""
        return self.wall_s - self.cpu_s - self.delay_s

    def since(self, start: Mark) -> Mark:
        """The difference."""
        return Mark(*(now - then for now, then in zip(self, start, strict=True)))

    def plus(self, other: Mark) -> Mark:
        """The sum."""
        return Mark(*(mine + its for mine, its in zip(self, other, strict=True)))


NOTHING = Mark(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Lap:
    """Some steps: the loop's time for taking batches, and for computing.

    all_cpu_s is the CPU time of this process and its children.
    """

    steps: int
    taking: Mark
    computing: Mark
    all_cpu_s: float

    def plus(self, other: Lap) -> Lap:
        """Both, as one lap."""
        taking, computing = self.taking.plus(other.taking), self.computing.plus(other.computing)
        cpu_s = self.all_cpu_s + other.all_cpu_s
        return Lap(self.steps + other.steps, taking, computing, cpu_s)

    @property
    def disturbed_share(self) -> float:
        """The share of the time in which other processes had the loop's core."""
        whole = self.taking.plus(self.computing)
        return whole.delay_s / whole.wall_s

    @property
    def steps_per_s(self) -> float:
        """The loop's speed while the core was its own."""
        whole = self.taking.plus(self.computing)
        return self.steps / (whole.wall_s - whole.delay_s)

    @property
    def take_s(self) -> float:
        """CPU seconds a step that the loop itself spends on taking a batch."""
        return self.taking.cpu_s / self.steps

    @property
    def wait_s(self) -> float:
        """Seconds a step that taking a batch waits: for data, or for the GIL."""
        return self.taking.off_core_s / self.steps

    @property
    def without_gil_s(self) -> float:
        """Seconds a step in which the loop wanted to compute and another thread had the GIL."""
        return self.computing.off_core_s / self.steps

    @property
    def hand_overs(self) -> float:
        """How often a step the loop lost the GIL while it computed."""
        return self.computing.blocked / self.steps

    @property
    def feeding_cpu_s(self) -> float:
        """CPU seconds a step of all but the loop's computing."""
        return (self.all_cpu_s - self.computing.cpu_s) / self.steps


class TrainingLoop:
    """Runs on the calling thread, which has a core to itself during a lap.

    Between laps the thread stays off that core, and with it every thread and process that it
    starts: make the loop before anything else.
    """

    def __init__(self, step_s: float) -> None:
        self._core, self._others = cores()
        self._iterations = 1_000
        with self._pinned():
            self._calibrate(step_s)

    def both(
        self, batches: Iterator[T], take: Callable[[T], object], seconds: float
    ) -> tuple[Lap, Lap]:
        """So many seconds fed and half as many alone, a short lap each in turn.

        What the machine does meanwhile, whose speed changes from one second to the next, it does
        to both. What feeds the loop fills its buffers and rests while the loop is alone.
        """
        for _ in range(WARM_UP_STEPS):
            take(next(batches))
        laps = []
        for _ in range(max(1, round(seconds / TURN_S))):
            time.sleep(SETTLE_S)
            # From full buffers to full ones: as many batches are made in the lap as are taken.
            with self._pinned():
                fed = self._run(batches, take, TURN_S)
            time.sleep(SETTLE_S)
            laps.append((self.alone(TURN_S / 2), fed))
        alone, fed = (functools.reduce(Lap.plus, each) for each in zip(*laps, strict=True))
        return alone, fed

    def alone(self, seconds: float) -> Lap:
        """Steps that take nothing."""
        with self._pinned():
            return self._run(itertools.repeat(None), lambda _: None, seconds)

    def fed(self, batches: Iterator[T], take: Callable[[T], object], seconds: float) -> Lap:
        """Steps that each take a batch, after some that do not count."""
        for _ in range(WARM_UP_STEPS):
            take(next(batches))
        with self._pinned():
            return self._run(batches, take, seconds)

    def _run(self, batches: Iterator[T], take: Callable[[T], object], seconds: float) -> Lap:
        steps, taking, computing = 0, NOTHING, NOTHING
        with Path("/proc/thread-self/schedstat").open("rb") as file:
            schedstat = file.fileno()
            all_cpu_s, began = _all_cpu_s(), Mark.now(schedstat)
            end_s = began.wall_s + seconds
            while began.wall_s < end_s:
                take(next(batches))
                taken = Mark.now(schedstat)
                _compute(self._iterations)
                done = Mark.now(schedstat)
                taking = taking.plus(taken.since(began))
                computing = computing.plus(done.since(taken))
                began = done
                steps += 1
        return Lap(steps, taking, computing, _all_cpu_s() - all_cpu_s)

    def _calibrate(self, step_s: float) -> None:
        """Finds how long to compute, by the loop's own CPU time."""
        spent_s = 0.0
        while spent_s < CALIBRATION_S:
            self._iterations *= 2
            began_s = time.thread_time()
            _compute(self._iterations)
            spent_s = time.thread_time() - began_s
        self._iterations = max(1, int(self._iterations * step_s / spent_s))

    @contextmanager
    def _pinned(self) -> Iterator[None]:
        os.sched_setaffinity(threading.get_native_id(), {self._core})
        try:
            yield
        finally:
            os.sched_setaffinity(threading.get_native_id(), self._others)


def _compute(iterations: int) -> int:
    """Bytecode and nothing else: it lets go of the GIL only when it is asked to."""
    value = 0
    for i in range(iterations):
        value = (value * 31 + i) & 0xFFFF
    return value


def _all_cpu_s() -> float:
    """CPU time of this process, to the nanosecond, and of its children, to the tick."""
    own = os.times()
    children = tree_cpu_s(os.getpid()) - own.user - own.system
    return time.process_time() + children
