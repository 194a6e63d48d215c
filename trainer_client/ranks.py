"""Which of how many trainer processes this is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from trainer_client.errors import RequestError, StreamTimeoutError

# How long a wait for other ranks goes on before a signal (Ctrl-C) is seen.
_SLICE = timedelta(seconds=1)


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

    Making one is collective. A rank may be as late as torch.distributed's default timeout.
    """

    def __init__(self) -> None:
        self._limit = dist.distributed_c10d.default_pg_timeout
        self._group = dist.new_group(backend="gloo", timeout=self._limit)

    def ask(self, has: int, epoch: int, step: int) -> StepAnswers:
        """Tells every rank, and asks every rank; returns at once."""
        mine = torch.tensor([has, epoch, step], device="cpu")
        answers = [torch.empty_like(mine) for _ in range(dist.get_world_size(self._group))]
        work = dist.all_gather(answers, mine, group=self._group, async_op=True)
        return StepAnswers(work, answers, self._limit)


class StepAnswers:
    """What every rank says about a step."""

    def __init__(self, work: Any, answers: Sequence[torch.Tensor], limit: timedelta) -> None:
        self._work = work
        self._answers = answers
        self._limit = limit

    def ready(self) -> bool:
        """Whether all are there."""
        done: bool = self._work.is_completed()
        return done

    def wait(self) -> list[tuple[int, int, int]]:
        """The answers by rank. Raises StreamTimeoutError if a rank does not answer."""
        waited = timedelta()
        while not self._work.is_completed() and waited < self._limit:
            try:
                self._work.wait(_SLICE)
            except RuntimeError:
                # Not over yet, or failed: the loop's condition tells.
                waited += _SLICE
        try:
            if not self._work.is_completed():
                raise RuntimeError(f"no answer within {self._limit}")
            self._work.wait()
        except RuntimeError as error:
            raise StreamTimeoutError(
                f"a rank does not say whether it has a next batch ({error}): look for the rank "
                "that has stopped"
            ) from error
        return [(has, epoch, step) for has, epoch, step in (a.tolist() for a in self._answers)]


def resolve(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world_size): as given, else of torch.distributed, else RANK and WORLD_SIZE, else 0, 1.

    Initialises no process group. Raises RequestError that names what is wrong.
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
            return 0, 1
        if not all(text.isdecimal() for text in texts):
            raise RequestError(f"{origin} are {texts[0]!r} and {texts[1]!r}: set both or neither")
        rank, world_size = int(texts[0]), int(texts[1])
    if type(rank) is not int or type(world_size) is not int or not 0 <= rank < world_size:
        raise RequestError(f"{origin} are {rank!r} and {world_size!r}: 0 <= rank < world_size")
    return rank, world_size


def group_of(rank: int, world_size: int) -> Group | None:
    """torch.distributed's group, if it is initialised and these are its ranks."""
    if world_size > 1 and _initialised():
        group = ProcessGroup()
        if (group.rank, group.world_size) == (rank, world_size):
            return group
    return None


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()
