"""The servers of a target, as addresses that may change while a stream runs."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from trainer_client.errors import HeadraceError, ServerUnavailableError
from trainer_client.transport.targets import DnsTarget, StaticTarget


class Fleet(Protocol):
    """Servers that a stream may use."""

    def addresses(self) -> list[str]:
        """The addresses now, sorted, at least one. Raises ServerUnavailableError if none."""

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """Has a function told the addresses whenever they change, in place of the one before."""

    def close(self) -> None:
        """Lets go of what the fleet holds; idempotent."""


class StaticFleet:
    """Servers at fixed addresses."""

    def __init__(self, target: StaticTarget) -> None:
        self._addresses = sorted(target.addresses)

    def addresses(self) -> list[str]:
        """The addresses of the target."""
        return self._addresses

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """They never do."""

    def close(self) -> None:
        """Holds nothing."""


class FollowedFleet(ABC):
    """Servers that are looked up again every interval_s by a thread of its own.

    A server whose address is gone gets no new streams from then on, and one that is new gets its
    share.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._addresses: list[str] = []
        self._changed: Callable[[list[str]], None] = lambda _: None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def addresses(self) -> list[str]:
        """The addresses now; the last known ones while they cannot be looked up."""
        with self._lock:
            if not self._addresses:
                self._addresses = self._resolve()
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._follow, name="headrace-resolver", daemon=True
                )
                self._thread.start()
            return self._addresses

    def follow(self, changed: Callable[[list[str]], None]) -> None:
        """The thread tells it."""
        self._changed = changed

    def close(self) -> None:
        """Ends the thread; idempotent. One in the middle of a query is not waited for."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    @abstractmethod
    def _resolve(self) -> list[str]:
        """The addresses now, sorted, with a bound. Raises ServerUnavailableError if none."""

    def _follow(self) -> None:
        while not self._closed.wait(self._interval_s):
            with contextlib.suppress(HeadraceError):
                before, self._addresses = self._addresses, self._resolve()
                if self._addresses != before:
                    self._changed(self._addresses)


class DnsFleet(FollowedFleet):
    """Servers at every address of a name.

    gRPC's own resolver would choose the server; here the shard chooses it.
    """

    def __init__(self, target: DnsTarget, interval_s: float) -> None:
        super().__init__(interval_s)
        self._target = target

    def _resolve(self) -> list[str]:
        # Bounded by the system's resolver (resolv.conf: 5 s a server, 2 attempts).
        host, port = self._target.host.strip("[]"), self._target.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ServerUnavailableError(
                f"{host} does not resolve ({error}): check the name, and that the headless "
                "Service has ready pods",
                server=f"dns:///{host}:{port}",
            ) from error
        hosts = {str(entry[4][0]) for entry in found}
        return sorted(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in hosts)
