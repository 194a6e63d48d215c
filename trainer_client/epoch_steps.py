"""What iter() of a stream gives."""

from __future__ import annotations

from collections.abc import Iterator

from trainer_client.batch import Batch
from trainer_client.errors import StreamClosedError
from trainer_client.loop_clock import LoopClock


class EpochSteps(Iterator[Batch]):
    """One epoch. What once ended keeps ending, what once failed keeps failing.

    The clock is told whose turn it is: the trainer's or the stream's.
    """

    def __init__(self, batches: Iterator[Batch], clock: LoopClock) -> None:
        self._batches = batches
        self._clock = clock
        self._failure: Exception | None = None

    def __next__(self) -> Batch:
        if self._failure is not None:
            # A generator that failed would go on to say that the epoch is over.
            raise self._failure
        self._clock.asks()
        try:
            batch = next(self._batches)
        except StopIteration:
            self._clock.leaves()
            raise
        except Exception as error:
            self._clock.leaves()
            self._failure = error
            raise
        except BaseException:
            self._clock.leaves()
            self._failure = StreamClosedError("the iterator was interrupted: start a new one")
            raise
        self._clock.takes()
        return batch
