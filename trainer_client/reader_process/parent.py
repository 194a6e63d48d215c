"""The trainer's side of a reader process: started with the stream, and gone with it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trainer_client.arena_pool import Bytes
from trainer_client.batch import Batch
from trainer_client.errors import (
    DeploymentError,
    HeadraceError,
    StreamClosedError,
    StreamTimeoutError,
)
from trainer_client.read_ahead import ReadAhead
from trainer_client.reader_process import messages, shared_memory
from trainer_client.reader_process.channel import Channel, ChannelClosedError
from trainer_client.reader_process.process_prefetcher import ProcessPrefetcher
from trainer_client.transport.calls import Connection
from trainer_client.transport.shard_stream import Job

# It imports torch and loads its kernels: two seconds. Without a cache it compiles them.
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 5.0
# The longest wait without a look around.
LOOK_S = 1.0
# What all processes of a job may be sent is for the trainer, which may go on to save its state.
LEFT_TO_TRAINER = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)

log = logging.getLogger("trainer_client")

_PROCESSES: weakref.WeakSet[ReaderProcess] = weakref.WeakSet()


class ReaderProcess:
    """A process that reads one epoch after the other; close() ends it.

    It ends by itself when this one does, however that comes. Raises DeploymentError if there is no
    room for the memory that both share.
    """

    def __init__(self) -> None:
        own, other = socket.socketpair()
        try:
            with other:
                self._borrower, self._process = _start(other)
        except BaseException:
            own.close()
            raise
        self._socket = own
        self._channel = Channel(own)
        # Reentrant: a signal handler that closes may interrupt the thread that holds it.
        self.lock = threading.RLock()
        self._closed = self._broken = self._ready = self._taking = False
        # Threads that wait for messages, and lines of the process's log that are yet to be logged.
        self._waiting = 0
        self._lines: deque[messages.Logged] = deque()
        self._epoch = 0
        self._reads: ProcessPrefetcher | None = None
        self._connection: Connection | None = None
        # The numbers of loans that nobody has looked at.
        self._refused: list[int] = []
        _PROCESSES.add(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be given an epoch to read."""
        return not (self._closed or self._broken) and self._process.poll() is None

    def read(self, job: Job[Batch], ahead: ReadAhead, *, expand: bool) -> ProcessPrefetcher:
        """Starts to read, in place of what was read before.

        Waits for the process to start. Raises DeploymentError if it has ended, StreamTimeoutError.
        """
        self._wait_until_ready()
        connection = job.connection
        connection.fleet.follow(lambda addresses: self.post(messages.Servers(addresses)))
        with self.lock:
            if self._reads is not None:
                self._reads.close()
            self._connection = connection
            self._epoch += 1
            self._reads = ProcessPrefetcher(self, self._epoch, ahead)
            self.post(
                messages.Read(
                    number=self._epoch,
                    dataset=job.dataset,
                    snapshot=job.snapshot,
                    identity=job.identity,
                    ahead=ahead,
                    addresses=connection.fleet.addresses(),
                    tls=connection.tls,
                    timeout_s=connection.timeout_s,
                    expand=expand,
                    answered=connection.diagnosis.known,
                )
            )
            return self._reads

    def post(self, message: object) -> None:
        """Sends a message, what there is no room for with the next receive.

        To a process that is gone there is nothing to say: receive tells.
        """
        with self.lock, contextlib.suppress(ChannelClosedError), self.whole():
            self._channel.send(message)

    def took(self, epoch: int, segments: Sequence[int]) -> None:
        """Tells that a batch of each segment was taken, and which loans have ended since."""
        with self.lock, contextlib.suppress(ChannelClosedError), self.whole():
            returned, self._refused = self._refused, []
            returned += self._borrower.returned()
            self._channel.send(messages.Took(epoch, segments, returned))

    def borrow(self, piece: messages.Piece) -> Bytes:
        """The memory of a piece, until nobody looks at it any more."""
        return self._borrower.borrow(*piece)

    def refuse(self, arrived: messages.Arrived) -> None:
        """Gives a batch back that nobody wants."""
        with self.lock:
            self._refused += [piece.number for piece in arrived.pieces]

    def receive(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Takes in what is there, or waits a while for something, for so long at most.

        until says, of what was taken in before, that there is nothing to wait for. Raises
        DeploymentError if the process has ended.
        """
        try:
            with self.lock:
                if self._take_in() or until():
                    return
                with self.whole():
                    sent = self._channel.flush()
                self._waiting += 1
        except ChannelClosedError:
            raise self.failure() from None
        finally:
            self._log()
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN if sent else select.POLLIN | select.POLLOUT)
            poll.poll(min(timeout_s, LOOK_S) * 1e3)
        finally:
            with self.lock:
                self._waiting -= 1

    def catch_up(self) -> None:
        """Takes in what is there; that the process has ended is for its reader to say."""
        with self.lock, contextlib.suppress(ChannelClosedError):
            # Who waits takes it in, and would not wake if it were gone.
            if not self._waiting:
                self._take_in()
        self._log()

    def stop(self, reads: ProcessPrefetcher) -> None:
        """Ends the reading of an epoch, if that is still going on."""
        with self.lock:
            if self._reads is reads and not self._closed:
                self._reads = None
                # What has come meanwhile is lent too.
                with contextlib.suppress(ChannelClosedError):
                    self._take_in()
                self.took(self._epoch, ())
                self.post(messages.Stop())

    def close(self) -> None:
        """Ends the process, with a bound; idempotent."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
        # Whoever waits for a message sees the end of them. One that is gone has none.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._end()
        finally:
            self._socket.close()
        self._borrower.keep_loans_only()

    def let_go_after_fork(self) -> None:
        """Closes what a forked child inherited: it must not keep the process alive."""
        self._closed = True
        self._socket.close()

    def _end(self) -> None:
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("the reader process (pid %d) does not end, though killed", self.pid)

    def _wait_until_ready(self) -> None:
        end_s = time.monotonic() + START_TIMEOUT_S
        while not self._ready:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise StreamTimeoutError(
                    f"the stream's reader process (pid {self.pid}) has not started within "
                    f"{START_TIMEOUT_S:.0f} s: is this machine overloaded, or its disk slow?"
                )
            self.receive(lambda: self._ready, left_s)

    def _take_in(self) -> bool:
        """Takes in messages that are there; whether there were any."""
        with self.lock, self.whole():
            if self._taking:
                # A signal handler asks in the middle of this.
                return False
            self._taking = True
            try:
                found = self._channel.receive()
                for message in found:
                    self._do(message)
            finally:
                self._taking = False
        return bool(found)

    def _log(self) -> None:
        """Logs lines. Not under the lock: whoever handles them may ask this stream for anything."""
        while self._lines:
            line = self._lines.popleft()
            log.log(line.level, "%s", line.text)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Messages are sent and taken in whole, or (KeyboardInterrupt) there are no more of them.

        Raises ChannelClosedError if that is so already.
        """
        if self._closed or self._broken:
            raise ChannelClosedError
        try:
            yield
        except ChannelClosedError:
            raise
        except BaseException:
            self._broken = True
            raise

    def _do(self, message: object) -> None:
        reads = self._reads
        match message:
            case messages.Ready():
                self._ready = True
            case messages.Arrived():
                if reads is None or message.epoch != self._epoch:
                    self.refuse(message)
                else:
                    reads.arrived(message)
            case messages.Ended(epoch, segment, error):
                if reads is not None and epoch == self._epoch:
                    reads.ended(segment, error)
            case messages.Counts():
                assert self._connection is not None
                self._connection.meter.add(**message.stats)
                self._connection.meter.clock.merge(message.times)
                if reads is not None and message.epoch == self._epoch:
                    reads.hedges, reads.hedges_won = message.hedges, message.hedges_won
            case messages.Said(address, data, took_s):
                assert self._connection is not None
                self._connection.counters.said(address, data, took_s)
            case messages.Logged():
                self._lines.append(message)
            case _:
                raise RuntimeError(f"{message!r} is no message of a reader process")

    def failure(self) -> HeadraceError:
        """Why there are no more messages."""
        if self._closed:
            return StreamClosedError("the stream was closed meanwhile")
        if self._broken:
            return StreamClosedError("reading was interrupted, and its messages lost: iterate anew")
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            how = "has closed its socket"
        else:
            how = f"ended with exit status {status}: what it wrote to stderr says why"
            if status < 0:
                how = f"was ended by {_name_of(-status)}"
            if status == -signal.SIGKILL:
                how += (
                    "; if the kernel did it for want of memory (dmesg says so), give the trainer "
                    "more, or lower prefetch_bytes"
                )
        return DeploymentError(
            f"the stream's reader process (pid {self.pid}) {how}. To go on with another one: "
            "stream.load_state_dict(stream.state_dict()), then iterate"
        )


def _start(other: socket.socket) -> tuple[shared_memory.Borrower, subprocess.Popen[bytes]]:
    """The memory and the process, which has the other end of the socket."""
    memory = shared_memory.create()
    descriptors = other.fileno(), memory
    # Until it can ignore them itself, it does not get them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_TRAINER)
    try:
        return shared_memory.Borrower(memory), subprocess.Popen(
            # -P: what lies in the trainer's folder must not shadow its modules.
            [sys.executable, "-P", "-m", __package__, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(memory)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _let_go_after_fork() -> None:
    for process in list(_PROCESSES):
        process.let_go_after_fork()


os.register_at_fork(after_in_child=_let_go_after_fork)
