"""Ranks that take the same number of steps though nobody knows how many batches each one has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from trainer_client.batch import Batch
from trainer_client.errors import HeadraceError, RequestError, StateMismatchError
from trainer_client.telemetry import Meter


class Reader(Iterator[Batch], Protocol):
    """The batches of a rank in an epoch."""

    def ready(self) -> bool:
        """Whether the next batch is at hand, and next() would not wait."""

    def close(self) -> None:
        """Ends what reads; idempotent."""


class Answers(Protocol):
    """What every rank says about a step, once all have said it."""

    def ready(self) -> bool:
        """Whether they are there."""

    def wait(self) -> Sequence[tuple[int, int, int]]:
        """(has, epoch, step) by rank. Raises StreamTimeoutError if one keeps silent."""


class Ask(Protocol):
    """Tells the other ranks, and asks them; every rank calls it as often."""

    def __call__(self, has: int, epoch: int, step: int, /) -> Answers:
        """Returns at once."""


class Has(IntEnum):
    """What a rank has for a step."""

    NOTHING = 0
    BATCH = 1
    FAILURE = 2
    NOTHING_TO_REPEAT = 3


class InStep:
    """Iterates over a reader's batches for as long as every rank has one: what is left is counted.

    With pad, for as long as any rank has one: the others repeat their last. Ranks tell each other
    what they have one step ahead, while the trainer works on the step before.
    """

    def __init__(self, reader: Reader, ask: Ask, epoch: int, meter: Meter, *, pad: bool) -> None:
        self._reader = reader
        self._ask = ask
        self._epoch = epoch
        self._meter = meter
        self._pad = pad
        self._step = 0
        self._batch: Batch | None = None
        self._last: Batch | None = None
        self._failure: Exception | None = None
        self._answers: Answers | None = None

    def __iter__(self) -> InStep:
        return self

    def __next__(self) -> Batch:
        if self._answers is None:
            self._look_ahead()
        assert self._answers is not None
        answers = self._answers.wait()
        self._check(answers)
        batches = sum(has == Has.BATCH for has, _, _ in answers)
        if batches == 0 or (batches < len(answers) and not self._pad):
            self._count_left()
            raise StopIteration
        batch = self._batch
        if batch is None:
            assert self._last is not None
            batch = self._last.but(padding=True)
        self._last = batch
        self._step += 1
        self._look_ahead()
        return batch

    def ready(self) -> bool:
        """Whether next() would not wait, for data or for another rank."""
        return self._answers is not None and self._answers.ready() and self._reader.ready()

    def close(self) -> None:
        """Ends the reader; idempotent."""
        self._reader.close()

    def _look_ahead(self) -> None:
        """Takes the next batch and tells the other ranks."""
        self._batch, has = None, Has.NOTHING
        try:
            self._batch = next(self._reader, None) if self._failure is None else None
        except HeadraceError as error:
            # Raised in its turn, when the others know of it: they would wait for this rank.
            self._failure, has = error, Has.FAILURE
        if self._batch is not None:
            has = Has.BATCH
        elif has is Has.NOTHING and self._pad and self._last is None:
            has = Has.NOTHING_TO_REPEAT
        self._answers = self._ask(has, self._epoch, self._step)

    def _check(self, answers: Sequence[tuple[int, int, int]]) -> None:
        """Raises what ends the epoch on every rank."""
        for rank, (_, epoch, step) in enumerate(answers):
            if (epoch, step) != (self._epoch, self._step):
                raise StateMismatchError(
                    f"rank {rank} is at step {step} of epoch {epoch}, this one at step "
                    f'{self._step} of epoch {self._epoch}: with uneven="sync" every rank takes '
                    "the same steps; leave the loop at the same step on all of them, and load "
                    "states of one checkpoint"
                )
        if self._failure is not None:
            raise self._failure
        said = [has for has, _, _ in answers]
        if Has.FAILURE in said:
            raise HeadraceError(
                f"rank {said.index(Has.FAILURE)} has no next batch because of an error, which it "
                "raises: see its log"
            )
        if Has.NOTHING_TO_REPEAT in said and Has.BATCH in said:
            raise RequestError(
                f"rank {said.index(Has.NOTHING_TO_REPEAT)} has no batch at all, so it has none to "
                'repeat while others have some: use uneven="sync", or more shards (num_shards)'
            )

    def _count_left(self) -> None:
        """Counts the batches that this rank has and others have not."""
        batch = self._batch
        while batch is not None:
            self._meter.add(left_out_batches=1, left_out_rows=batch.batch_size)
            batch = next(self._reader, None)
