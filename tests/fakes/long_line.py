"""A line to a server that is long, and as wide as any: what enters it comes out a while later."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

CHUNK = 64 << 10


class LongLine:
    """Passes connections on to a port of this machine, each byte delay_s later; both ways."""

    def __init__(self, backend: int, delay_s: float) -> None:
        self._backend = backend
        self._delay_s = delay_s
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        """Ends every connection and thread."""
        self._closed.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._sockets):
            each.close()

    def __enter__(self) -> LongLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._backend), 5)
            far.settimeout(None)
            self._sockets += near, far
            for source, sink in ((near, far), (far, near)):
                line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                self._start(self._enter, source, line)
                self._start(self._leave, line, sink)

    def _enter(self, source: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"?"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            line.put((time.monotonic() + self._delay_s, data))

    def _leave(self, line: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        while True:
            due_s, data = line.get()
            self._closed.wait(max(0.0, due_s - time.monotonic()))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return
