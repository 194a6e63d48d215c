"""From a target to its fleet."""

from __future__ import annotations

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
