"""What must agree between the server's settings and the manifests around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from k8s.manifests import Container, Finding, Node, Tree, quantity
from preprocessor_server.errors import SettingsError
from preprocessor_server.settings import ENV_PREFIX, MIB, Settings

SERVICE_NAMES = ("", "headrace.v1.PreprocessorService")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
ALL_INTERFACES = ("0.0.0.0", "[::]")  # noqa: S104 - what a pod must listen on
# After the drain: up to 5 s to cancel what did not end, and as much for the process to exit.
EXIT_MARGIN_S = 10
# Interpreter, libraries, thread stacks, compiled plans: measured at 260 MiB idle.
PROCESS_BYTES = 512 * MIB
# A batch being encoded is in memory as arena and as message; one of a stream as the message being
# sent, the transport's copy of it, and the next one.
ENCODE_FACTOR = 2
STREAM_FACTOR = 3


def known_settings(tree: Tree) -> Iterator[Finding]:
    """There is a server; each of its HEADRACE_ variables is a setting, with a value that parses."""
    if not list(tree.servers()):
        yield Finding(
            "k8s/base", "containers", None, "none runs preprocessor-server: there is no fleet"
        )
    for server in tree.servers():
        maps = list(tree.config_maps(server))
        file = maps[0].file if maps else server.file
        given = _given(tree, server)
        for name in sorted(set(given) - Settings.env_names()):
            yield Finding(
                file,
                name,
                given.pop(name),
                f"no such setting; settings are {', '.join(sorted(Settings.env_names()))}",
            )
        try:
            _parse(given)
        except SettingsError as error:
            yield Finding(file, "settings", str(error), "give it a value within its bounds")


def probe_ports(tree: Tree) -> Iterator[Finding]:
    """Every probe asks a health service that there is, at a port where it answers in plain text."""
    for server, settings in _parsed(tree):
        host, _, port = settings.listen.rpartition(":")
        if host not in ALL_INTERFACES:
            yield Finding(
                _settings_file(tree, server),
                f"{ENV_PREFIX}LISTEN",
                settings.listen,
                "probes and trainers come from outside the pod: listen on 0.0.0.0",
            )
        variable = f"{ENV_PREFIX}LISTEN"
        if settings.tls_cert or settings.health_listen:
            variable = f"{ENV_PREFIX}HEALTH_LISTEN"
            host, _, port = settings.health_listen.rpartition(":")
            if host not in ALL_INTERFACES:
                yield Finding(
                    _settings_file(tree, server),
                    variable,
                    settings.health_listen,
                    "probes speak no TLS: have health answer in plain text on 0.0.0.0:50052",
                )
                continue
        listens = int(port) if port.isdigit() else None
        for name in PROBES:
            path = f"{server.path}.{name}.grpc"
            probe = server.body.get(name, {}).get("grpc")
            if probe is None:
                yield Finding(server.file, path, None, f"add a gRPC probe on port {port}")
                continue
            if probe.get("port") != listens:
                yield Finding(
                    server.file,
                    f"{path}.port",
                    probe.get("port"),
                    f"the server listens on {port} ({variable}): set it to {port}",
                )
            if probe.get("service", "") not in SERVICE_NAMES:
                yield Finding(
                    server.file,
                    f"{path}.service",
                    probe["service"],
                    f"the server reports on {SERVICE_NAMES[0]!r} and {SERVICE_NAMES[1]!r}",
                )


def container_ports(tree: Tree) -> Iterator[Finding]:
    """The ports grpc, health and metrics are those that the settings name."""
    for server, settings in _parsed(tree):
        ports = {port.get("name"): port for port in server.body.get("ports", ())}
        wanted = {
            "grpc": settings.listen,
            "health": settings.health_listen,
            "metrics": settings.metrics_listen,
        }
        for name, address in wanted.items():
            port = address.rpartition(":")[2]
            value = ports.get(name, {}).get("containerPort")
            if str(value) != port and (port or value is not None):
                yield Finding(
                    server.file,
                    f"{server.path}.ports[{name}].containerPort",
                    value,
                    f"the server listens on {address or 'no such port'}: make them agree",
                )


def grace_time(tree: Tree) -> Iterator[Finding]:
    """A pod gets the time that its preStop and its drain may take."""
    for server, settings in _parsed(tree):
        sleep = server.body.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds")
        path = "spec.template.spec.terminationGracePeriodSeconds"
        if sleep is None:
            yield Finding(
                server.file,
                f"{server.path}.lifecycle.preStop.sleep.seconds",
                None,
                "wait some seconds, or new streams still come while the server drains",
            )
            continue
        grace = server.pod.get("terminationGracePeriodSeconds", 30)
        needed = sleep + settings.drain_timeout_s + EXIT_MARGIN_S
        if grace < needed:
            yield Finding(
                server.file,
                path,
                grace,
                f"streams would be killed while they drain: preStop {sleep} s + "
                f"{ENV_PREFIX}DRAIN_TIMEOUT_S {settings.drain_timeout_s:g} s + {EXIT_MARGIN_S} s "
                f"to exit need {needed:g} s",
            )


def memory_need(settings: Settings) -> dict[str, int]:
    """What the settings let a server process use, in bytes, by what for."""
    message = settings.max_message_bytes
    return {
        "process": PROCESS_BYTES,
        "read_ahead_bytes": settings.read_ahead_bytes,
        "snapshot_cache_bytes": settings.snapshot_cache_bytes,
        f"cpu_threads x {ENCODE_FACTOR} messages": settings.cpu_threads * ENCODE_FACTOR * message,
        f"max_streams x {STREAM_FACTOR} messages": settings.max_streams * STREAM_FACTOR * message,
    }


def resources(tree: Tree) -> Iterator[Finding]:
    """The memory limit holds what the settings allow, and threads are no more than cores."""
    for server, settings in _parsed(tree):
        limits = server.body.get("resources", {}).get("limits", {})
        needs = memory_need(settings)
        if quantity(limits.get("memory", "0")) < sum(needs.values()):
            terms = " + ".join(f"{what} {size // MIB} MiB" for what, size in needs.items())
            yield Finding(
                server.file,
                f"{server.path}.resources.limits.memory",
                limits.get("memory"),
                f"the settings allow {terms} = {sum(needs.values()) // MIB} MiB; raise the limit "
                "or lower them",
            )
        if f"{ENV_PREFIX}CPU_THREADS" not in _given(tree, server):
            yield Finding(
                _settings_file(tree, server),
                f"{ENV_PREFIX}CPU_THREADS",
                None,
                "state it: the default is the cores of the node, not of the pod",
            )
        elif settings.cpu_threads > quantity(limits.get("cpu", "0")):
            yield Finding(
                _settings_file(tree, server),
                f"{ENV_PREFIX}CPU_THREADS",
                settings.cpu_threads,
                f"the pod has {limits.get('cpu')} cores: more threads are throttled",
            )


def data_roots(tree: Tree) -> Iterator[Finding]:
    """Every data root is a volume that is mounted read-only."""
    for server in tree.servers():
        mounts = {m["mountPath"]: m for m in server.body.get("volumeMounts", ())}
        for root in _given(tree, server).get(f"{ENV_PREFIX}DATA_ROOT", "").split(os.pathsep):
            under = [m for m in mounts if PurePosixPath(root).is_relative_to(m)]
            mount = mounts[max(under, key=len)] if under else {}
            if mount.get("readOnly") is not True:
                yield Finding(
                    server.file,
                    f"{server.path}.volumeMounts",
                    sorted(mounts),
                    f"mount a volume at {root} ({ENV_PREFIX}DATA_ROOT), with readOnly: true",
                )


def certificates(tree: Tree) -> Iterator[Finding]:
    """The files of TLS lie in a Secret that is mounted read-only."""
    for server, settings in _parsed(tree):
        mounts = server.mounts("secret")
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            file = getattr(settings, name)
            folder = mounts.get(str(PurePosixPath(file).parent), {})
            if file and folder.get("readOnly") is not True:
                yield Finding(
                    server.file,
                    f"{server.path}.volumeMounts",
                    sorted(mounts),
                    f"mount a Secret at {PurePosixPath(file).parent} ({ENV_PREFIX}{name.upper()}), "
                    "with readOnly: true",
                )


def selectors(tree: Tree) -> Iterator[Finding]:
    """The Service and the disruption budget choose the servers; trainers name the Service."""
    targets = set()
    for server in tree.servers():
        ports = {port.get("name"): port["containerPort"] for port in server.body.get("ports", ())}
        for service in tree.of_kind("Service"):
            spec = service.body["spec"]
            yield from _matches(service.file, "spec.selector", spec.get("selector"), server)
            if spec.get("clusterIP") != "None" or spec.get("publishNotReadyAddresses"):
                yield Finding(
                    service.file,
                    "spec.clusterIP",
                    spec.get("clusterIP"),
                    "set clusterIP: None and publishNotReadyAddresses: false, so that the name "
                    "resolves to every server that is ready",
                )
            for port in spec.get("ports", ()):
                target = port.get("targetPort", port["port"])
                # A headless name resolves to pods, so no port is translated on the way.
                if ports.get(target, target) != port["port"] or port["port"] not in ports.values():
                    yield Finding(
                        service.file,
                        f"spec.ports[{port.get('name')}].port",
                        port["port"],
                        f"the server's ports are {ports}",
                    )
                targets.add(f"dns:///{service.name}:{port['port']}")
        for budget in tree.of_kind("PodDisruptionBudget"):
            labels = budget.body["spec"].get("selector", {}).get("matchLabels")
            yield from _matches(budget.file, "spec.selector.matchLabels", labels, server)
    for container in tree.containers():
        named = [word for word in container.command if word.startswith("dns:///")]
        for target in named:
            if target not in targets:
                yield Finding(
                    container.file,
                    f"{container.path}.command",
                    target,
                    f"no Service has that name and port; there is {', '.join(sorted(targets))}",
                )


def _matches(file: str, field: str, labels: Node | None, server: Container) -> Iterator[Finding]:
    if not labels or not labels.items() <= server.labels.items():
        yield Finding(
            file, field, labels, f"it does not choose the pods of {server.file}: {server.labels}"
        )


def _given(tree: Tree, server: Container) -> dict[str, str]:
    variables = tree.environment(server)
    return {name: value for name, value in variables.items() if name.startswith(ENV_PREFIX)}


def _settings_file(tree: Tree, server: Container) -> str:
    for document in tree.config_maps(server):
        return document.file
    return server.file


def _parse(given: dict[str, str]) -> Settings:
    """The settings, with a data root that this machine has. Raises SettingsError."""
    root = {f"{ENV_PREFIX}DATA_ROOT": os.sep} if f"{ENV_PREFIX}DATA_ROOT" in given else {}
    return Settings.from_env({**given, **root})


def _parsed(tree: Tree) -> Iterator[tuple[Container, Settings]]:
    """The servers whose settings parse; known_settings reports the others."""
    for server in tree.servers():
        known: dict[str, Any] = {
            name: value
            for name, value in _given(tree, server).items()
            if name in Settings.env_names()
        }
        try:
            yield server, _parse(known)
        except SettingsError:
            continue
