"""Fleets on a Ray cluster of several nodes, and what trains and reads there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.fakes.parquet import ROW_COUNT, make_table
from tests.fakes.process import ROOT, ServerProcess
from tests.fakes.ray_cluster import RayCluster
from tests.fakes.ray_train_job import FATAL_STEP, SAVED_STEP, WORKERS
from tests.fakes.ray_trainer import RayTrainer
from tests.fakes.waiting import wait_until
from trainer_client import Dataset, Label, Sparse, ops, parquet

# Cold kernels and busy machines; what runs takes seconds.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]
LIMIT_S = 150
Ray = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster() as running:
        yield running


@pytest.fixture(scope="module")
def command(cluster: RayCluster) -> Ray:
    """Runs `preprocessor-server ray`."""

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "preprocessor_server", "ray", *arguments],
            env=cluster.environment() | extra,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return run


def status_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def pids_of(status: dict[str, Any]) -> set[int]:
    return {replica["pid"] for replica in status["replicas"]} - {0}


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


@pytest.fixture(scope="module")
def fleet(command: Ray, dataset_root: Path) -> Iterator[str]:
    """The name of a fleet that is there when programs look for it."""
    flags = ["--replicas=1", "--cpus=1", f"--data-root={dataset_root}"]
    assert command("up", "shared", *flags).returncode == 0
    yield "shared"
    assert command("down", "shared").returncode == 0


def test_an_epoch_goes_on_through_all_that_happens_to_a_fleet(
    cluster: RayCluster, command: Ray, dataset_root: Path
) -> None:
    flags = ["--cpus=1", f"--data-root={dataset_root}", "--json"]
    before = status_of(command("up", "homefeed", "--replicas=3", *flags))
    assert (before["serving"], before["detached"]) == (3, True)
    # Spread, and none where the GPU is.
    assert len({replica["node"] for replica in before["replicas"]}) == 3
    pids = pids_of(before)
    with RayTrainer(cluster.environment(), target="ray:///homefeed") as trainer:
        assert trainer.take(10) == 1000
        # A replica's process dies: Ray makes it anew.
        (victim, *_) = sorted(pids)
        os.kill(victim, signal.SIGKILL)
        assert trainer.take(10) == 1000
        # A machine dies, with what runs there.
        cluster.kill_node(1)
        assert trainer.take(10) == 1000
        larger = status_of(command("scale", "homefeed", "--replicas=4", "--json"))
        assert larger["serving"] == 4
        assert victim not in pids_of(larger)
        assert len({replica["node"] for replica in larger["replicas"]}) == 2
        assert trainer.take(10) == 1000
        pids |= pids_of(larger)
        smaller = status_of(command("scale", "homefeed", "--replicas=1", "--json"))
        assert (smaller["serving"], len(smaller["replicas"])) == (1, 1)
        assert trainer.take(10) == 1000
        # The controller dies, and its children with it; it remembers how many were wanted.
        os.kill(smaller["pid"], signal.SIGKILL)
        trainer.take(0)
        after = status_of(command("status", "homefeed", "--json"))
        assert (after["wanted"], after["pid"] != smaller["pid"]) == (1, True)
        pids |= pids_of(after) | {smaller["pid"], after["pid"]}
        assert sorted(trainer.ids) == list(range(ROW_COUNT))
    done = command("down", "homefeed")
    assert done.returncode == 0, done.stderr
    assert "1 replicas were drained" in done.stdout
    wait_until(lambda: not any(map(is_alive, pids)))
    assert "no fleet on this cluster" in command("status").stderr


def test_a_stream_starts_its_fleet_and_the_job_ends_it(
    cluster: RayCluster, command: Ray, dataset_root: Path
) -> None:
    recipe = {"replicas": 2, "cpus": 1, "data_root": str(dataset_root)}
    options = {"target": "ray:///own", "fleet": recipe}
    with (
        RayTrainer(cluster.environment(), **options) as first,
        RayTrainer(cluster.environment(), **options) as second,
    ):
        assert first.take(5) == 500
        assert second.take(5) == 500
        (fleet,) = command("status", "--json").stdout.splitlines()
        running = json.loads(fleet)
        assert (running["name"], running["wanted"], running["detached"]) == ("own", 2, False)
        # Whoever started it is gone: the one that is left starts it again.
        first.process.kill()
        first.process.wait()
        wait_until(lambda: not any(map(is_alive, pids_of(running))))
        second.take(0)
        assert sorted(second.ids) == list(range(ROW_COUNT))
        pids = pids_of(status_of(command("status", "own", "--json")))
        assert pids
        assert not pids & pids_of(running)
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: "no fleet on this cluster" in command("status").stderr)


def test_what_is_wrong_is_said_with_the_way_out(command: Ray, dataset_root: Path) -> None:
    roots = f"--data-root={dataset_root}"
    for arguments, words in [
        (["status", "nobody"], ["no fleet 'nobody'", "none", "ray up nobody"]),
        (["status", "--address=127.0.0.1:1"], ["no Ray cluster at 127.0.0.1:1", "6379"]),
        (["up", "x", "--replicas=1"], ["--data-root", "HEADRACE_DATA_ROOT"]),
        (["up", "x", "--replicas=1", roots, "--cpus=1.5"], ["cpus is 1.5", "whole number"]),
        (["up", "x y", "--replicas=1", roots], ["fleet name 'x y'"]),
        (["up", "x", "--replicas=1", roots, "--zstd-level=77"], ["--zstd-level=77: "]),
        (
            ["up", "x", "--replicas=1", "--data-root=/nowhere"],
            ["node ", "/nowhere is not a folder"],
        ),
        (
            ["up", "x", "--replicas=1", roots, "--cpus=3", "--timeout=2"],
            ["asks for 3 CPU on a node without GPU", "no node has that many", "allow_gpu_nodes"],
        ),
        (
            ["up", "x", "--replicas=9", roots, "--cpus=1", "--timeout=2"],
            ["of 9 replicas serve"],
        ),
    ]:
        done = command(*arguments)
        assert done.returncode in (1, 2), arguments
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr, done.stderr
    # What did not start has left nothing.
    assert "no fleet on this cluster" in command("status").stderr


def test_what_the_page_shows(cluster: RayCluster, dataset_root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(dataset_root)
    page, readme = (ROOT / "docs" / "ray.md").read_text(), (ROOT / "README.md").read_text()
    (shell,) = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (python,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (front_door,) = re.findall(r"^preprocessor-server ray .*\n", readme, re.MULTILINE)
    assert front_door in shell
    environment = cluster.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for command in (["bash", "-euc", shell], [sys.executable, "-c", python]):
        done = subprocess.run(
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert f"{ROW_COUNT} rows" in done.stdout


def run(cluster: RayCluster, *arguments: str) -> str:
    """What a program says last."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=cluster.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


