"""Writes what a stream hands to its trainer: a file a session, flushed with each state."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import zstandard

from trainer_client.errors import RequestError
from trainer_client.ledger.lines import FORMAT, TRAINED, Delivered, Formatter, record

SUFFIX = ".ledger.zst"
# In the name of a file whose writing failed: a full disk still takes another name.
ENDED_EARLY = ".ended-early"
BUFFERED_LINES = 4096
BUFFERED_S = 5.0
# States may be taken every step; the disk is waited for at most this often, in seconds.
SYNC_EVERY_S = 1.0
LEVEL = 3

# A session's id, and how many of its steps had been written down.
Mark: TypeAlias = tuple[str, int]


class Ledger:
    """Appends to files of its own in a directory; any thread may call it.

    Each session (from the start, or from a loaded state) is a file. Raises RequestError if the
    first file cannot be opened. If writing fails later, it warns once, the file is marked as ended
    early, and nothing more is written.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, batch_size: int, about: Mapping[str, Any]
    ) -> None:
        self._directory = Path(directory)
        self._pid = os.getpid()
        self._batch_size = batch_size
        self._about = dict(about)
        # Reentrant: a signal handler may take a state while its own thread writes.
        self._lock = threading.RLock()
        self._writing = self._failed = self._closed = False
        self._resumed: dict[str, Any] | None = None
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise RequestError(
                f"ledger {os.fspath(directory)!r} cannot be written: {error}; name a folder that "
                "this process may write, or leave ledger= out"
            ) from error

    def _open(self) -> None:
        self._session = secrets.token_hex(8)
        started = datetime.now(UTC)
        name = f"{started:%Y%m%dT%H%M%S}-rank-{self._about['rank']}-{self._session}{SUFFIX}"
        self._path = self._directory / name
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._started = started
        self._size = self._steps = 0
        self._headed = self._torn = False
        self._lines: list[str] = []
        self._formatter = Formatter(self._batch_size)
        self._compressor = zstandard.ZstdCompressor(LEVEL, write_checksum=True).compressobj()
        self._wrote_s = time.monotonic()
        self._synced_s = float("-inf")

    def resumed(self, marks: Sequence[Mark], epoch: int, *, middle: bool, merged: bool) -> None:
        """A state was loaded: what follows is a session of its own.

        marks are those of the state; middle says that it is not one of the epoch's start, merged
        that it is put together from those of all ranks.
        """
        with self._lock:
            self._resumed = {"from": marks, "epoch": epoch, "middle": middle, "merged": merged}
            if not self._headed or self._closed or self._failed:
                return
            self._finish()
            try:
                self._open()
            except OSError as error:
                self._fail(error)

    def begin(self, epoch: int, step: int, **about: Any) -> None:
        """An iterator of an epoch starts, after so many steps of its deal."""
        self._note({"begin": {"epoch": epoch, "step": step, **about}})

    def step(self, batch: Delivered, kind: int = TRAINED) -> Mark:
        """A batch is handed over (or skipped); the place after it."""
        with self._lock:
            self._head()
            self._steps += 1
            if not self._failed:
                self._lines.append(self._formatter.step(batch, kind))
                due = len(self._lines) >= BUFFERED_LINES
                if due or time.monotonic() - self._wrote_s > BUFFERED_S:
                    self._write()
            return self._session, self._steps

    def end(self, epoch: int) -> None:
        """No step of the epoch is left on this rank."""
        self._note({"end": {"epoch": epoch}})

    def shard_ended(self, epoch: int, shard: int, batches: int) -> None:
        """A shard whose count was unknown turned out to have so many batches."""
        self._note({"shard_end": [epoch, shard, batches]})

    def dropped(self, epoch: int, batch: Delivered) -> None:
        """A short batch is left out (drop_last)."""
        self._note({"dropped": [epoch, batch.shard, batch.index, batch.batch_size]})

    def left_out(self, epoch: int, batch: Delivered) -> None:
        """A batch is left out since another rank has none for the step."""
        self._note({"left_out": [epoch, batch.shard, batch.index, batch.batch_size]})

    def left_uncounted(self, epoch: int) -> None:
        """What else is left out for that reason was not counted."""
        self._note({"left_uncounted": epoch})

    def mark(self) -> Mark:
        """The place after the last step."""
        with self._lock:
            return self._session, self._steps

    def flush(self) -> None:
        """Puts all that came so far where a kill cannot reach it, and waits for the disk.

        The disk is not waited for twice a second.
        """
        with self._lock:
            self._head()
            self._write()
            now_s = time.monotonic()
            if self._failed or self._closed or now_s - self._synced_s < SYNC_EVERY_S:
                return
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._fail(error)
            self._synced_s = now_s

    def close(self) -> None:
        """Writes what is left and says that this is the end; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._finish()

    def _note(self, value: Mapping[str, Any]) -> None:
        with self._lock:
            self._head()
            self._lines.append(record(value))

    def _head(self) -> None:
        if self._headed:
            return
        self._headed = True
        header = {
            "ledger": FORMAT,
            "session": self._session,
            "started": self._started.isoformat(),
            "batch_size": self._batch_size,
            **self._about,
            "resumed": self._resumed,
        }
        self._lines.append(record(header))

    def _write(self) -> None:
        if self._failed or self._closed or self._writing or not self._lines:
            # Writing: a signal handler came between. What it interrupted goes on after it.
            return
        if os.getpid() != self._pid:
            # A fork's copy: the lines are its parent's to write.
            return
        if self._torn:
            self._fail(OSError("an exception of a signal handler cut a write short"))
            return
        self._append()

    def _append(self, *, end: bool = False) -> None:
        """Writes the lines that wait; compressed bytes that cannot be written end the ledger."""
        flush = zstandard.COMPRESSOBJ_FLUSH_FINISH if end else zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._writing = self._torn = True
        try:
            text = "".join(self._lines).encode()
            data = self._compressor.compress(text) + self._compressor.flush(flush)
            view = memoryview(data)
            at = self._size
            while view:
                written = os.pwrite(self._file, view, at)
                at, view = at + written, view[written:]
            self._lines.clear()
            self._size, self._torn = at, False
        except OSError as error:
            self._fail(error)
        finally:
            self._writing = False
        self._wrote_s = time.monotonic()

    def _finish(self) -> None:
        """Ends the file that is open; one that nothing was written to is removed."""
        if self._failed:
            return
        if not self._headed:
            self._path.unlink(missing_ok=True)
        elif self._torn or self._writing:
            self._fail(OSError("an exception of a signal handler cut a write short"))
            return
        else:
            self._lines.append(record({"closed": self._steps}))
            self._append(end=True)
        if not self._failed:
            os.close(self._file)

    def _fail(self, error: OSError) -> None:
        """Ends the ledger, not the training."""
        self._failed = True
        self._lines.clear()
        early = self._path.with_name(self._path.name.removesuffix(SUFFIX) + ENDED_EARLY + SUFFIX)
        lasting = ""
        with contextlib.suppress(OSError):
            # What is there stays readable to its end.
            os.ftruncate(self._file, self._size)
        with contextlib.suppress(OSError):
            os.close(self._file)
        try:
            self._path.rename(early)
            self._path = early
        except OSError as another:
            lasting = f" (nor marked as ended early: {another})"
        warnings.warn(
            f"the ledger {self._path} ends early{lasting}, since it cannot be written: {error}. "
            f"Training goes on, but what it was trained on after step {self._steps} of this "
            "session cannot be proven: make room and restart from a state to have a ledger again",
            UserWarning,
            stacklevel=2,
        )
