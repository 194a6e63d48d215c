"""The manifests as kustomize builds them, and the file that each of them is written in."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KUSTOMIZATIONS = ("k8s/base", "k8s/trainer", "k8s/tls")
KUBECTL_TIMEOUT_S = 60.0

_GENERATED_SUFFIX = re.compile(r"-[a-z0-9]{10}$")
_QUANTITY_FACTORS = {
    "m": 0.001,
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: in which file, at which field, what is there, and what to do."""

    file: str
    field: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} is {self.value!r}: {self.remedy}"


class BuildError(Exception):
    """The manifests cannot be built; finding says where and why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the cluster. file is where a person edits it, relative to the root."""

    file: str
    body: Node

    @property
    def kind(self) -> str:
        """The kind, as in Deployment."""
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        """The name, with the hash that kustomize gave it, if any."""
        return str(self.body["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod template. path is where it stands in its document."""

    document: Document
    pod: Node
    labels: Node
    path: str
    body: Node
    starts_first: bool

    @property
    def file(self) -> str:
        """Where a person edits it."""
        return self.document.file

    @property
    def command(self) -> tuple[str, ...]:
        """The words of its command and arguments."""
        return (*self.body.get("command", ()), *self.body.get("args", ()))

    @property
    def is_server(self) -> bool:
        """Whether it runs a Headrace server."""
        return self.command[:1] == ("preprocessor-server",)

    def mounts(self, kind: str) -> dict[str, Node]:
        """The mounts of volumes of a kind (emptyDir, ...), by mount path."""
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", ())}
        return {
            mount["mountPath"]: mount
            for mount in self.body.get("volumeMounts", ())
            if kind in volumes.get(mount["name"], {})
        }


@dataclass(frozen=True, slots=True)
class Tree:
    """All manifests of a checkout at root."""

    root: Path
    documents: tuple[Document, ...]

    def of_kind(self, kind: str) -> Iterator[Document]:
        """The documents of one kind."""
        return (document for document in self.documents if document.kind == kind)

    def containers(self) -> Iterator[Container]:
        """Every container of every pod template, those that start first included."""
        for document in self.documents:
            template = document.body.get("spec", {}).get("template")
            if template is None:
                continue
            labels = template.get("metadata", {}).get("labels", {})
            for group in ("initContainers", "containers"):
                for body in template["spec"].get(group, ()):
                    path = f"spec.template.spec.{group}[{body['name']}]"
                    yield Container(
                        document, template["spec"], labels, path, body, group == "initContainers"
                    )

    def servers(self) -> Iterator[Container]:
        """The containers that run a Headrace server."""
        return (container for container in self.containers() if container.is_server)

    def config_maps(self, container: Container) -> Iterator[Document]:
        """The ConfigMaps that a container takes its environment from."""
        by_name = {document.name: document for document in self.of_kind("ConfigMap")}
        for source in container.body.get("envFrom", ()):
            reference = source.get("configMapRef", {}).get("name")
            if reference in by_name:
                yield by_name[reference]

    def environment(self, container: Container) -> dict[str, str]:
        """The variables that a container's manifests set."""
        variables: dict[str, str] = {}
        for document in self.config_maps(container):
            variables |= document.body.get("data", {})
        for variable in container.body.get("env", ()):
            if "value" in variable:
                variables[variable["name"]] = str(variable["value"])
        return variables


def build(root: Path, kustomizations: Sequence[str] = KUSTOMIZATIONS) -> Tree:
    """Builds kustomizations under root.

    Raises BuildError if kubectl is missing or refuses one.
    """
    documents: list[Document] = []
    for folder in kustomizations:
        files = _files(root, folder)
        for body in yaml.safe_load_all(_kustomize(root, folder)):
            kind, name = body["kind"], body["metadata"]["name"]
            plain = _GENERATED_SUFFIX.sub("", name)
            file = files.get((kind, name)) or files.get((kind, plain))
            documents.append(Document(file or f"{folder}/kustomization.yaml", body))
    return Tree(root, tuple(documents))


def quantity(text: object) -> float:
    """A Kubernetes quantity ("6Gi", "500m") as a number. Raises ValueError if it is none."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if match is None or match[2] not in _QUANTITY_FACTORS:
        raise ValueError(f"{text!r} is not a quantity such as 6Gi or 500m")
    return float(match[1]) * _QUANTITY_FACTORS[match[2]]


def _kustomize(root: Path, folder: str) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise BuildError(
            Finding(
                folder,
                "kubectl",
                "not on PATH",
                "install it (https://kubernetes.io/docs/tasks/tools/); it needs no cluster",
            )
        )
    finished = subprocess.run(
        [kubectl, "kustomize", folder],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=KUBECTL_TIMEOUT_S,
        check=False,
    )
    if finished.returncode != 0:
        raise BuildError(
            Finding(
                f"{folder}/kustomization.yaml",
                "kubectl kustomize",
                finished.stderr.strip(),
                "mend what it names",
            )
        )
    return finished.stdout


def _files(root: Path, folder: str) -> dict[tuple[str, str], str]:
    """Which file holds the object of a kind and name."""
    kustomization = yaml.safe_load((root / folder / "kustomization.yaml").read_text())
    files: dict[tuple[str, str], str] = {}
    for resource in kustomization.get("resources", ()):
        path = root / folder / resource
        if path.is_file():
            for body in yaml.safe_load_all(path.read_text()):
                files[body["kind"], body["metadata"]["name"]] = f"{folder}/{resource}"
    for generator in kustomization.get("configMapGenerator", ()):
        for source in generator.get("envs", ()):
            files["ConfigMap", generator["name"]] = f"{folder}/{source}"
    return files
