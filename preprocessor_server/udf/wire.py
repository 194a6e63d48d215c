"""Messages between the server and a worker process: a JSON head and bytes, over a pipe."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Any

_SIZES = struct.Struct("<IQ")


class PipeClosedError(Exception):
    """The other side is gone."""


def send(fd: int, head: dict[str, Any], payload: Any = b"", deadline: float | None = None) -> None:
    """Writes a message; payload is bytes or a buffer.

    With a deadline (of time.monotonic()) the pipe must not block. Raises PipeClosedError, and
    TimeoutError once the deadline has passed.
    """
    text = json.dumps(head).encode()
    content = memoryview(payload).cast("B")
    _write(fd, (memoryview(_SIZES.pack(len(text), len(content)) + text), content), deadline)


def receive(fd: int, deadline: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Reads a message, as send() writes one. Raises as send() does."""
    text_size, size = _SIZES.unpack(_read(fd, _SIZES.size, deadline))
    head = json.loads(_read(fd, text_size, deadline))
    return head, _read(fd, size, deadline)


def _write(fd: int, parts: Sequence[memoryview], deadline: float | None) -> None:
    for part in parts:
        done = 0
        while done < len(part):
            try:
                done += os.write(fd, part[done:])
            except BlockingIOError:
                _wait(fd, select.POLLOUT, deadline)
            except BrokenPipeError:
                raise PipeClosedError from None


def _read(fd: int, size: int, deadline: float | None) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    done = 0
    while done < size:
        try:
            count = os.readv(fd, [view[done:]])
        except BlockingIOError:
            _wait(fd, select.POLLIN, deadline)
            continue
        if count == 0:
            raise PipeClosedError
        done += count
    return content


def _wait(fd: int, event: int, deadline: float | None) -> None:
    """Waits until a pipe may be read or written, or the other side is gone."""
    assert deadline is not None
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError
