from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.fleet import FakeFleet, Script, Stall
from tests.unit.client.conftest import DATA, DATASET
from trainer_client.cli import server_figure

COMMAND = [sys.executable, "-m", "trainer_client", "pull"]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "my.yaml"
    path.write_text(DATASET.to_yaml())
    return str(path)


def environment(tmp_path: Path) -> dict[str, str]:
    paths = ":".join(sys.path)
    return {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "200"}


def pull(tmp_path: Path, *arguments: str, columns: str = "200") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=environment(tmp_path) | {"COLUMNS": columns},
    )


def test_json_gives_one_object_an_epoch(dataset: str, tmp_path: Path) -> None:
    with FakeFleet(DATA, 2) as fleet:
        options = ("--target", fleet.target, "--batch-size", "4", "--epochs", "2", "--json")
        done = pull(tmp_path, dataset, *options)
        assert (done.returncode, done.stderr) == (0, "")
        epochs = [json.loads(line) for line in done.stdout.splitlines()]
        assert [e["epoch"] for e in epochs] == [0, 1]
        for figures in epochs:
            assert figures["rows"] == DATA.row_count
            assert sum(s["rows"] for s in figures["servers"].values()) == DATA.row_count
            assert figures["examples_per_s"] > 0
            assert 0 <= figures["wait_share"] <= 1
        asked = {fleet.addresses[opened.server] for opened in fleet.opened}
        assert {address for figures in epochs for address in figures["servers"]} == asked


def test_people_get_a_summary_and_a_table(dataset: str, tmp_path: Path) -> None:
    with FakeFleet(DATA) as fleet:
        options = ("--target", fleet.target, "--batch-size", "4", "--metrics-listen", "127.0.0.1:0")
        done = pull(tmp_path, dataset, *options)
        assert done.returncode == 0, done.stderr
        assert f"epoch 0: {DATA.row_count} examples" in done.stdout
        assert fleet.addresses[0] in done.stdout
        assert "examples/s" in done.stderr
        assert "metrics on port" in done.stderr


def test_what_the_plan_notes_is_said_once(dataset: str, tmp_path: Path) -> None:
    with FakeFleet(replace(DATA, notes=("splits are few",))) as fleet:
        options = ("--target", fleet.target, "--batch-size", "4", "--epochs", "2", "--json")
        done = pull(tmp_path, dataset, *options)
        assert (done.returncode, done.stderr) == (0, "note: splits are few\n")


def test_the_bar_has_a_figure_for_each_server(dataset: str, tmp_path: Path) -> None:
    with FakeFleet(DATA, 3) as fleet:
        options = ("--target", fleet.target, "--batch-size", "4")
        done = pull(tmp_path, dataset, *options, columns="100")
        assert done.returncode == 0, done.stderr
        for address in fleet.addresses:
            assert re.search(rf"{address} [\d.]+k?/s", done.stderr)
        assert max(map(len, done.stderr.splitlines())) <= 100


def test_servers_have_short_names_and_figures() -> None:
    assert server_figure("unix:/tmp/headrace-0-123456789abc/server-0.sock", 20999.0) == (
        "server-0 21.0k/s"
    )
    assert server_figure("10.0.0.1:50051", 950.2) == "10.0.0.1:50051 950/s"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--target", "static:///127.0.0.1:1", "--timeout", "0.3"), 1, "127.0.0.1:1"),
        (("--target", "nowhere"), 1, "the forms are"),
        (("--target", "local://1", "--batch-size", "0"), 2, "--batch-size"),
        (("--target", "local://1", "--metrics-listen", "x"), 2, "--metrics-listen"),
        ((), 2, "--target"),
    ],
)
def test_errors_are_one_clean_message(
    dataset: str, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    done = pull(tmp_path, dataset, "--batch-size", "4", *options)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_bad_dataset_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("source: {}\nfeature: []\n")
    done = pull(tmp_path, str(path), "--target", "local://1", "--batch-size", "4")
    assert done.returncode == 1
    assert "bad.yaml: line 2" in done.stderr
    assert "features" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once(
    dataset: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with FakeFleet(DATA, script=Script(batches={(0, 0): [Stall()]})) as fleet:
        options = ("--target", fleet.target, "--batch-size", "4", "--json")
        with subprocess.Popen(
            [*COMMAND, dataset, *options],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path),
        ) as process:
            assert fleet.wait_for(lambda: bool(fleet.stalled), 40)
            process.send_signal(number)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == code
        assert "Traceback" not in errors
