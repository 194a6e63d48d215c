from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from preprocessor_server.peers import peer_is_trusted


@dataclass(frozen=True)
class Caller:
    """What gRPC says of the other end of a call."""

    address: str
    auth: Mapping[str, list[bytes]] = field(default_factory=dict)

    def peer(self) -> str:
        return self.address

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return self.auth


def trusted(address: str, **auth: list[bytes]) -> bool:
    caller: Any = Caller(address, auth)
    return peer_is_trusted(caller)


@pytest.mark.parametrize(
    "address",
    [
        "ipv4:127.0.0.1:4711",
        "ipv4:127.8.9.10:4711",
        "ipv6:%5B::1%5D:4711",
        "ipv6:[::1]:4711",
        "ipv6:[::ffff:127.0.0.1]:4711",
        "unix:/run/headrace/server-0.sock",
        "unix:",
    ],
)
def test_this_machine(address: str) -> None:
    assert trusted(address)


@pytest.mark.parametrize(
    "address",
    [
        "ipv4:10.0.0.7:4711",
        "ipv4:0.0.0.0:4711",
        "ipv6:%5B2001:db8::1%5D:4711",
        "ipv6:%5Bfe80::1%25eth0%5D:4711",
        "ipv6:[::ffff:10.0.0.7]:4711",
        "vsock:1:2",
        "127.0.0.1:4711",
        "ipv4:",
        "",
    ],
)
def test_others_need_a_certificate(address: str) -> None:
    assert not trusted(address)
    # TLS alone says nothing about the client.
    assert not trusted(address, transport_security_type=[b"ssl"])
    assert not trusted(address, x509_pem_cert=[])
    assert trusted(address, transport_security_type=[b"ssl"], x509_pem_cert=[b"-----BEGIN"])
