"""The batches of an epoch that a reader process reads ahead, in the place of a Prefetcher."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer_client.batch import Batch
from trainer_client.errors import StreamClosedError, StreamTimeoutError
from trainer_client.read_ahead import ReadAhead
from trainer_client.reader_process import messages
from trainer_client.reader_process.channel import ChannelClosedError
from trainer_client.transport.shard_stream import Fetched

if TYPE_CHECKING:
    from trainer_client.reader_process.parent import ReaderProcess


@dataclass(slots=True)
class _Segment:
    """What has arrived of a segment and is not taken, then how it ended."""

    items: deque[messages.Arrived] = field(default_factory=deque)
    ended: bool = False
    error: BaseException | None = None


class ProcessPrefetcher:
    """Hands out the items of segments that a reader process reads ahead, in their order.

    What was taken makes room for more. The process is told of it once a batch for each lane was
    taken, or half of what it reads ahead, or there is nothing else to take: waking it costs the
    trainer more than the rest.
    """

    def __init__(self, process: ReaderProcess, epoch: int, ahead: ReadAhead) -> None:
        self._process = process
        self._epoch = epoch
        self._segments = {segment.number: _Segment() for segment in ahead.segments}
        # Segments of which batches were taken that the process was not told of, and their bytes.
        self._taken: list[int] = []
        self._taken_bytes = 0
        self._most_taken = max(1, min(ahead.lanes, ahead.lanes * ahead.items_per_lane // 2))
        self._most_taken_bytes = ahead.budget_bytes // 2
        self._closed = False
        self.hedges = self.hedges_won = 0

    def take(
        self, segment: int, timeout_s: float, hedge_after_s: float = math.inf
    ) -> Fetched[Batch] | None:
        """The next item of a segment, None at its end; as Prefetcher.take.

        Raises DeploymentError too if the process has ended.
        """
        queue, process = self._segments[segment], self._process
        now_s = time.monotonic()
        end_s, hedge_s = now_s + timeout_s, now_s + hedge_after_s

        def there() -> bool:
            return bool(queue.items) or queue.ended or self._closed

        while not there():
            now_s = time.monotonic()
            if now_s >= end_s:
                raise StreamTimeoutError(
                    f"segment {segment} gave no batch for {timeout_s:.0f} s, and the reader "
                    f"process (pid {process.pid}) did not say why: it may be stopped, or this is "
                    "a fault of this client, please report it"
                )
            self._tell_taken()
            if now_s >= hedge_s:
                hedge_s = math.inf
                process.post(messages.Hedge(self._epoch, segment))
            process.receive(there, min(end_s, hedge_s) - now_s)
        with process.lock:
            if self._closed:
                raise StreamClosedError("the stream was closed meanwhile")
            if queue.items:
                try:
                    with process.whole():
                        return self._hand_out(segment, queue.items.popleft())
                except ChannelClosedError:
                    raise process.failure() from None
        if queue.error is not None:
            raise queue.error
        return None

    def ready(self, segment: int) -> bool:
        """Whether take would return an item without waiting."""
        if not self._segments[segment].items:
            self._process.catch_up()
        return bool(self._segments[segment].items)

    def close(self) -> None:
        """Has the process stop reading; idempotent."""
        with self._process.lock:
            self._closed = True
            for queue in self._segments.values():
                while queue.items:
                    self._process.refuse(queue.items.popleft())
            self._process.stop(self)

    def arrived(self, message: messages.Arrived) -> None:
        """Takes a batch in."""
        self._segments[message.segment].items.append(message)

    def ended(self, segment: int, error: BaseException | None) -> None:
        """Takes the end of a segment in."""
        queue = self._segments[segment]
        queue.error, queue.ended = error, True

    def _hand_out(self, segment: int, arrived: messages.Arrived) -> Fetched[Batch]:
        self._taken.append(segment)
        self._taken_bytes += arrived.nbytes
        full = self._taken_bytes > self._most_taken_bytes
        if full or len(self._taken) >= self._most_taken:
            self._tell_taken()
        return self._fetched(arrived)

    def _tell_taken(self) -> None:
        if self._taken:
            taken, self._taken, self._taken_bytes = self._taken, [], 0
            self._process.took(self._epoch, taken)

    def _fetched(self, arrived: messages.Arrived) -> Fetched[Batch]:
        borrow = self._process.borrow
        batch = Batch(
            memory=borrow(arrived.arena),
            layout=arrived.layout,
            shard=arrived.shard,
            index=arrived.index_in_shard,
            cursor=arrived.cursor,
            next_cursor=arrived.next_cursor,
            content_checksum=arrived.content_checksum,
        )
        for name, piece in arrived.expanded.items():
            batch.take_expanded(name, borrow(piece))
        return Fetched(batch, arrived.server, arrived.wire_bytes, arrived.lane)
