"""Which of how many trainer processes this is, and what they tell each other."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from trainer_client.errors import RequestError, StreamClosedError, StreamTimeoutError

# How much later than the others a rank may be, beside the stream's timeout: while others wait for
# it, it may have a model to evaluate or a checkpoint to write. torch's NCCL groups give as long.
LATE_S = 600.0
# How long a wait for other ranks goes on before a signal (Ctrl-C) is seen.
_SLICE_S = 1.0
# Who is there answers a roll call within this time.
_CALL_S = 5.0
# A tag of which no message is sent.
_NEVER_SENT = 1


class Group(Protocol):
    """The trainer processes, as far as they can talk to each other."""

    rank: int
    world_size: int

    def share(self, value: Any) -> list[Any]:
        """What every rank gave, by rank; every rank calls it."""


class ProcessGroup:
    """torch.distributed's default group, which the program has initialised.

    Its collectives end by the group's own timeout.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def share(self, value: Any) -> list[Any]:
        """What every rank gave, by rank; every rank calls it."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


class StepGroup:
    """A gloo group of the same ranks, for the steps alone: nobody else's collectives wait for it.

    Making one is collective, closing it is not. A rank may be later than the others by timeout_s
    and late_s seconds.
    """

    def __init__(self, timeout_s: float, late_s: float = LATE_S) -> None:
        self._timeout_s = timeout_s
        self._limit_s = timeout_s + late_s
        # The wait of StepAnswers ends first, and says more.
        limit = timedelta(seconds=self._limit_s + 2 * _CALL_S)
        self._group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=limit)
        self._rank = dist.get_rank(self._group)
        self._size = dist.get_world_size(self._group)
        self._asked: StepAnswers | None = None
        self._told = False

    def ask(self, has: int, epoch: int, step: int) -> StepAnswers:
        """Tells every rank, and asks every rank; returns at once."""
        if self._group is None:
            raise StreamClosedError("the stream was closed")
        mine = torch.tensor([has, epoch, step], device="cpu")
        answers = [torch.empty_like(mine) for _ in range(self._size)]
        work = self._group.allgather([answers], [mine])
        self._asked = StepAnswers(self, work, answers, f"step {step} of epoch {epoch}")
        return self._asked

    def wait(self, work: Any, what: str) -> None:
        """Waits for the answers to a question.

        Raises StreamTimeoutError if a rank gives none, StreamClosedError if the group is closed.
        """
        began_s = time.monotonic()
        waited_s = 0.0
        while not work.is_completed() and waited_s < self._limit_s:
            # Not over yet, or failed: the loop's condition tells.
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(seconds=min(_SLICE_S, self._limit_s - waited_s)))
            waited_s = time.monotonic() - began_s
            if waited_s > self._timeout_s and not self._told and not work.is_completed():
                self._told = True
                warnings.warn(
                    f"{what}: another rank has not said for {waited_s:.0f} s whether it has a "
                    f"batch; this one waits for {self._limit_s - waited_s:.0f} s more (timeout and "
                    f"{self._limit_s - self._timeout_s:.0f} s)",
                    UserWarning,
                    stacklevel=2,
                )
        try:
            if not work.is_completed():
                raise RuntimeError(f"no answer within {self._limit_s:.0f} s: {self._missing()}")
            work.wait()
        except RuntimeError as error:
            if self._group is None:
                raise StreamClosedError("the stream was closed meanwhile") from error
            raise StreamTimeoutError(
                f"{what}: a rank does not say whether it has a batch ({error}). Look for the rank "
                "that has stopped; if it was only slow, raise timeout"
            ) from error

    def close(self) -> None:
        """Lets the group go, with a bound; idempotent.

        A question that another rank does not answer is withdrawn, and the ranks that wait for
        that one are told.
        """
        group, self._group = self._group, None
        asked, self._asked = self._asked, None
        if group is None:
            return
        if asked is not None and not asked.ready():
            # Ranks that leave a loop at the same step may be a moment late.
            with contextlib.suppress(RuntimeError):
                asked.work.wait(timedelta(seconds=_SLICE_S))
        if asked is not None and not asked.ready():
            # Destroying a group waits for its collectives, and gloo cannot abort them; but a
            # receive that times out ends the connections, and all that goes on over them.
            with contextlib.suppress(RuntimeError):
                peer = (self._rank + 1) % self._size
                group.recv([torch.empty(1, device="cpu")], peer, _NEVER_SENT).wait(
                    timedelta(milliseconds=1)
                )
        # The program may have destroyed all groups already.
        with contextlib.suppress(ValueError, RuntimeError, AssertionError):
            dist.destroy_process_group(group)

    def _missing(self) -> str:
        """What gloo knows about the ranks that do not answer: rank 0 learns their numbers."""
        if self._group is None:
            return "the group is closed"
        try:
            dist.monitored_barrier(self._group, timedelta(seconds=_CALL_S), wait_all_ranks=True)
        except RuntimeError as error:
            return str(error)
        return "all ranks are there, but one did not ask for this step"


class StepAnswers:
    """What every rank says about a step."""

    def __init__(
        self, group: StepGroup, work: Any, answers: Sequence[torch.Tensor], what: str
    ) -> None:
        self.work = work
        self._group = group
        self._answers = answers
        self._what = what

    def ready(self) -> bool:
        """Whether all are there."""
        done: bool = self.work.is_completed()
        return done

    def wait(self) -> list[tuple[int, int, int]]:
        """The answers by rank. Raises StreamTimeoutError if a rank does not answer."""
        self._group.wait(self.work, self._what)
        return [(has, epoch, step) for has, epoch, step in (a.tolist() for a in self._answers)]


def resolve(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world_size): as given, else of torch.distributed, RANK and WORLD_SIZE, Ray Train.

    Where none of them says anything: 0, 1. Initialises no process group, imports no Ray. Raises
    RequestError that names what is wrong.
    """
    if (rank is None) != (world_size is None):
        raise RequestError(f"rank={rank}, world_size={world_size}: give both or neither")
    origin = "rank and world_size"
    if rank is None or world_size is None:
        if _initialised():
            return dist.get_rank(), dist.get_world_size()
        origin = "the environment variables RANK and WORLD_SIZE"
        texts = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
        if not any(texts):
            return _of_ray_train() or (0, 1)
        if not all(text.isdecimal() for text in texts):
            raise RequestError(f"{origin} are {texts[0]!r} and {texts[1]!r}: set both or neither")
        rank, world_size = int(texts[0]), int(texts[1])
    if type(rank) is not int or type(world_size) is not int or not 0 <= rank < world_size:
        raise RequestError(f"{origin} are {rank!r} and {world_size!r}: 0 <= rank < world_size")
    return rank, world_size


def _of_ray_train() -> tuple[int, int] | None:
    """(rank, world_size) of a Ray Train worker; None in any other process."""
    train = sys.modules.get("ray.train")
    if train is None:
        return None
    try:
        context = train.get_context()
    except RuntimeError:
        # The driver has it imported, and trains nothing.
        return None
    return context.get_world_rank(), context.get_world_size()


def group_of(rank: int, world_size: int) -> Group | None:
    """torch.distributed's group, if it is initialised and these are its ranks."""
    if world_size > 1 and _initialised():
        group = ProcessGroup()
        if (group.rank, group.world_size) == (rank, world_size):
            return group
    return None


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()
