"""Targets: which fleet a stream uses, in one string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from trainer_client.errors import RequestError

FORMS = (
    "local://4 (four servers started on this machine), "
    "static:///host:port,host:port (these servers), "
    "dns:///name:port (every address of the name)"
)
MAX_LOCAL_SERVERS = 256


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """Servers that the client starts on this machine."""

    count: int


@dataclass(frozen=True, slots=True)
class StaticTarget:
    """Servers at given addresses: host:port, or unix:/path."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DnsTarget:
    """Servers at every address that a name resolves to."""

    host: str
    port: int


Target: TypeAlias = LocalTarget | StaticTarget | DnsTarget


def parse_target(text: str) -> Target:
    """The target that a string names. Raises RequestError that shows the accepted forms."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _wrong(text, "it has no scheme")
    if scheme == "local":
        if not rest.isdecimal() or not 1 <= int(rest) <= MAX_LOCAL_SERVERS:
            raise _wrong(text, f"local:// takes a number of servers from 1 to {MAX_LOCAL_SERVERS}")
        return LocalTarget(int(rest))
    if scheme not in ("static", "dns"):
        raise _wrong(text, f"there is no scheme {scheme!r}")
    if not rest.startswith("/"):
        raise _wrong(text, f"{scheme}: takes three slashes")
    names = rest[1:].split(",")
    if scheme == "static":
        for name in names:
            if not name.startswith("unix:/"):
                _host_and_port(text, name)
        return StaticTarget(tuple(sorted(set(names))))
    if len(names) != 1:
        raise _wrong(text, "dns:/// takes one name")
    return DnsTarget(*_host_and_port(text, names[0]))


def _host_and_port(text: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise _wrong(text, f"{address!r} is no host:port")
    return host, int(port)


def _wrong(text: str, problem: str) -> RequestError:
    return RequestError(f"target {text!r}: {problem}; the forms are {FORMS}")
