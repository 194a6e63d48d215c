"""The reader process itself: the lanes of an epoch, whose batches are told of as they arrive."""

from __future__ import annotations

import logging
import os
import pickle
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable

import torch

from trainer_client import kernels
from trainer_client.arena_pool import POOL
from trainer_client.batch import Batch
from trainer_client.decode import Decoders
from trainer_client.header import end_checksum
from trainer_client.payload import ACCEPTED_CODECS
from trainer_client.prefetch import Prefetcher
from trainer_client.read_ahead import prefetch
from trainer_client.reader_process import messages
from trainer_client.reader_process.channel import Channel, ChannelClosedError
from trainer_client.reader_process.shared_memory import Lender
from trainer_client.telemetry import Meter
from trainer_client.transport.calls import Connection
from trainer_client.transport.server_counters import ServerCounters
from trainer_client.transport.shard_stream import Codec, Fetched, Job
from trainer_client.transport.stall import StallGuard

# How often counts are told while batches arrive, and while none do.
COUNTS_S = 0.2
# The trainer reads as soon as it wants a batch; where it never will again, the socket is closed.
ROOM_S = 1.0


def main(descriptor: int, memory: int) -> None:
    """Reads for the process at the other end of a socket, until that is closed."""
    try:
        lender = Lender(memory)
        POOL.allocate_by(lender.allocate)
        kernels.load()
        _Reader(Channel(socket.socket(fileno=descriptor)), lender).serve()
    except ChannelClosedError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - said and ended, whatever threads there are
        traceback.print_exc()
        os._exit(1)


class _Servers:
    """A fleet that another process looks up."""

    def __init__(self) -> None:
        self.now: list[str] = []

    def addresses(self) -> list[str]:
        """The last that were told."""
        return self.now

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """Nobody asks: that process follows them."""

    def close(self) -> None:
        """Holds nothing."""


class _Relay(ServerCounters):
    """Passes on what servers say of their counters: the trainer's process explains."""

    def __init__(self, tell: Outbox) -> None:
        super().__init__()
        self._tell = tell

    def said(self, address: str, data: bytes | None, took_s: float) -> None:
        """Tells the other process."""
        self._tell(messages.Said(address, data, took_s))


class Outbox(logging.Handler):
    """Sends messages, and lines of the log as such; any thread may use it."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._sending = threading.Lock()

    def __call__(self, message: object) -> None:
        """Sends a message, once there is room for it. Ends the process if nobody will read it."""
        try:
            with self._sending:
                sent = self._channel.send(message)
                while not sent:
                    self._channel.wait_for_room(ROOM_S)
                    sent = self._channel.flush()
        except ChannelClosedError:
            os._exit(0)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a line of the log."""
        self(messages.Logged(record.levelno, record.getMessage()))


