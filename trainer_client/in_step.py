"""Ranks that take the same number of steps though nobody knows how many batches each one has."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from trainer_client.batch import Batch
from trainer_client.errors import (
    HeadraceError,
    RequestError,
    StateMismatchError,
    StreamClosedError,
    StreamTimeoutError,
)
from trainer_client.ledger.writer import Ledger
from trainer_client.options import Uneven
from trainer_client.ranks import group_of
from trainer_client.telemetry import Meter

UNEVEN_WARNING = (
    "the dataset's row counts are unknown (a filter, sampling or distinct_by decides them), "
    "so ranks get whole shards and may take different numbers of steps: initialise "
    'torch.distributed, so that they ask each other (uneven="sync"); have the rows counted once '
    '(count="exact"); or have collective operations tolerate it and say so (uneven="none")'
)


def choose_uneven(wanted: Uneven | None, rank: int, world_size: int, *, known: bool) -> Uneven:
    """What holds where row counts are known or not. Raises RequestError for what cannot hold."""
    if world_size == 1:
        # All modes are the same.
        return "drop" if known else "none"
    if known and wanted in ("sync", "sync-pad"):
        # The same for every rank, without a word between them.
        return "drop" if wanted == "sync" else "pad"
    together = group_of(rank, world_size) is not None
    if wanted in ("drop", "pad") and not known:
        raise RequestError(
            f"uneven={wanted!r} needs row counts, which a filter, sampling or distinct_by decides: "
            'use count="exact" (the servers count them once), uneven="sync" (ranks ask each other '
            'before every step; "sync-pad" leaves nothing out), or uneven="none" (ranks may take '
            "different numbers of steps)"
        )
    if wanted in ("sync", "sync-pad") and not together:
        raise RequestError(
            f"uneven={wanted!r} asks the other ranks through torch.distributed, which is not "
            "initialised with these ranks: call torch.distributed.init_process_group first"
        )
    if wanted is not None:
        return wanted
    if known:
        return "drop"
    return "sync" if together else "none"


def warn_of_no_step(epoch: int, batches: int, world_size: int) -> None:
    """Tells that an epoch has so few batches that every one of them is left out."""
    warnings.warn(
        f"epoch {epoch} has fewer batches ({batches}) than there are ranks ({world_size}), so with "
        'even steps all are left out: use a smaller batch_size, or uneven="none"',
        UserWarning,
        stacklevel=2,
    )


def warn_of_uncounted(epoch: int, why: str) -> None:
    """Tells that more is left out of an epoch on this rank than was counted."""
    warnings.warn(
        f"this rank has more batches of epoch {epoch} than another one, and not all that are left "
        f"out were counted: {why}; use more shards (num_shards), or have the rows counted once "
        '(count="exact")',
        UserWarning,
        stacklevel=2,
    )


class Reader(Iterator[Batch], Protocol):
    """The batches of a rank in an epoch."""

    def ready(self) -> bool:
        """Whether the next batch is at hand, and next() would not wait."""

    def last(self) -> Batch | None:
        """The last batch of this rank, read again if need be; None if there was none."""

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
    what they have one step ahead, while the trainer works on the step before. Steps count from
    where the reader starts: what ranks have delivered before differs where batches were padded or
    dropped. What is left is read to be counted, for at most count_for_s seconds: the other ranks
    wait with the next epoch.
    """

    def __init__(
        self,
        reader: Reader,
        ask: Ask,
        epoch: int,
        meter: Meter,
        *,
        pad: bool,
        count_for_s: float = math.inf,
        ledger: Ledger | None = None,
    ) -> None:
        self._reader = reader
        self._ask = ask
        self._epoch = epoch
        self._meter = meter
        self._pad = pad
        self._count_for_s = count_for_s
        self._ledger = ledger
        self._step = 0
        self._batch: Batch | None = None
        self._failure: Exception | None = None
        self._answers: Answers | None = None

    def __iter__(self) -> InStep:
        return self

    def __next__(self) -> Batch:
        if self._answers is None:
            self._look_ahead()
        assert self._answers is not None
        began_s = time.perf_counter()
        try:
            answers = self._answers.wait()
        except StreamTimeoutError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._meter.clock.add(ranks_s=time.perf_counter() - began_s)
        self._check(answers)
        batches = sum(has == Has.BATCH for has, _, _ in answers)
        if batches == 0 or (batches < len(answers) and not self._pad):
            self._count_left()
            raise StopIteration
        batch = self._batch
        if batch is None:
            last = self._reader.last()
            assert last is not None
            batch = last.but(padding=True)
        self._step += 1
        self._look_ahead()
        return batch

    def ready(self) -> bool:
        """Whether next() would not wait, for data or for another rank."""
        return self._answers is not None and self._answers.ready() and self._reader.ready()

    def last(self) -> Batch | None:
        """The last batch of this rank, as its reader has it."""
        return self._reader.last()

    def close(self) -> None:
        """Ends the reader; idempotent."""
        self._reader.close()

    def _look_ahead(self) -> None:
        """Takes the next batch and tells the other ranks."""
        self._batch, has = None, Has.NOTHING
        try:
            self._batch = next(self._reader, None)
            if self._batch is not None:
                has = Has.BATCH
            elif self._pad and self._reader.last() is None:
                has = Has.NOTHING_TO_REPEAT
        except Exception as error:  # noqa: BLE001 - raised in its turn, when the others know of it
            self._failure, has = error, Has.FAILURE
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
        began_s = time.monotonic()
        while batch is not None:
            self._meter.add(left_out_batches=1, left_out_rows=batch.batch_size)
            if self._ledger is not None:
                self._ledger.left_out(self._epoch, batch)
            # The epoch is over for all ranks: what cannot be counted ends none of them.
            try:
                batch = next(self._reader, None)
            except StreamClosedError:
                raise
            except HeadraceError as error:
                self._uncounted(f"this rank failed ({error})")
                return
            if batch is not None and time.monotonic() - began_s >= self._count_for_s:
                self._uncounted(f"counting stopped after {self._count_for_s:g} s")
                return

    def _uncounted(self, why: str) -> None:
        if self._ledger is not None:
            self._ledger.left_uncounted(self._epoch)
        warn_of_uncounted(self._epoch, why)
