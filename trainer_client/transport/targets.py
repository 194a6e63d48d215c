"""Targets: which fleet a stream uses, in one string."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from trainer_client.errors import RequestError
from trainer_client.ray_fleet import RayFleet

FORMS = (
    "local://4 (four servers started on this machine), "
    "static:///host:port,host:port (these servers), "
    "dns:///name:port (every address of the name), "
    "ray:///name (a fleet on a Ray cluster)"
)
MAX_LOCAL_SERVERS = 256
RAY_NAME = re.compile(r"/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


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


@dataclass(frozen=True, slots=True)
class RayTarget:
    """Servers of a fleet on a Ray cluster, by its name, and how to start it if it is not there."""

    name: str
    fleet: RayFleet | None = None


Target: TypeAlias = LocalTarget | StaticTarget | DnsTarget | RayTarget


def parse_target(text: str, fleet: RayFleet | None = None) -> Target:
    """The target that a string names, with the recipe of a fleet for ray:/// if there is one.

    Raises RequestError that shows the accepted forms.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _wrong(text, "it has no scheme")
    if scheme == "ray":
        return _ray_target(text, rest, fleet)
    if fleet is not None:
        raise _wrong(text, "fleet= goes with ray:///name, since no other target starts it")
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


def _ray_target(text: str, rest: str, fleet: RayFleet | None) -> RayTarget:
    if not RAY_NAME.fullmatch(rest):
        raise _wrong(text, "ray: takes three slashes and the name of a fleet")
    if fleet is not None and not isinstance(fleet, RayFleet):
        raise RequestError(f"fleet is {fleet!r}: it must be a RayFleet, or None")
    return RayTarget(rest[1:], fleet)


def _host_and_port(text: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise _wrong(text, f"{address!r} is no host:port")
    return host, int(port)


def _wrong(text: str, problem: str) -> RequestError:
    return RequestError(f"target {text!r}: {problem}; the forms are {FORMS}")
