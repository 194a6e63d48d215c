"""What is done to fleets from outside: start, look, scale, end. Every wait is bounded."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from preprocessor_server.errors import FleetError
from preprocessor_server.fleet.spec import NAMESPACE, FleetSpec, check_replicas, release

START_TIMEOUT_S = 120.0
# For Ray to make an actor, or to answer for one, beside what is waited for.
RAY_S = 30.0
# Drains are bounded by the replicas' own settings; this by none.
DRAIN_LIMIT_S = 3700.0
CONNECT_S = 5.0

# Ray ends an actor that its owner has no handle of any more.
_STARTED: dict[str, Any] = {}
# Ray's own name of its head node's resource: the controller lives as long as the cluster does.
HEAD = {"node:__internal_head__": 0.001}


@contextlib.contextmanager
def cluster(address: str = "") -> Iterator[None]:
    """Ray, connected: as it is if the program has done so, else to address until the end.

    "" stands for RAY_ADDRESS, else for the cluster that runs on this machine. Raises FleetError.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise FleetError("fleets on Ray need Ray: pip install 'headrace[ray]'") from None
    if ray.is_initialized():
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS", "") or "auto"
    _check_reachable(where)
    try:
        ray.init(
            address=where, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise FleetError(
            f"no Ray cluster at {where}: {str(error).strip().rstrip('.')}. Give --address "
            "host:port (by default port 6379 of the head node), or start one: ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def up(spec: FleetSpec, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
    """Starts a fleet and waits until all of its replicas serve; its status.

    Without spec.detached it ends with this process. Raises FleetError if it is there already, and
    if it is not all there in time: then nothing of it is left.
    """
    import ray

    from preprocessor_server.fleet.controller import Controller

    try:
        controller: Any = (
            ray.remote(Controller)
            .options(
                name=spec.name,
                namespace=NAMESPACE,
                lifetime="detached" if spec.detached else None,
                num_cpus=0,
                resources=HEAD,
                max_restarts=-1,
            )
            .remote(spec.to_dict())
        )
    except ValueError as error:
        if spec.name not in names():
            raise FleetError(f"fleet {spec.name}: {error}") from error
        raise FleetError(
            f"fleet {spec.name} is there already: `preprocessor-server ray scale {spec.name}` "
            "changes its size, `ray down` ends it"
        ) from None
    try:
        call = controller.ready.remote(spec.replicas, timeout_s)
        found = _ask(spec.name, call, timeout_s + RAY_S)
        if found["problem"]:
            raise FleetError(f"fleet {spec.name} did not start: {found['problem']}")
    except BaseException:
        ray.kill(controller, no_restart=True)
        raise
    _STARTED[spec.name] = controller
    return found


def status(name: str) -> dict[str, Any]:
    """What a fleet's controller knows. Raises FleetError if there is no such fleet."""
    return _ask(name, _controller(name).status.remote(), RAY_S)


def scale(name: str, replicas: int, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
    """Adds replicas and waits until they serve, or drains some and ends them; the status then.

    Raises FleetError if too few serve in time; the fleet goes on trying.
    """
    check_replicas(replicas)
    call = _controller(name).scale.remote(replicas, timeout_s)
    found = _ask(name, call, timeout_s + DRAIN_LIMIT_S)
    if found["problem"]:
        raise FleetError(
            f"fleet {name} is not yet as large as wanted, and goes on trying: {found['problem']}"
        )
    return found


def down(name: str) -> int:
    """Drains a fleet and ends it; the number of replicas that were ended.

    Raises FleetError if there is no such fleet, or if Ray still has it after a while.
    """
    import ray

    controller = _controller(name)
    before = _ask(name, controller.status.remote(), RAY_S)
    _ask(name, controller.drain.remote(), DRAIN_LIMIT_S)
    ray.kill(controller, no_restart=True)
    deadline = time.monotonic() + RAY_S
    while name in names():
        if time.monotonic() > deadline:
            raise FleetError(f"fleet {name}: Ray still lists its controller after {RAY_S:.0f} s")
        time.sleep(0.05)
    return len(before["replicas"])


def names() -> list[str]:
    """The fleets of the cluster."""
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    return sorted(each["name"] for each in actors if each["namespace"] == NAMESPACE)


def _controller(name: str) -> Any:
    import ray

    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        there = ", ".join(names()) or "none"
        raise FleetError(
            f"there is no fleet {name!r} on this cluster, which has: {there}. "
            f"`preprocessor-server ray up {name}` starts it"
        ) from None


def _ask(name: str, call: Any, timeout_s: float) -> dict[str, Any]:
    """The controller's answer."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

    try:
        found: dict[str, Any] = ray.get(call, timeout=timeout_s)
    except GetTimeoutError:
        raise FleetError(
            f"fleet {name}: its controller gave no answer within {timeout_s:.0f} s; is the "
            "cluster's head node well (ray status)?"
        ) from None
    except ActorUnavailableError as error:
        raise FleetError(f"fleet {name}: its controller is being restarted: {error}") from error
    except RayActorError as error:
        raise FleetError(
            f"fleet {name}: its controller ended, or cannot run on the head node "
            f"({str(error).strip().splitlines()[-1]}): headrace[server,ray]=={release()} must be "
            "installed on every node of the cluster"
        ) from error
    return found


def _check_reachable(address: str) -> None:
    """Says at once what Ray would find out in a minute. Raises FleetError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise FleetError(
            f"no Ray cluster at {address}: {error}. The address is that of the head node, by "
            "default its port 6379 (ray start --head)"
        ) from error
