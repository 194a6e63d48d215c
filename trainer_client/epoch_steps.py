"""What iter() of a stream gives."""

from __future__ import annotations

from collections.abc import Iterator

from trainer_client.batch import Batch
from trainer_client.errors import StreamClosedError


class EpochSteps(Iterator[Batch]):
    """One epoch. What once ended keeps ending, what once failed keeps failing."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._failure: Exception | None = None

    def __next__(self) -> Batch:
        if self._failure is not None:
            # A generator that failed would go on to say that the epoch is over.
            raise self._failure
        try:
            return next(self._batches)
        except StopIteration:
            raise
        except Exception as error:
            self._failure = error
            raise
        except BaseException:
            self._failure = StreamClosedError("the iterator was interrupted: start a new one")
            raise
