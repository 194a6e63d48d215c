"""Messages between two processes: pickles over a Unix socket, each after its length."""

from __future__ import annotations

import pickle
import select
import socket
import struct
from collections import deque
from typing import Any

_LENGTH = struct.Struct("<Q")
READ_BYTES = 256 << 10


class ChannelClosedError(Exception):
    """The process at the other end is gone, or this end was closed."""


class Channel:
    """One end of a socket. Two threads may use it if one only sends and the other only receives."""

    def __init__(self, own: socket.socket) -> None:
        own.setblocking(False)
        self._socket = own
        self._outgoing: deque[memoryview] = deque()
        self._sending = False
        self._incoming = bytearray()
        self._chunk = bytearray(READ_BYTES)

    def fileno(self) -> int:
        """The descriptor, which is readable when a message may be there."""
        return self._socket.fileno()

    def send(self, message: object) -> bool:
        """Sends a message; whether all of it has left. If not, flush() goes on with it.

        One sent by a signal handler in the middle of another's sending follows it.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._outgoing.append(memoryview(_LENGTH.pack(len(data)) + data))
        return self.flush()

    def flush(self) -> bool:
        """Goes on with what has not left yet; whether nothing remains."""
        if self._sending:
            return True
        self._sending = True
        try:
            while self._outgoing:
                data = self._outgoing[0]
                sent = self._socket.send(data)
                if sent < len(data):
                    self._outgoing[0] = data[sent:]
                else:
                    self._outgoing.popleft()
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosedError from error
        finally:
            self._sending = False
        return True

    def wait_for_room(self, timeout_s: float) -> None:
        """Waits until the other end has read some of what was sent, for so long at most."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        poll.poll(timeout_s * 1e3)

    def receive(self) -> list[Any]:
        """Messages that are there, of one reading. Raises ChannelClosedError at their end."""
        try:
            count = self._socket.recv_into(self._chunk)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChannelClosedError from error
        if not count:
            raise ChannelClosedError
        incoming = self._incoming
        incoming += memoryview(self._chunk)[:count]
        messages, start = [], 0
        while len(incoming) >= start + _LENGTH.size:
            begin = start + _LENGTH.size
            end = begin + _LENGTH.unpack_from(incoming, start)[0]
            if len(incoming) < end:
                break
            messages.append(pickle.loads(memoryview(incoming)[begin:end]))  # noqa: S301 - our own
            start = end
        del incoming[:start]
        return messages
