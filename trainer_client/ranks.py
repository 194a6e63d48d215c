"""Which of how many trainer processes this is, and what they tell each other."""

from __future__ import annotations

import os
from typing import Any, Protocol

import torch.distributed as dist

from trainer_client.errors import RequestError


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
