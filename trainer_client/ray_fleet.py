"""The recipe of a fleet that a stream starts on a Ray cluster, where it is not there already."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer_client.errors import RequestError


@dataclass(frozen=True, slots=True)
class RayFleet:
    """Servers that a stream with a ray:/// target starts on first use.

    A fleet of that name that is there already is used as it is. One that was started ends with the
    process that did, and any stream that needs it still starts it again; a detached one lives until
    `preprocessor-server ray down`. Raises RequestError that names the field at fault.
    """

    replicas: int
    """Servers, each an actor of its own."""
    cpus: float = 2.0
    """CPUs that each reserves: a whole number, or a fraction of one."""
    data_root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "."
    """Folders that servers may read, which every node must have; relative to this process's."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More settings of `preprocessor-server serve`, by name; log_level is warning by default."""
    allow_gpu_nodes: bool = False
    """Places servers on nodes with GPUs too."""
    detached: bool = False
    """Lets the fleet live on when the job ends."""
    timeout_s: float = 120.0
    """Seconds until the first server serves, and Ray's own time to make it."""

    def __post_init__(self) -> None:
        if type(self.replicas) is not int or not 1 <= self.replicas <= 4096:
            raise RequestError(
                f"RayFleet replicas is {self.replicas!r}: it must be an integer from 1 to 4096"
            )
        roots = self.data_root
        given = [roots] if isinstance(roots, str | os.PathLike) else list(roots)
        if not given or not all(isinstance(each, str | os.PathLike) and each for each in given):
            raise RequestError(f"RayFleet data_root is {roots!r}: it must be folders")
        # Now, since a training worker may have another working directory than the program.
        object.__setattr__(self, "data_root", tuple(os.path.abspath(each) for each in given))
        if "data_root" in self.settings:
            raise RequestError("RayFleet settings has data_root: give data_root= beside it")

    def spec(self, name: str, release: str) -> dict[str, Any]:
        """What the fleet's controller is made of, as plain data."""
        return {
            "name": name,
            "replicas": self.replicas,
            "cpus": self.cpus,
            # Ray shows what actors log in the terminal of their job.
            "settings": {"log_level": "warning", **self.settings, "data_root": self.data_root},
            "allow_gpu_nodes": self.allow_gpu_nodes,
            "detached": self.detached,
            "release": release,
        }
