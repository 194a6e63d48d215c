"""Cuts a shard into batches: across the ends of splits, from any cursor, one window ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from preprocessor_server.budget import Lease, LeaseClosedError
from preprocessor_server.catalog import BoundDataset
from preprocessor_server.encode.batch import Piece
from preprocessor_server.errors import DeploymentError, RequestError
from preprocessor_server.frame import frame_bytes
from preprocessor_server.plan.identity import Cursor, Identity, Split
from preprocessor_server.source.reader import SplitReader, describe_split
from preprocessor_server.telemetry import Metrics
from preprocessor_server.window import (
    Window,
    decoded_bytes,
    known_rows,
    miscounted,
    place_of,
    position_of,
    prepare_bytes,
    prepare_window,
)

# Where a stream starts: at a position, or at the batch of an index.
Start: TypeAlias = Cursor | int

# Features are counted as at most as large as what is decoded for them, so that whether a split is
# too large for a server never depends on what it has served.
MAX_FEATURE_SHARE = 1.0

# What the rows of a batch may take up in a Frame, in messages; in a message they take far less.
CARRIED_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of an epoch: its splits in order, and what fixes its batches."""

    dataset: BoundDataset
    identity: Identity
    number: int
    splits: tuple[Split, ...]

    def window(self, start: int) -> tuple[Split, ...]:
        """The splits of the shuffle window that starts at a split."""
        return self.splits[start : start + self.identity.window_splits]

    def check_size(self, capacity_bytes: int) -> None:
        """Raises DeploymentError if a window cannot be prepared within the capacity."""
        for start in range(0, len(self.splits), self.identity.window_splits):
            needed = prepare_bytes(self.dataset, self.window(start), MAX_FEATURE_SHARE)
            if needed > capacity_bytes:
                raise self._too_large(start, needed, capacity_bytes)

    def _too_large(self, start: int, needed: int, capacity_bytes: int) -> DeploymentError:
        window = self.window(start)
        place = describe_split(self.dataset.snapshot, window[0])
        more = f" and {len(window) - 1} more splits of its window" if len(window) > 1 else ""
        largest = max(decoded_bytes(self.dataset, split) for split in window)
        return DeploymentError(
            "SPLIT_TOO_LARGE",
            f"{place}{more}: reading takes {needed:,} bytes, more than this server's "
            f"--read-ahead-bytes ({capacity_bytes:,}); set the dataset's max_split_bytes to "
            f"{largest * capacity_bytes // needed:,} or less, rewrite the file with smaller row "
            "groups, or raise the setting",
        )


class Cut(NamedTuple):
    """A batch that was cut: its pieces and the positions before and after it.

    held_bytes of the lease are to be given back once the pieces are no longer needed.
    """

    pieces: list[Piece]
    before: Cursor
    after: Cursor
    held_bytes: int


@dataclass(frozen=True, slots=True)
class _Ahead:
    window: Future[Window]
    size_bytes: int


