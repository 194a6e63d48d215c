"""ray:///name: the replicas of a fleet on a Ray cluster, wherever Ray has put them.

In Ray's namespace `headrace` a fleet is the actor with its name, the controller; it answers with
plain data. This side knows that much and no more: it starts a controller by the import path of the
server's code, which only the nodes of the cluster need to have.
"""

from __future__ import annotations

import logging
import os
import socket
from importlib.metadata import version
from typing import Any

from trainer_client.errors import DeploymentError, ServerUnavailableError, StreamTimeoutError
from trainer_client.ray_fleet import RayFleet
from trainer_client.transport.fleet import FollowedFleet
from trainer_client.transport.targets import RayTarget

NAMESPACE = "headrace"
CONTROLLER = "preprocessor_server.fleet.controller", "Controller"
HEAD = {"node:__internal_head__": 0.001}
# For a controller to answer what it knows, and for Ray to make one.
ANSWER_S = 10.0
RAY_S = 30.0
CONNECT_S = 5.0

# Ray ends an actor that its owner has no handle of any more.
_STARTED: dict[str, Any] = {}


class FleetOnRay(FollowedFleet):
    """The servers of a fleet on Ray, followed as replicas come, go and move.

    Raises DeploymentError if there is no Ray, no cluster, or no such fleet and no recipe for it.
    """

    def __init__(self, target: RayTarget, interval_s: float) -> None:
        super().__init__(interval_s)
        self._name = target.name
        self._recipe = target.fleet
        _connect()
        if self._controller() is None:
            if self._recipe is None:
                raise DeploymentError(
                    f"there is no fleet {self._name!r} on this Ray cluster, which has: "
                    f"{', '.join(_names()) or 'none'}. `preprocessor-server ray up {self._name}` "
                    "starts it, and so does a stream with fleet=RayFleet(...)"
                )
            self._start(self._recipe)

    def _resolve(self) -> list[str]:
        import ray
        from ray.exceptions import RayError

        # Asking Ray for anything would start a cluster where there is none.
        if not ray.is_initialized():
            raise self._unavailable("this process has left the Ray cluster (ray.shutdown)")
        try:
            controller = self._controller()
            if controller is None and self._recipe is not None:
                # Whoever started it has ended.
                self._start(self._recipe)
                controller = self._controller()
            if controller is None:
                raise self._unavailable("it has ended; `preprocessor-server ray up` starts it")
            found = ray.get(controller.addresses.remote(), timeout=ANSWER_S)
        except RayError as error:
            raise self._unavailable(f"its controller does not answer: {error}") from error
        if not found:
            raise self._unavailable(
                "none of its replicas serves now; `preprocessor-server ray status` says why"
            )
        return [str(address) for address in found]

    def _controller(self) -> Any:
        import ray

        try:
            return ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:
            return None

    def _start(self, recipe: RayFleet) -> None:
        """Starts the fleet, or joins in with who does, and waits until one replica serves."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        controller: Any = (
            ray.remote(_controller_class())
            .options(
                name=self._name,
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached" if recipe.detached else None,
                num_cpus=0,
                resources=HEAD,
                max_restarts=-1,
            )
            .remote(CONTROLLER, recipe.spec(self._name, version("headrace")))
        )
        _STARTED[self._name] = controller
        try:
            call = controller.ready.remote(1, recipe.timeout_s)
            status = ray.get(call, timeout=recipe.timeout_s + RAY_S)
        except GetTimeoutError:
            ray.kill(controller, no_restart=True)
            raise StreamTimeoutError(
                f"fleet {self._name}: Ray has not made its controller after "
                f"{recipe.timeout_s + RAY_S:.0f} s; is the head node well (ray status)?"
            ) from None
        except RayError as error:
            raise DeploymentError(
                f"fleet {self._name}: its controller cannot run on the cluster's head node "
                f"({str(error).strip().splitlines()[-1]}): headrace[server,ray]=="
                f"{version('headrace')} must be installed on every node that may have replicas, "
                "and on the head node"
            ) from error
        if status["problem"]:
            ray.kill(controller, no_restart=True)
            raise DeploymentError(f"fleet {self._name} did not start: {status['problem']}")

    def _unavailable(self, problem: str) -> ServerUnavailableError:
        return ServerUnavailableError(
            f"fleet {self._name}: {problem}", server=f"ray:///{self._name}"
        )


def _connect() -> None:
    """Joins the Ray cluster of RAY_ADDRESS, or of this machine, unless the program has."""
    try:
        import ray
    except ModuleNotFoundError:
        raise DeploymentError(
            "ray:/// needs Ray in the trainer's environment: pip install 'headrace[ray]'"
        ) from None
    if ray.is_initialized():
        return
    where = os.environ.get("RAY_ADDRESS", "") or "auto"
    host, _, port = where.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdecimal():
            # Ray itself would take minutes to find out.
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise DeploymentError(
            f"ray:/// finds no Ray cluster at {where}: {str(error).strip().rstrip('.')}. "
            "Set RAY_ADDRESS to the head node's host:port (port 6379 by default), or call "
            "ray.init(address=...) first"
        ) from error


def _names() -> list[str]:
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(each["name"] for each in actors if each["namespace"] == NAMESPACE)


def _controller_class() -> type:
    """The server's controller, loaded by its import path where Ray makes the actor.

    A class of a function travels as code, so the nodes need nothing of this package.
    """

    class Controller:
        """Hands every call on."""

        async def __init__(  # type: ignore[misc]  # Ray awaits it
            self, path: tuple[str, str], spec: dict[str, Any]
        ) -> None:
            import importlib

            made = getattr(importlib.import_module(path[0]), path[1])
            self._controller = made.__new__(made)
            await self._controller.__init__(spec)

        async def addresses(self) -> Any:
            return await self._controller.addresses()

        async def ready(self, replicas: int, timeout_s: float) -> Any:
            return await self._controller.ready(replicas, timeout_s)

        async def status(self, wanted: int = 0) -> Any:
            return await self._controller.status(wanted)

        async def scale(self, replicas: int, timeout_s: float) -> Any:
            return await self._controller.scale(replicas, timeout_s)

        async def drain(self) -> Any:
            return await self._controller.drain()

    return Controller
