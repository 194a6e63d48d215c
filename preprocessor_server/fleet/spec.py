"""What a fleet on Ray is made of, as plain data that travels to its actors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from preprocessor_server.errors import FleetError, SettingsError
from preprocessor_server.settings import Settings

# The Ray namespace of all fleets: in it, a fleet is the actor with the fleet's name.
NAMESPACE = "headrace"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MAX_REPLICAS = 4096
# A replica chooses its address, and Ray ends it.
OWN_SETTINGS = ("listen", "lifeline")


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A fleet: replicas servers of cpus CPUs each, with the settings of `serve`.

    settings are values of Settings by name, less OWN_SETTINGS; cpu_threads is by default the CPUs.
    release is that of who starts the fleet, by default of this process. Raises FleetError that
    names the field at fault.
    """

    name: str
    replicas: int
    cpus: float = 2.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    allow_gpu_nodes: bool = False
    detached: bool = False
    release: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "release", self.release or release())
        if not NAME.fullmatch(self.name):
            raise FleetError(
                f"fleet name {self.name!r}: it must be 1 to 63 letters, digits, '.', '_' or '-', "
                "and start with a letter or digit"
            )
        check_replicas(self.replicas)
        cpus = self.cpus
        numeric = isinstance(cpus, int | float) and not isinstance(cpus, bool)
        # Ray takes fractions of a CPU below one, and whole CPUs above.
        if not numeric or not 0 < cpus <= 64 or (cpus > 1 and cpus != int(cpus)):
            raise FleetError(
                f"cpus is {cpus!r}: it must be a whole number of CPUs a replica up to 64, or a "
                "fraction of one"
            )
        if own := sorted(set(self.settings) & set(OWN_SETTINGS)):
            raise FleetError(f"{own[0]} cannot be set: a replica listens on its node's address")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data; FleetSpec(**data) is it again."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "settings": dict(self.settings)
        }

    def settings_on(self, host: str) -> Settings:
        """The settings of a replica on a node. Raises SettingsError that names the setting."""
        threads = {"cpu_threads": max(1, int(self.cpus))}
        if unknown := sorted(set(self.settings) - set(Settings.model_fields)):
            raise SettingsError(
                f"no such setting: {', '.join(unknown)}; settings are "
                f"{', '.join(sorted(set(Settings.model_fields) - set(OWN_SETTINGS)))}"
            )
        listen = f"[{host}]:0" if ":" in host else f"{host}:0"
        return Settings.from_env({}, **(threads | dict(self.settings)), listen=listen)


def check_replicas(replicas: int) -> None:
    """Raises FleetError unless a fleet can have so many replicas."""
    if type(replicas) is not int or not 1 <= replicas <= MAX_REPLICAS:
        raise FleetError(
            f"replicas is {replicas!r}: it must be an integer from 1 to {MAX_REPLICAS}"
        )


def release() -> str:
    """The version of Headrace that runs here."""
    return version("headrace")


def wrong_release(spec: FleetSpec, node: str) -> str:
    """What is wrong if this process has another Headrace than who started the fleet, or ""."""
    if spec.release == release():
        return ""
    return (
        f"{node} has headrace {release()}, and the fleet was started by headrace {spec.release}: "
        f"install headrace[server,ray]=={spec.release} on every node of the cluster"
    )