class BatchCutter:
    """The batches of a shard from where it starts on, as pieces of windows.

    It holds one window, what a batch has taken from former ones, and one window ahead where the
    memory for that is free; all of it is counted on the stream's lease.
    """

    def __init__(
        self,
        shard: Shard,
        start: Start,
        reader: SplitReader,
        pool: Executor,
        lease: Lease,
        metrics: Metrics,
        max_batch_bytes: int,
    ) -> None:
        self._shard = shard
        self._reader = reader
        self._pool = pool
        self._lease = lease
        self._metrics = metrics
        self._max_batch_bytes = max_batch_bytes
        # After the last batch; None before one that was asked for by its index.
        self._position = start if isinstance(start, Cursor) else None
        self._batch = start.batch if isinstance(start, Cursor) else start
        self._start = start.split if isinstance(start, Cursor) else 0
        # Rows still to be passed by on the way to that batch; None once it is found.
        self._skip = None if isinstance(start, Cursor) else start * shard.identity.batch_size
        # What the shard's row groups were counted to deliver together.
        counted = shard.dataset.chooses_rows and shard.dataset.counts_known
        self._counted = known_rows(shard.dataset, shard.splits) if counted else None
        self._window: Window | None = None
        self._taken = 0
        self._ahead: _Ahead | None = None
        self._carried = 0
        self.held_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether the next batch can be cut without waiting."""
        if self._window is None:
            return False
        left = len(self._window.rows) - self._taken
        return left >= self._shard.identity.batch_size

    @property
    def settled(self) -> bool:
        """Whether nothing is being read for this cutter right now."""
        return self._ahead is None or self._ahead.window.done()

    def next(self) -> Cut | None:
        """The next batch; None at the end of the shard. Raises ServerError."""
        wanted = self._shard.identity.batch_size
        pieces: list[Piece] = []
        held = 0
        after: Cursor | None = None
        while wanted:
            window = self._load()
            if window is None:
                break
            rows = window.rows[self._taken : self._taken + wanted]
            self._taken += len(rows)
            wanted -= len(rows)
            if len(rows):
                position = int(window.positions[self._taken - 1]) + 1
                after = self._place(window, position)._replace(batch=self._batch + 1)
            if self._taken < len(window.rows):
                pieces.append(Piece(window.frame, rows))
                break
            if wanted and len(rows):
                # The window makes room for the next one; what the batch needs of it is copied.
                frame = window.frame.take(rows)
                pieces.append(Piece(frame, np.arange(len(rows))))
                self._carried += frame_bytes(frame)
                self._hold(frame_bytes(frame))
                self._check_carried(pieces)
            elif len(rows):
                # The batch's pieces are the last to need the window.
                pieces.append(Piece(window.frame, rows))
                held += window.size_bytes
                self._hold(window.size_bytes)
            self._leave(window)
        self._check_counted(self._shard.identity.batch_size - wanted)
        held += self._carried
        self._carried = 0
        self.held_bytes -= held
        before = self._position
        if before is None or after is None:
            return None
        self._batch += 1
        self._position = after
        return Cut(pieces, before, after, held)

    def _place(self, window: Window, position: int) -> Cursor:
        """The cursor of a position in a window; at its end it is the start of the next one."""
        if position == window.row_count:
            splits = self._shard.window(self._start)
            return Cursor(self._start + len(splits), 0, 0, self._batch)
        return Cursor(self._start, *place_of(window.starts, position), self._batch)

    def _load(self) -> Window | None:
        """The window at hand, or the next one; None at the end of the shard."""
        while self._window is None:
            splits = self._shard.window(self._start)
            if not splits:
                if self._skip is not None:
                    raise RequestError(
                        "REQUEST_INVALID",
                        f"first_batch is {self._batch}, but the shard ends before it; take it "
                        "from the plan of the epoch",
                        field="first_batch",
                    )
                return None
            if self._skip is not None and self._pass_by(splits, self._skip):
                continue
            window = self._obtain()
            self._taken = self._first_row(window)
            self._window = window
            if self._taken == len(window.rows):
                self._leave(window)
        return self._window

    def _pass_by(self, splits: Sequence[Split], rows: int) -> bool:
        """Whether all of a window lies in the rows to be passed by, as far as is known unread."""
        if rows == 0:
            self._position, self._skip = Cursor(self._start, 0, 0, self._batch), None
            return False
        held = None if self._ahead else known_rows(self._shard.dataset, splits)
        if held is None or held > rows:
            return False
        self._skip = rows - held
        self._start += len(splits)
        return True

    def _first_row(self, window: Window) -> int:
        """Which of a window's rows comes first, in the order of delivery."""
        if self._skip is not None:
            first = min(self._skip, len(window.rows))
            if first == len(window.rows):
                self._skip -= first
            else:
                self._position, self._skip = self._place(window, first), None
            return first
        cursor = self._position
        if cursor is None or cursor.split != self._start:
            return 0
        position = position_of(window.starts, cursor.parquet_row, cursor.offset)
        if position is None:
            raise cursor.invalid("the Parquet row there holds no row at that offset")
        return int(np.searchsorted(window.positions, position))

    def _obtain(self) -> Window:
        """Reads the next window, or waits for it, and has the one after it read."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            size = self._needed_bytes(self._start)
            # Who waits must hold nothing that others wait for: what the batch at hand has carried
            # along is bounded by a message, and is not counted meanwhile.
            self._hold(-self._carried)
            with self._metrics.clock.blocked("memory"):
                self._lease.acquire(size)
            self.held_bytes += size
            self._hold(self._carried)
            ahead = self._read(self._start, size)
        try:
            with self._metrics.clock.blocked("wait"):
                window = ahead.window.result()
        except BaseException:
            self._hold(-ahead.size_bytes)
            raise
        self._hold(window.size_bytes - ahead.size_bytes)
        self._look_ahead()
        return window

    def _look_ahead(self) -> None:
        start = self._start + len(self._shard.window(self._start))
        if start < len(self._shard.splits):
            size = self._needed_bytes(start)
            if self._lease.try_acquire(size):
                self.held_bytes += size
                self._ahead = self._read(start, size)

    def _needed_bytes(self, start: int) -> int:
        """What preparing the window that starts at a split takes, as far as can be told."""
        dataset = self._shard.dataset
        share = min(dataset.transform.size.share, MAX_FEATURE_SHARE)
        return prepare_bytes(dataset, self._shard.window(start), share)

    def _read(self, start: int, size: int) -> _Ahead:
        return _Ahead(self._pool.submit(self._prepare, start), size)

    def _prepare(self, start: int) -> Window:
        if self._lease.closed:
            # Its turn came after the stream was cancelled: the worker is for others now.
            raise LeaseClosedError
        # What is in no stage of its own puts the window together.
        with self._metrics.clock.stage("order"):
            return prepare_window(
                self._reader,
                self._shard.dataset,
                self._shard.window(start),
                self._shard.identity,
                self._metrics,
            )

    def _leave(self, window: Window) -> None:
        self._start += len(self._shard.window(self._start))
        self._window = None
        self._taken = 0
        self._hold(-window.size_bytes)

    def _hold(self, change: int) -> None:
        self.held_bytes += change
        self._lease.add(change)

    def _check_counted(self, rows: int) -> None:
        """Raises DataError if a batch of so many rows is not what the counts leave for it.

        Of a row group that is cut, the counts do not say which part holds how many: that too few
        or too many pass shows at the end of the shard.
        """
        if self._counted is None:
            return
        size = self._shard.identity.batch_size
        left = self._counted - self._batch * size
        more = 0 if self._window is None else len(self._window.rows) - self._taken
        if rows == min(max(left, 0), size) and (left > size or not more):
            return
        files = self._shard.dataset.snapshot.message.files
        names = sorted({files[split.file].path for split in self._shard.splits})
        others = f" and {len(names) - 1} more files" if len(names) > 1 else ""
        least = "at least " if rows == size or more else ""
        raise miscounted(
            f"shard {self._shard.number} (file {names[0]!r}{others}): {least}"
            f"{self._batch * size + rows + more:,} rows pass the filter, but the snapshot counted "
            f"{self._counted:,}"
        )

    def _check_carried(self, pieces: list[Piece]) -> None:
        # What is carried is not counted on the lease while the batch waits, so it needs a bound.
        if self._carried > CARRIED_FACTOR * self._max_batch_bytes:
            rows = sum(len(piece.rows) for piece in pieces)
            raise DeploymentError(
                "BATCH_TOO_LARGE",
                f"{rows:,} of {self._shard.identity.batch_size:,} rows of a batch take "
                f"{self._carried:,} bytes of memory already, more than {CARRIED_FACTOR} times what "
                f"a message may hold ({self._max_batch_bytes:,}, --max-message-bytes); use a "
                "smaller batch_size",
                field="identity.batch_size",
            )
