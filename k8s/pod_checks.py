"""What every pod of ours must be: unprivileged, read-only, and made of things that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath

from k8s.manifests import Container, Finding, Tree, quantity

IMAGE_PREFIX = "headrace-"
# What an init container may run beside our own console scripts.
SYSTEM_COMMANDS = ("cp",)
# Environment variables that name a folder the process writes to.
WRITTEN_FOLDERS = ("NUMBA_CACHE_DIR", "TMPDIR", "HOME")


def unprivileged(tree: Tree) -> Iterator[Finding]:
    """No container runs as root, writes to its image, or talks to the API server."""
    for container in tree.containers():
        yield from _identity(container)
        context = container.body.get("securityContext", {})
        path = f"{container.path}.securityContext"
        dropped = context.get("capabilities", {}).get("drop")
        required = (
            ("readOnlyRootFilesystem", context.get("readOnlyRootFilesystem"), True),
            ("allowPrivilegeEscalation", context.get("allowPrivilegeEscalation"), False),
            ("capabilities.drop", dropped, ["ALL"]),
        )
        for field, value, wanted in required:
            if value != wanted:
                yield Finding(container.file, f"{path}.{field}", value, f"set it to {wanted}")
        # An absent field is as bad as a wrong one: the platform's defaults are the open ones.
        for field in ("automountServiceAccountToken", "enableServiceLinks"):
            if container.pod.get(field) is not False:
                yield Finding(
                    container.file,
                    f"spec.template.spec.{field}",
                    container.pod.get(field),
                    "set it to False: no pod of ours needs it",
                )


def _identity(container: Container) -> Iterator[Finding]:
    pod = container.pod.get("securityContext", {})
    own = container.body.get("securityContext", {})
    user, non_root = (own.get(field, pod.get(field)) for field in ("runAsUser", "runAsNonRoot"))
    profile = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
    path = "spec.template.spec.securityContext"
    if non_root is not True:
        yield Finding(container.file, f"{path}.runAsNonRoot", non_root, "set it to True")
    if not isinstance(user, int) or user == 0:
        yield Finding(
            container.file,
            f"{path}.runAsUser",
            user,
            f"{container.path} would run as root; set a numeric user other than 0 (65532)",
        )
    if profile != "RuntimeDefault":
        yield Finding(
            container.file, f"{path}.seccompProfile.type", profile, "set it to RuntimeDefault"
        )


def bounded(tree: Tree) -> Iterator[Finding]:
    """Every container asks for cores and memory, and has limits for both."""
    for container in tree.containers():
        for kind in ("requests", "limits"):
            given = container.body.get("resources", {}).get(kind, {})
            for resource in ("cpu", "memory"):
                try:
                    quantity(given.get(resource))
                except ValueError:
                    field = f"{container.path}.resources.{kind}.{resource}"
                    example = "6Gi" if resource == "memory" else "4"
                    yield Finding(
                        container.file, field, given.get(resource), f"state it, as in {example}"
                    )


def images(tree: Tree) -> Iterator[Finding]:
    """Every image has a Dockerfile and a pinned tag."""
    for container in tree.containers():
        name, _, tag = str(container.body.get("image", "")).rpartition(":")
        short = name.rpartition("/")[2]
        field = f"{container.path}.image"
        dockerfile = _dockerfile(container)
        if not name or tag == "latest":
            yield Finding(
                container.file,
                field,
                container.body.get("image"),
                "pin a tag under images: in kustomization.yaml",
            )
        elif not short.startswith(IMAGE_PREFIX) or not (tree.root / dockerfile).is_file():
            yield Finding(
                container.file,
                field,
                container.body["image"],
                f"there is no {dockerfile}; use an image that this repository builds",
            )


def commands(tree: Tree) -> Iterator[Finding]:
    """Every command is a console script of ours, or a program of the repository."""
    project = tomllib.loads((tree.root / "pyproject.toml").read_text())["project"]
    scripts = set(project["scripts"])
    for container in tree.containers():
        command = container.command
        if command and command[0] in scripts:
            continue
        if container.starts_first and command and command[0] in SYSTEM_COMMANDS:
            continue
        if command[:1] == ("python",) and len(command) > 1 and (tree.root / command[1]).is_file():
            continue
        yield Finding(
            container.file,
            f"{container.path}.command",
            " ".join(command),
            f"it is neither a console script ({', '.join(sorted(scripts))}) nor python and a "
            "file of this repository",
        )


def writable_folders(tree: Tree) -> Iterator[Finding]:
    """What a process writes to lies in an emptyDir; /tmp is one."""
    for container in tree.containers():
        mounts = container.mounts("emptyDir")
        folders = {
            name: folder
            for name, folder in tree.environment(container).items()
            if name in WRITTEN_FOLDERS
        }
        if not container.starts_first:
            folders["/tmp"] = "/tmp"  # noqa: S108 - a mount path, not a file of this program
        for name, folder in folders.items():
            if not any(PurePosixPath(folder).is_relative_to(mount) for mount in mounts):
                yield Finding(
                    container.file,
                    f"{container.path}.volumeMounts",
                    sorted(mounts),
                    f"{name} ({folder}) is on the read-only root; mount an emptyDir there",
                )


def kernel_caches(tree: Tree) -> Iterator[Finding]:
    """Every process finds the kernels that were compiled with its image, where it can write."""
    for container in tree.containers():
        dockerfile = tree.root / _dockerfile(container)
        if container.starts_first or not dockerfile.is_file():
            continue
        baked = re.search(r"\bNUMBA_CACHE_DIR=(\S+)", dockerfile.read_text())
        folder = tree.environment(container).get("NUMBA_CACHE_DIR")
        earlier = [
            other
            for other in tree.containers()
            if other.starts_first and other.document is container.document
        ]
        if baked is None:
            yield Finding(
                dockerfile.name,
                "NUMBA_CACHE_DIR",
                None,
                "set it, and compile the kernels into it, or every start compiles them anew",
            )
        elif folder is None:
            yield Finding(
                container.file,
                f"{container.path}.env[NUMBA_CACHE_DIR]",
                None,
                "name an emptyDir, or every start compiles the kernels anew",
            )
        elif not any(_hands_on(other, f"{baked[1]}/.", container, folder) for other in earlier):
            yield Finding(
                container.file,
                "spec.template.spec.initContainers",
                [" ".join(other.command) for other in earlier],
                f"copy {baked[1]}/. of {container.body['image']} to the volume at {folder} "
                f"of {container.path}, or every start compiles the kernels anew",
            )


def _hands_on(first: Container, source: str, then: Container, folder: str) -> bool:
    """Whether an init container copies source to the volume that another mounts at folder."""
    if first.body["image"] != then.body["image"] or first.command[-2:-1] != (source,):
        return False
    copied_to = first.mounts("emptyDir").get(first.command[-1])
    mounted = then.mounts("emptyDir").get(folder)
    return copied_to is not None and mounted is not None and copied_to["name"] == mounted["name"]


def _dockerfile(container: Container) -> str:
    """The Dockerfile that a container's image would be built from."""
    name = str(container.body.get("image", "")).rpartition(":")[0].rpartition("/")[2]
    return f"Dockerfile.{name.removeprefix(IMAGE_PREFIX)}"
