"""Ranks in one process that ask each other about steps."""

from __future__ import annotations

import threading
from collections.abc import Callable

TIMEOUT_S = 20.0


class FakeGroup:
    """Answers once every rank has asked as often; a rank waits so long for that."""

    def __init__(self, world_size: int, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._asked: list[list[tuple[int, int, int]]] = [[] for _ in range(world_size)]

    def ask(self, rank: int) -> Callable[[int, int, int], FakeAnswers]:
        """What a rank asks by."""

        def ask(has: int, epoch: int, step: int) -> FakeAnswers:
            with self._changed:
                self._asked[rank].append((has, epoch, step))
                self._changed.notify_all()
                return FakeAnswers(self, len(self._asked[rank]) - 1)

        return ask

    def there(self, number: int) -> bool:
        """Whether every rank has asked that often."""
        return all(len(asked) > number for asked in self._asked)

    def answers(self, number: int) -> list[tuple[int, int, int]]:
        """What every rank said."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.there(number), self._timeout_s)
            return [asked[number] for asked in self._asked]


class FakeAnswers:
    """What every rank says about a step."""

    def __init__(self, group: FakeGroup, number: int) -> None:
        self._group = group
        self._number = number

    def ready(self) -> bool:
        """Whether all are there."""
        return self._group.there(self._number)

    def wait(self) -> list[tuple[int, int, int]]:
        """The answers by rank."""
        return self._group.answers(self._number)
