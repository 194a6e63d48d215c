"""The servers of a target, as addresses that may change while a stream runs."""

from __future__ import annotations

import socket
import threading
import time
from typing import Protocol

from trainer_client.errors import ServerUnavailableError
from trainer_client.transport.targets import DnsTarget, StaticTarget

RESOLVE_AGAIN_AFTER_S = 5.0


class Fleet(Protocol):
    """Servers that a stream may use."""

    def addresses(self) -> list[str]:
        """The addresses now, sorted, at least one. Raises ServerUnavailableError if none."""

    def close(self) -> None:
        """Lets go of what the fleet holds; idempotent."""


class StaticFleet:
    """Servers at fixed addresses."""

    def __init__(self, target: StaticTarget) -> None:
        self._addresses = sorted(target.addresses)

    def addresses(self) -> list[str]:
        """The addresses of the target."""
        return self._addresses

    def close(self) -> None:
        """Holds nothing."""


class DnsFleet:
    """Servers at every address of a name, resolved again once an answer is 5 s old.

    gRPC's own resolver would choose the server; here the shard chooses it.
    """

    def __init__(self, target: DnsTarget) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._addresses: list[str] = []
        self._resolved_s = 0.0

    def addresses(self) -> list[str]:
        """The addresses of the name; the last known ones while it does not resolve."""
        with self._lock:
            now = time.monotonic()
            if self._addresses and now - self._resolved_s < RESOLVE_AGAIN_AFTER_S:
                return self._addresses
            host, port = self._target.host.strip("[]"), self._target.port
            try:
                # Bounded by the system's resolver (resolv.conf: 5 s a server, 2 attempts).
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                if not self._addresses:
                    raise ServerUnavailableError(
                        f"{host} does not resolve ({error}): check the name, and that the headless "
                        "Service has ready pods",
                        server=f"dns:///{host}:{port}",
                    ) from error
            else:
                hosts = {str(entry[4][0]) for entry in found}
                self._addresses = sorted(
                    f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in hosts
                )
            self._resolved_s = now
            return self._addresses

    def close(self) -> None:
        """Holds nothing."""
