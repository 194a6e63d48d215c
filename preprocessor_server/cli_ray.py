"""preprocessor-server ray: fleets on a Ray cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from preprocessor_server.cli import explained, settings_options
from preprocessor_server.fleet.spec import MAX_REPLICAS, OWN_SETTINGS, FleetSpec
from preprocessor_server.settings import ENV_PREFIX, Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_NAME = click.argument("name")
_ADDRESS = click.option(
    "--address",
    default="",
    help="host:port of the cluster's head node. Default: RAY_ADDRESS, else the cluster that runs "
    "on this machine.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
_TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(1), default=120.0, show_default=True,
    help="Seconds that replicas get to serve.",
)  # fmt: skip
_REPLICAS = click.option(
    "--replicas", type=click.IntRange(1, MAX_REPLICAS), required=True, help="Servers of the fleet."
)


@click.group()
def ray() -> None:
    """Run a fleet on a Ray cluster; trainers name it as ray:///NAME."""


def _replica_settings(command: Command) -> Command:
    return settings_options(command, but=OWN_SETTINGS)


@ray.command()
@_NAME
@_ADDRESS
@_REPLICAS
@click.option(
    "--cpus", type=float, default=2.0, show_default=True, help="CPUs that a replica reserves."
)
@click.option(
    "--allow-gpu-nodes", is_flag=True, help="Place replicas on nodes with GPUs (or TPUs …) too."
)
@_TIMEOUT
@_JSON
@_replica_settings
def up(
    name: str,
    address: str,
    replicas: int,
    cpus: float,
    allow_gpu_nodes: bool,
    timeout: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Start fleet NAME and wait until it serves. It lives on until `ray down`.

    Settings are those of `serve`, and hold on every node; the nodes' own HEADRACE_ variables do
    not count.
    """
    from preprocessor_server.fleet import operations

    with explained():
        spec = FleetSpec(
            name=name,
            replicas=replicas,
            cpus=cpus,
            settings=_given(flags),
            allow_gpu_nodes=allow_gpu_nodes,
            detached=True,
        )
        with operations.cluster(address):
            _show(operations.up(spec, timeout), as_json)


@ray.command()
@click.argument("name", required=False)
@_ADDRESS
@_JSON
def status(name: str | None, address: str, as_json: bool) -> None:
    """Show fleet NAME, or all: how many replicas serve, where they are, and what is wrong."""
    from preprocessor_server.fleet import operations

    with explained(), operations.cluster(address):
        names = [name] if name else operations.names()
        if not names:
            click.echo("no fleet on this cluster", err=True)
        for each in names:
            _show(operations.status(each), as_json)


@ray.command()
@_NAME
@_ADDRESS
@_REPLICAS
@_TIMEOUT
@_JSON
def scale(name: str, address: str, replicas: int, timeout: float, as_json: bool) -> None:
    """Change how many replicas fleet NAME has; those that leave are drained first."""
    from preprocessor_server.fleet import operations

    with explained(), operations.cluster(address):
        _show(operations.scale(name, replicas, timeout), as_json)


@ray.command()
@_NAME
@_ADDRESS
def down(name: str, address: str) -> None:
    """Drain fleet NAME and end it."""
    from preprocessor_server.fleet import operations

    with explained(), operations.cluster(address):
        ended = operations.down(name)
        click.echo(f"fleet {name} is down: {ended} replicas were drained and ended")


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings that flags and this environment give, checked as far as this machine can.

    Whether a data root exists is for each node to say.
    """
    names = set(Settings.model_fields) - set(OWN_SETTINGS)
    given: dict[str, Any] = {
        name: os.environ[variable]
        for name in names
        if (variable := ENV_PREFIX + name.upper()) in os.environ
    }
    given |= {name: value for name, value in flags.items() if value not in (None, ())}
    here = {**given, "data_root": ("/",)} if "data_root" in given else given
    Settings.from_env({}, **here)
    if isinstance(given["data_root"], str):
        given["data_root"] = given["data_root"].split(os.pathsep)
    # Of this process's working directory: the nodes' processes have another one.
    given["data_root"] = [os.path.abspath(root) for root in given["data_root"]]
    return given


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    life = "detached" if found["detached"] else "ends with its job"
    click.echo(
        f"fleet {found['name']}: {found['serving']} of {found['wanted']} replicas serve, "
        f"{found['cpus']:g} CPU each, {life}; target ray:///{found['name']}"
    )
    for replica in found["replicas"]:
        where = f"{replica['address']}  node {replica['node'][:12]}" if replica["address"] else ""
        click.echo(f"  {replica['state']:8}  {where}".rstrip())
    if found["problem"]:
        click.echo(f"  {found['problem']}")
