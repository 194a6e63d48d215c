"""What a stream makes of servers that do not answer: some will never, for want of TLS."""

from __future__ import annotations

import logging
import threading

import grpc

from trainer_client.errors import DeploymentError, HeadraceError, ServerUnavailableError
from trainer_client.tls import Credentials
from trainer_client.transport.handshake import problem_with

# For a handshake, or a few, with a server near by.
LOOK_S = 2.0

log = logging.getLogger("trainer_client")


class Diagnosis:
    """Tells faults of TLS from servers that are away; any thread may use it.

    While no server of the fleet has answered, a fault of TLS is final: the stream is set up wrong,
    or the fleet is. Later it is that server's, and the stream goes on with the others.
    """

    def __init__(self, tls: Credentials | None, timeout_s: float) -> None:
        self._tls = tls
        self._look_s = min(LOOK_S, timeout_s)
        self._lock = threading.Lock()
        self._answered: set[str] = set()
        self._problems: dict[str, str | None] = {}

    def answered(self, address: str) -> None:
        """Notes that a server has answered: whatever befalls it later is not for want of TLS."""
        if address not in self._answered:
            with self._lock:
                self._answered.add(address)

    @property
    def known(self) -> list[str]:
        """The servers that have answered."""
        with self._lock:
            return sorted(self._answered)

    def of(self, error: HeadraceError) -> HeadraceError:
        """The error, or the one that says what is wrong with TLS, if that is it."""
        address = error.server
        if error.status is not grpc.StatusCode.UNAVAILABLE or error.reason:
            return error
        with self._lock:
            if address in self._answered:
                return error
            first = not self._answered
            seen = address in self._problems
        if first or not seen:
            problem = problem_with(address, self._tls, self._look_s)
            with self._lock:
                self._problems[address] = problem
            if problem is not None and not first:
                log.warning("%s; streams go to other servers", problem)
        problem = self._problems[address]
        if problem is None:
            return error
        kind = DeploymentError if first else ServerUnavailableError
        explained = kind(problem, server=address)
        explained.__cause__ = error
        return explained
