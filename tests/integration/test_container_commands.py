"""Each container's very command, with its environment, runs here: as another user, on a read-only
root, with nothing installed but what its image installs.

Only what has to be is replaced: folders, ports, and the name that trainers resolve.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from k8s.manifests import Container, Tree, build
from tests.integration.container_sandbox import Process, Sandbox, confinement

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = {"headrace", "preprocessor_server", "trainer_client"}
# What the startup probe grants: 30 tries, two seconds apart.
SERVING_WITHIN_S = 60.0
TRAINER_TIMEOUT_S = 90.0
BUILD_TIMEOUT_S = 60.0
# Modules that the image does not install are not found.
FENCE = """
import os, sys
from importlib.machinery import PathFinder

class Fence(PathFinder):
    absent = frozenset(os.environ["MODULES_NOT_IN_THE_IMAGE"].split(","))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.absent:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Fence
"""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the images are built for amd64"),
]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return build(ROOT, ("k8s/base", "k8s/trainer"))


@pytest.fixture(scope="module")
def sandbox(tree: Tree) -> Iterator[Sandbox]:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="headrace-container-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (container, *_) = tree.servers()
        identity = container.pod["securityContext"]
        yield Sandbox(confinement(folder, identity["runAsUser"], identity["runAsGroup"]), folder)


def _container(tree: Tree, name: str) -> Container:
    (found,) = (container for container in tree.containers() if container.body["name"] == name)
    return found


def _dockerfile(container: Container) -> list[list[str]]:
    """The instructions of a container's Dockerfile, as words."""
    image = container.body["image"].rpartition(":")[0].removeprefix("headrace-")
    text = (ROOT / f"Dockerfile.{image}").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def _environment(tree: Tree, container: Container, folder: Path, **replaced: str) -> dict[str, str]:
    """The variables that image and manifests set, with those replaced that this machine needs."""
    instructions = _dockerfile(container)
    (fence := folder / "fence").mkdir(exist_ok=True)
    (fence / "sitecustomize.py").write_text(FENCE)
    here = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(fence), str(ROOT / "proto"), str(ROOT)]),
        "MODULES_NOT_IN_THE_IMAGE": ",".join(sorted(_not_installed(instructions))),
    }
    image = dict(
        word.split("=", 1) for words in instructions if words[0] == "ENV" for word in words[1:]
    )
    variables = {**image, **tree.environment(container)}
    assert replaced.keys() <= variables.keys() | {"HOME", "TMPDIR"}
    return {**variables, **replaced, **here}


def _not_installed(instructions: list[list[str]]) -> set[str]:
    """The modules of this environment that an image's `pip install` does not bring."""
    words = [word for line in instructions if "pip" in line and line[0] == "RUN" for word in line]
    (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(words))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    lines += words[words.index(f".[{extra}]") + 1 :]
    pending = [Requirement(line) for line in lines]
    installed: set[str] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name not in installed and (not requirement.marker or requirement.marker.evaluate()):
            installed.add(name)
            pending += map(Requirement, metadata.requires(name) or ())
    side = {"server": "preprocessor_server", "trainer": "trainer_client"}[extra]
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not {canonicalize_name(each) for each in distributions} & installed
        and module not in OWN_PACKAGES
    } | (OWN_PACKAGES - {"headrace", side})


def _start_server(tree: Tree, sandbox: Sandbox, data: Path, kernels: Path) -> Process:
    server = _container(tree, "server")
    tmp = str(sandbox.emptied(f"tmp-{data.name}"))
    environment = _environment(
        tree,
        server,
        sandbox.folder,
        HEADRACE_LISTEN="127.0.0.1:0",
        HEADRACE_METRICS_LISTEN="127.0.0.1:0",
        HEADRACE_DATA_ROOT=str(data),
        NUMBA_CACHE_DIR=str(kernels),
        TMPDIR=tmp,
        HOME=tmp,
    )
    assert "torch" in environment["MODULES_NOT_IN_THE_IMAGE"].split(",")
    return sandbox.start(server.command, environment)


def _await_serving(process: Process) -> str:
    """Waits as a probe does, on the health service; returns the address."""
    left_s = process.began + SERVING_WITHIN_S - time.monotonic()
    address = str(process.await_event("listening", left_s)["address"])
    left_s = process.began + SERVING_WITHIN_S - time.monotonic()
    request = health_pb2.HealthCheckRequest(service="headrace.v1.PreprocessorService")
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        # The published stubs leave Watch out.
        statuses = stub.Watch(request, timeout=left_s)  # type: ignore[attr-defined]
        for response in statuses:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                break
        else:
            pytest.fail("the health service ended its answer without SERVING")
        statuses.cancel()
    return address


def _drain_timeout_s(tree: Tree) -> float:
    return float(tree.environment(_container(tree, "server"))["HEADRACE_DRAIN_TIMEOUT_S"])


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _run_init_container(
    tree: Tree, sandbox: Sandbox, container: Container, baked: Path, mounted: Path
) -> None:
    """Runs what goes before a container, with baked as its image's kernels, mounted as volume."""
    (init,) = (
        each for each in tree.containers() if each.starts_first and each.file == container.file
    )
    environment = _environment(tree, init, sandbox.folder)
    (mount,) = init.mounts("emptyDir")
    assert tree.environment(container)["NUMBA_CACHE_DIR"] == mount
    folders = {f"{environment['NUMBA_CACHE_DIR']}/.": f"{baked}/.", mount: str(mounted)}
    assert folders.keys() <= set(init.command)
    command = tuple(folders.get(word, word) for word in init.command)
    finished = sandbox.run(command, environment, timeout_s=10.0)
    assert finished.returncode == 0, finished.stderr
    assert _contents(mounted) == _contents(baked)


