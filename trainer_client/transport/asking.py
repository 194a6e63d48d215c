"""A connection for a few short calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainer_client.errors import RequestError
from trainer_client.telemetry import Meter
from trainer_client.transport.calls import Connection
from trainer_client.transport.opening import open_fleet
from trainer_client.transport.targets import parse_target

RESOLVE_INTERVAL_S = 3.0


@contextmanager
def connected(target: str, timeout_s: float) -> Iterator[Connection]:
    """The fleet of a target; a local one is started, and ends with this.

    Raises RequestError for a target that is none, or a timeout that is no time.
    """
    if not isinstance(timeout_s, int | float) or not timeout_s > 0:
        raise RequestError(f"timeout is {timeout_s!r}: it must be a number of seconds above 0")
    fleet = open_fleet(parse_target(target), 1, RESOLVE_INTERVAL_S)
    connection = Connection(fleet, timeout_s=timeout_s, meter=Meter())
    try:
        yield connection
    finally:
        connection.close()
