"""From a target to its fleet, and to what secures the way there."""

from __future__ import annotations

from dataclasses import replace

from trainer_client.tls import Credentials, Tls
from trainer_client.transport.fleet import DnsFleet, Fleet, StaticFleet
from trainer_client.transport.local import LocalFleet
from trainer_client.transport.on_ray import FleetOnRay
from trainer_client.transport.targets import DnsTarget, LocalTarget, RayTarget, Target


def open_fleet(target: Target, world_size: int, resolve_interval_s: float) -> Fleet:
    """The fleet of a target; a local one is started, or attached to, and serving.

    Names are looked up again every resolve_interval_s.
    """
    if isinstance(target, LocalTarget):
        return LocalFleet(target.count, shared=world_size > 1)
    if isinstance(target, DnsTarget):
        return DnsFleet(target, resolve_interval_s)
    if isinstance(target, RayTarget):
        return FleetOnRay(target, resolve_interval_s)
    return StaticFleet(target)


def credentials_for(target: Target, tls: Tls | None) -> Credentials | None:
    """What connections to a target use; None is plain, as are the servers of local://.

    The servers of dns:/// are known by its name: their addresses come and go. Raises RequestError
    for files that cannot be used.
    """
    if tls is None or isinstance(target, LocalTarget):
        return None
    credentials = tls.read()
    if isinstance(target, DnsTarget) and not credentials.server_name:
        return replace(credentials, server_name=target.host.strip("[]"))
    return credentials