class _Reader:
    """Does what the messages of a channel say."""

    def __init__(self, channel: Channel, lender: Lender) -> None:
        self._channel = channel
        self._lender = lender
        self._tell = Outbox(channel)
        log = logging.getLogger("trainer_client")
        log.addHandler(self._tell)
        log.propagate = False
        self._guard = StallGuard()
        self._meter = Meter()
        self._servers = _Servers()
        self._connection: Connection | None = None
        self._decoders: Decoders | None = None
        self._prefetcher: Prefetcher[Fetched[Batch]] | None = None
        # For what follows: lanes tell, and this thread counts and takes back.
        self._lock = threading.Lock()
        # What keeps memory that is lent, by number, until it is returned.
        self._lent: dict[int, object] = {}
        self._number = 0
        self._epoch = 0
        self._told_counts: dict[str, float] = {}
        self._told_times = self._meter.clock.read()
        self._told_s = 0.0

    def serve(self) -> None:
        """Until the channel is closed, which is a ChannelClosedError."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        self._tell(messages.Ready())
        while True:
            reading = self._prefetcher is not None
            if not poll.poll(COUNTS_S * 1e3 if reading else None):
                self._count_waits()
                continue
            for message in self._channel.receive():
                self._do(message)

    def _do(self, message: object) -> None:
        prefetcher = self._prefetcher
        match message:
            case messages.Read():
                self._stop()
                self._read(message)
            case messages.Stop():
                self._stop()
            case messages.Took(epoch, segments, returned):
                if prefetcher is not None and epoch == self._epoch:
                    for segment in segments:
                        prefetcher.take(segment, 0.0)
                with self._lock:
                    ended = [self._lent.pop(number) for number in returned]
                del ended
            case messages.Hedge(epoch, segment):
                if prefetcher is not None and epoch == self._epoch:
                    prefetcher.hedge(segment)
                    with self._lock:
                        # How many there were decides when the next one may be.
                        self._count()
            case messages.Servers(addresses):
                self._servers.now = list(addresses)
            case _:
                raise RuntimeError(f"{message!r} is no message to a reader process")

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
            with self._lock:
                # Also wakes who waits for a batch that does not come any more.
                self._count()
            self._prefetcher = None

    def _read(self, read: messages.Read) -> None:
        self._epoch = read.number
        self._servers.now = list(read.addresses)
        if self._connection is None:
            self._connection = Connection(
                self._servers, timeout_s=read.timeout_s, meter=self._meter, tls=read.tls
            )
            self._connection.counters = _Relay(self._tell)
            self._decoders = Decoders(expand=read.expand)
        assert self._decoders is not None
        for address in read.answered:
            self._connection.diagnosis.answered(address)
        job = Job(
            connection=self._connection,
            guard=self._guard,
            dataset=read.dataset,
            snapshot=read.snapshot,
            identity=read.identity,
            codec=Codec(
                accepted=ACCEPTED_CODECS, decoder=self._decoders, end_checksum=end_checksum
            ),
        )

        def told(segment: int, fetched: Fetched[Batch] | None, error: BaseException | None) -> None:
            with self._lock:
                if fetched is None:
                    self._count()
                    self._tell(messages.Ended(read.number, segment, error and _portable(error)))
                    return
                if time.monotonic() - self._told_s > COUNTS_S:
                    self._count()
                self._tell(self._arrived(read.number, segment, fetched))

        self._prefetcher = prefetch(job, read.ahead, told)

    def _arrived(self, epoch: int, segment: int, fetched: Fetched[Batch]) -> messages.Arrived:
        batch = fetched.value
        assert not isinstance(batch.memory, torch.Tensor)
        expanded = {
            name: self._lend(block, block.lengths.data_ptr(), block.expanded_nbytes)
            for name, block in batch.expanded().items()
        }
        return messages.Arrived(
            epoch=epoch,
            segment=segment,
            arena=self._lend(batch.memory, batch.memory.ctypes.data, batch.memory.nbytes),
            expanded=expanded,
            layout=batch.layout,
            shard=batch.shard,
            index_in_shard=batch.index,
            cursor=batch.cursor,
            next_cursor=batch.next_cursor,
            content_checksum=batch.content_checksum,
            server=fetched.server,
            wire_bytes=fetched.wire_bytes,
            lane=fetched.lane,
        )

    def _lend(self, keeper: object, address: int, size: int) -> messages.Piece:
        self._number += 1
        self._lent[self._number] = keeper
        return messages.Piece(self._number, self._lender.start_of(address), size)

    def _count_waits(self) -> None:
        """Tells what was counted while nothing arrived, if anything was."""
        waited = self._meter.clock.read().since(self._told_times).receiving_s.values()
        with self._lock:
            if any(waited) or self._meter.counts() != self._told_counts:
                self._count()

    def _count(self) -> None:
        """Tells what was counted since the last time."""
        counts, times, prefetcher = self._meter.counts(), self._meter.clock.read(), self._prefetcher
        changes = {name: n - self._told_counts.get(name, 0.0) for name, n in counts.items()}
        hedges = (prefetcher.hedges, prefetcher.hedges_won) if prefetcher else (0, 0)
        since = times.since(self._told_times)
        self._tell(messages.Counts(self._epoch, changes, since, *hedges))
        self._told_counts, self._told_times, self._told_s = counts, times, time.monotonic()


def _portable(error: BaseException) -> BaseException:
    """An error that can be raised elsewhere, and says where it comes from."""
    found = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever its class does
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the reader process:\n{found}")
    return error