def _bake_kernels(tree: Tree, sandbox: Sandbox, container: Container, baked: Path) -> None:
    """Runs the line of a Dockerfile that compiles the kernels, with baked as the image's folder."""
    (line,) = (
        words
        for words in _dockerfile(container)
        if words[:2] == ["RUN", "python"] and "-c" in words
    )
    environment = _environment(tree, container, sandbox.folder, NUMBA_CACHE_DIR=str(baked))
    finished = sandbox.run(tuple(line[1:]), environment, BUILD_TIMEOUT_S)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert _contents(baked)


@dataclass(frozen=True)
class _Started:
    """A server that found no kernels, and has ended: what it said, how, and what it left."""

    steps: list[str]
    metrics: bytes
    status: int
    kernels: Path


@pytest.fixture(scope="module")
def first_start(tree: Tree, sandbox: Sandbox) -> _Started:
    """Compiles all kernels of the server, once for this file."""
    data, kernels = sandbox.emptied("first-data"), sandbox.emptied("first-kernels")
    process = _start_server(tree, sandbox, data, kernels)
    try:
        _await_serving(process)
        steps = [event["step"] for event in process.events("kernels")]
        port = process.await_event("metrics", 1.0)["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            metrics = answer.read()
        return _Started(steps, metrics, process.end(_drain_timeout_s(tree)), kernels)
    finally:
        process.close()


def test_server_with_an_empty_kernel_cache(first_start: _Started) -> None:
    assert any(step.startswith("compiling") for step in first_start.steps), first_start.steps
    assert b"headrace_server_streams" in first_start.metrics
    assert first_start.status == 0
    assert _contents(first_start.kernels)


def test_init_container_hands_on_the_kernels_of_the_image(
    tree: Tree, sandbox: Sandbox, first_start: _Started
) -> None:
    data, mounted = sandbox.emptied("data"), sandbox.emptied("mounted")
    baked = first_start.kernels
    _run_init_container(tree, sandbox, _container(tree, "server"), baked, mounted)

    process = _start_server(tree, sandbox, data, mounted)
    try:
        _await_serving(process)
        assert process.end(_drain_timeout_s(tree)) == 0
    finally:
        process.close()
    # A kernel that was compiled anew would have been added.
    assert _contents(mounted) == _contents(baked)


def test_trainer_trains_with_the_kernels_of_its_image(
    tree: Tree, sandbox: Sandbox, first_start: _Started
) -> None:
    data = sandbox.emptied("ratings")
    baked, mounted = sandbox.emptied("trainer-baked"), sandbox.emptied("trainer-mounted")
    trainer = _container(tree, "trainer")
    _bake_kernels(tree, sandbox, trainer, baked)
    _run_init_container(tree, sandbox, trainer, baked, mounted)
    folder = data / trainer.command[trainer.command.index("--data") + 1]
    _write_ratings(folder / "train", rows=2500, seed=1)
    _write_ratings(folder / "test", rows=500, seed=2)
    tmp = str(sandbox.emptied("tmp-trainer"))
    environment = _environment(
        tree, trainer, sandbox.folder, NUMBA_CACHE_DIR=str(mounted), TMPDIR=tmp, HOME=tmp
    )
    assert "pyarrow" in environment["MODULES_NOT_IN_THE_IMAGE"].split(",")

    process = _start_server(tree, sandbox, data, first_start.kernels)
    try:
        port = _await_serving(process).rpartition(":")[2]
        target = f"dns:///localhost:{port}"
        command = tuple(target if word.startswith("dns:///") else word for word in trainer.command)
        assert target in command
        logged = {**environment, "NUMBA_DEBUG_CACHE": "1"}
        finished = sandbox.run(command, logged, TRAINER_TIMEOUT_S)
        assert process.end(_drain_timeout_s(tree)) == 0
    finally:
        process.close()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "lift over baseline" in finished.stdout
    loaded = re.findall(r"^\[cache\] data loaded from '(.*)'$", finished.stdout, re.MULTILINE)
    assert {Path(name) for name in loaded} == set(mounted.rglob("*.nbc"))
    assert "[cache] data saved" not in finished.stdout


def _write_ratings(folder: Path, rows: int, seed: int) -> None:
    """Rows with the columns of the example. The user decides the label, so a model can learn it."""
    random = np.random.default_rng(seed)
    user = random.integers(0, 40, rows)
    item = random.integers(0, 200, rows)
    history = [random.integers(0, 200, length).tolist() for length in user % 5]
    table = pa.table(
        {
            "user_id": pa.array(user, pa.int64()),
            "item_id": pa.array(item, pa.int64()),
            "age": pa.array(20 + user, pa.int32()),
            "gender": ["F" if each % 3 else "M" for each in user],
            "occupation": [f"occupation {each % 7}" for each in user],
            "zip_prefix": [f"{each:02}" for each in user],
            "release_year": pa.array([1990 if each % 9 else None for each in item], pa.int32()),
            "genres": [["Drama", "War"] if each % 2 else ["Comedy"] for each in item],
            "user_rating_count": pa.array(random.integers(0, 99, rows), pa.int32()),
            "item_rating_count": pa.array(random.integers(0, 99, rows), pa.int32()),
            "history": pa.array(history, pa.list_(pa.int64())),
            "history_liked": pa.array([each[:2] for each in history], pa.list_(pa.int64())),
            "label": pa.array(user % 2, pa.int8()),
        }
    )
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-000.parquet", row_group_size=500)
