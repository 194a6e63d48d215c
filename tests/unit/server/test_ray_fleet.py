"""What a fleet on Ray is made of, where its replicas may be, and what is said without a cluster."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import ray.cloudpickle

from preprocessor_server.errors import FleetError, SettingsError
from preprocessor_server.fleet.controller import Controller
from preprocessor_server.fleet.nodes import kept_free, lack_of_room, selector
from preprocessor_server.fleet.operations import HEAD
from preprocessor_server.fleet.spec import NAMESPACE, FleetSpec, release, wrong_release
from tests.fakes.process import python_environment
from trainer_client import RayFleet, RequestError
from trainer_client.transport import on_ray


def node(name: str, *, alive: bool = True, **resources: Any) -> dict[str, Any]:
    address = f"10.0.0.{name}"
    return {"NodeID": name, "Alive": alive, "NodeManagerAddress": address, "Resources": resources}


NODES = [
    node("1", CPU=4.0),
    node("2", CPU=8.0, GPU=1.0),
    node("3", CPU=8.0, TPU=4.0),
    {**node("4"), "Resources": {"CPU": 2.0, "accelerator_type:X1": 1.0}},
    node("5", alive=False, CPU=64.0, GPU=8.0),
]


def test_nodes_with_accelerators_are_kept_free_unless_that_is_allowed() -> None:
    kept = kept_free(NODES, allow_gpu_nodes=False)
    assert kept == {"2", "3", "4"}
    assert selector(kept) == {"ray.io/node-id": "!in(2,3,4)"}
    assert kept_free(NODES, allow_gpu_nodes=True) == frozenset()
    assert selector(frozenset()) == {}


def test_lack_of_room_says_what_is_asked_what_there_is_and_the_way_out() -> None:
    text = lack_of_room(NODES, 5.0, 8.0, allow_gpu_nodes=False)
    for word in ("asks for 8 CPU on a node without GPU", "no node has that many", "5 CPU of all"):
        assert word in text
    assert "10.0.0.1 with 4 CPU, 10.0.0.2 with 8 CPU (has a GPU, kept free)" in text
    assert "10.0.0.5" not in text
    assert "allow_gpu_nodes" in text
    allowed = lack_of_room(NODES, 0.0, 8.0, allow_gpu_nodes=True)
    assert "all of those are taken" in allowed
    assert "allow_gpu_nodes" not in allowed
    many = lack_of_room([node(str(n), CPU=1.0) for n in range(20)], 0.0, 1.0, allow_gpu_nodes=True)
    assert "and 12 more" in many


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a b"}, "fleet name 'a b'"),
        ({"name": ""}, "fleet name ''"),
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": True}, "replicas is True"),
        ({"cpus": 1.5}, "cpus is 1.5"),
        ({"cpus": 0}, "cpus is 0"),
        ({"settings": {"listen": "0.0.0.0:1"}}, "listen cannot be set"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(FleetError, match=words):
        FleetSpec(**{"name": "a", "replicas": 1, **fields})


def test_settings_hold_on_every_node() -> None:
    spec = FleetSpec("a", 1, cpus=3, settings={"data_root": ("/",), "max_streams": 7})
    settings = FleetSpec(**spec.to_dict()).settings_on("10.0.0.1")
    assert (settings.listen, settings.cpu_threads, settings.max_streams) == ("10.0.0.1:0", 3, 7)
    assert spec.settings_on("fe80::1").listen == "[fe80::1]:0"
    for given, words in (
        ({"data_root": ("/nowhere",)}, "/nowhere is not a folder"),
        ({"data_root": ("/",), "cpu_thread": 1}, "no such setting: cpu_thread"),
        ({}, "--data-root"),
    ):
        with pytest.raises(SettingsError, match=words):
            FleetSpec("a", 1, settings=given).settings_on("10.0.0.1")


def test_another_release_is_named_with_the_way_out() -> None:
    assert wrong_release(FleetSpec("a", 1), "node 10.0.0.1") == ""
    text = wrong_release(FleetSpec("a", 1, release="0.0.7"), "node 10.0.0.1")
    for word in ("node 10.0.0.1", f"headrace {release()}", "headrace[server,ray]==0.0.7"):
        assert word in text


LOADS = """
import pickle, sys
sys.modules["trainer_client"] = None
print(pickle.load(sys.stdin.buffer).__name__)
"""


def test_both_sides_mean_the_same_actor() -> None:
    proxy = on_ray._controller_class()

    def calls(cls: type) -> dict[str, list[str]]:
        found = inspect.getmembers(cls, inspect.iscoroutinefunction)
        return {
            name: list(inspect.signature(call).parameters)
            for name, call in found
            if not name.startswith("_")
        }

    assert calls(proxy) == calls(Controller)
    # Its code travels: nodes of the cluster need no trainer_client.
    done = subprocess.run(
        [sys.executable, "-c", LOADS],
        input=ray.cloudpickle.dumps(proxy),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"Controller\n"
    assert (on_ray.NAMESPACE, on_ray.HEAD) == (NAMESPACE, HEAD)
    assert (Controller.__module__, Controller.__name__) == on_ray.CONTROLLER
    recipe = RayFleet(replicas=3, cpus=1, data_root=["/", "."], settings={"max_streams": 5})
    spec = FleetSpec(**recipe.spec("a", release()))
    assert (spec.replicas, spec.settings["max_streams"], spec.settings["log_level"]) == (
        *(3, 5),
        "warning",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": 1, "data_root": ""}, "data_root is ''"),
        ({"replicas": 1, "data_root": []}, r"data_root is \[\]"),
        ({"replicas": 1, "settings": {"data_root": "/"}}, "data_root= beside it"),
    ],
)
def test_a_wrong_recipe_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        RayFleet(**fields)


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from preprocessor_server.errors import FleetError
from preprocessor_server.fleet.operations import cluster
from trainer_client import BatchStream, Dataset, DeploymentError, Label, parquet
try:
    with cluster():
        pass
except FleetError as error:
    print(error)
try:
    next(iter(BatchStream(Dataset(parquet("x"), [Label("y")]), target="ray:///a", batch_size=1)))
except DeploymentError as error:
    print(error)
"""


def test_without_ray_both_sides_name_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count("pip install 'headrace[ray]'") == 2
