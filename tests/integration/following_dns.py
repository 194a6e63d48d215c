"""What test_discovery runs where names are resolved by a server of its own."""

from __future__ import annotations

import time

import pytest

from tests.fakes.dns_server import NAME, DnsServer
from trainer_client.errors import ServerUnavailableError
from trainer_client.transport.fleet import DnsFleet
from trainer_client.transport.targets import DnsTarget

INTERVAL_S = 0.2


def main(server: DnsServer) -> None:
    """Records come and go, and the name stops resolving for a while."""
    fleet = DnsFleet(DnsTarget(NAME, 7), INTERVAL_S)
    server.fails = True
    with pytest.raises(ServerUnavailableError, match=NAME):
        fleet.addresses()
    server.fails = False
    for addresses in (["10.0.0.1"], ["10.0.0.2", "10.0.0.1"], ["10.0.0.2"], ["10.0.0.3"]):
        server.addresses = addresses
        changed_s = time.monotonic()
        expected = sorted(f"{address}:7" for address in addresses)
        while fleet.addresses() != expected:
            server.wait_for_queries(1)
            assert time.monotonic() - changed_s < 20
        took_s = time.monotonic() - changed_s
        print(f"followed after {took_s:.2f} s", flush=True)  # noqa: T201 - for whoever reads the log
    # The last known addresses hold while there is no answer.
    server.fails = True
    server.wait_for_queries(3)
    assert fleet.addresses() == ["10.0.0.3:7"]
    fleet.close()
