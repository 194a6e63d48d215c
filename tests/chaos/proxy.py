"""A TCP proxy in front of a server that disturbs what passes through it, when told to."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time

CHUNK = 16 << 10
CONNECT_TIMEOUT_S = 5.0


class Proxy:
    """Listens on a port of its own and passes every connection on to backend; a context manager.

    latency_s is added to every chunk of what the server sends, bytes_per_s bounds it over all
    connections (0: no bound). frozen passes nothing on, and closes nothing: a network that swallows
    packets. flips is the number of bits still to be flipped in what the server sends.
    """

    def __init__(self, backend: int = 0) -> None:
        self.backend = backend
        self.latency_s = 0.0
        self.bytes_per_s = 0.0
        self.flips = 0
        self.flipped = 0
        self.passed_bytes = 0
        self._thawed = threading.Event()
        self._thawed.set()
        self._random = random.Random(backend)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._free_s = 0.0
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self._thawed.clear()

    def thaw(self) -> None:
        """What was held back passes."""
        self._thawed.set()

    def reset(self) -> int:
        """Resets every connection, in the middle of whatever passes; how many there were."""
        with self._lock:
            pairs, self._pairs = list(self._pairs), set()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    # With this option a close sends RST, not FIN; who reads here wakes, and closes.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
        return len(pairs)

    def close(self) -> None:
        """Ends every connection and thread."""
        self._closed = True
        self._thawed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.backend), CONNECT_TIMEOUT_S)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = client, server
            with self._lock:
                self._pairs.add(pair)
            for source, sink, downstream in ((client, server, False), (server, client, True)):
                thread = threading.Thread(
                    target=self._pass, args=(pair, source, sink, downstream), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        sink: socket.socket,
        downstream: bool,
    ) -> None:
        try:
            while data := source.recv(CHUNK):
                self._thawed.wait()
                sink.sendall(self._disturbed(data) if downstream else data)
        except OSError:
            pass
        # One half that has ended ends the other: gRPC has no use for half a connection.
        with self._lock:
            alive = pair in self._pairs
            self._pairs.discard(pair)
        for end in pair:
            if alive:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _disturbed(self, data: bytes) -> bytes:
        if self.latency_s:
            time.sleep(self.latency_s)
        if self.bytes_per_s:
            with self._lock:
                self._free_s = max(self._free_s, time.monotonic()) + len(data) / self.bytes_per_s
                wait_s = self._free_s - time.monotonic()
            time.sleep(max(0.0, wait_s))
        with self._lock:
            self.passed_bytes += len(data)
            if self.flips:
                self.flips -= 1
                self.flipped += 1
                damaged = bytearray(data)
                damaged[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
                return bytes(damaged)
        return data