def test_one_file_trains_on_the_same_bytes_whatever_its_target(
    cluster: RayCluster, fleet: str, dataset_root: Path, tmp_path: Path
) -> None:
    dataset = Dataset(
        source=parquet("rows"),
        features=[Sparse("id"), Sparse("seq", ops=[ops.Tail(5)]), Label("label")],
    )
    path = tmp_path / "dataset.yaml"
    path.write_text(dataset.to_yaml())
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}

    def program(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=cluster.environment() | alone,
            # A local server reads from where it is started.
            cwd=dataset_root,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with ServerProcess("--listen=127.0.0.1:0", f"--data-root={dataset_root}") as server:
        address = server.wait_for("listening")["address"]
        port = address.rpartition(":")[2]
        for name, target in {
            "local": "local://1",
            "static": f"static:///{address}",
            "dns": f"dns:///localhost:{port}",
            "ray": f"ray:///{fleet}",
        }.items():
            flags = [f"--target={target}", f"--ledger={tmp_path / name}", "--batch-size=256"]
            flags += [f"--checkpoint={tmp_path / name}.pt"]
            script = str(ROOT / "examples" / "train_torchrun.py")
            said = json.loads(program(script, str(path), *flags).splitlines()[-1])
            assert said["rows"] == ROW_COUNT
    for name in ("static", "dns", "ray"):
        ledgers = (str(tmp_path / "local"), str(tmp_path / name))
        said = json.loads(program("-m", "trainer_client", "verify", *ledgers, "--json"))
        assert (said["verdict"], said["differences"]) == ("same", [])


def test_ray_train_goes_on_where_it_was_saved(
    cluster: RayCluster, fleet: str, tmp_path: Path
) -> None:
    run(cluster, "-m", "tests.fakes.ray_train_job", str(tmp_path), fleet)
    steps = {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "ids").iterdir()
    }
    assert set(steps) == {"first-0", "first-1", "second-0", "second-1"}
    assert len(steps["first-1"]) == FATAL_STEP
    assert len(steps["second-0"]) == len(steps["second-1"])
    kept = [step for rank in range(WORKERS) for step in steps[f"first-{rank}"][:SAVED_STEP]]
    kept += [step for rank in range(WORKERS) for step in steps[f"second-{rank}"]]
    assert sorted(i for step in kept for i in step) == list(range(ROW_COUNT))


def test_the_example_stops_and_goes_on(cluster: RayCluster, fleet: str, tmp_path: Path) -> None:
    dataset = Dataset(
        source=parquet("rows"),
        features=[Sparse("seq", ops=[ops.Tail(5)]), Sparse("user"), Label("label")],
    )
    path = tmp_path / "dataset.yaml"
    path.write_text(dataset.to_yaml())
    flags = [str(path), f"--target=ray:///{fleet}", f"--storage={tmp_path}", "--batch-size=64"]
    script = "examples/ray_train/train.py"
    first = json.loads(run(cluster, script, *flags, "--stop-after=20"))
    assert (first["steps"], first["rows"]) == (20, 20 * 64 * 2)
    second = json.loads(run(cluster, script, *flags))
    assert second["steps"] > 20
    assert second["rows"] + second["left_out_rows"] == ROW_COUNT


def test_ray_data_has_every_row_once_though_a_task_is_repeated(
    cluster: RayCluster, fleet: str, tmp_path: Path
) -> None:
    program = ["-m", "tests.fakes.ray_data_job", str(tmp_path), fleet]
    rows = json.loads(run(cluster, *program))
    assert (tmp_path / "died").exists()
    table = make_table().to_pydict()
    expected = [
        [i, float(np.float32(table["price"][i])), table["seq"][i] or [], float(table["label"][i])]
        for i in range(ROW_COUNT)
    ]
    assert sorted(rows) == expected


def test_blocks_for_ray_data_are_large_and_in_one_piece() -> None:
    from trainer_client.integrations.ray_data import BLOCK_BYTES, joined

    part = BLOCK_BYTES // 8
    tables = [pa.table({"row": np.full(part // 8, number)}) for number in range(10)]
    blocks = list(joined(tables))
    assert [block.nbytes for block in blocks] == [8 * part, 2 * part]
    assert all(block.column("row").num_chunks == 1 for block in blocks)
    assert pa.concat_tables(blocks).equals(pa.concat_tables(tables))
