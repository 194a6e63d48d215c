"""The example, run as a user runs it, on small made-up tables: figures, picture, ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.examples.synthetic_movielens import write_raw_files

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_movielens.py"
TIMEOUT_S = 100

# Writes the Parquet with the example's own code, in a process of its own like `--prepare`.
WRITE = """
import sys
from pathlib import Path
from movielens_data import write_dataset
from movielens_raw import read_folder
write_dataset(read_folder(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "proto"), str(ROOT), str(ROOT / "examples")])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def write_data(folder: Path, *, items_decide: bool = False) -> Path:
    write_raw_files(folder, items_decide=items_decide)
    command = [sys.executable, "-c", WRITE, str(folder), str(folder / "data")]
    subprocess.run(command, check=True, env=environment(), timeout=TIMEOUT_S)
    return folder / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("movielens"))


def arguments(data: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--data", str(data), "--batch-size", "64", *more]


@contextmanager
def started(command: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=TIMEOUT_S)


def processes_that_hold(marker: str) -> list[int]:
    """The processes whose environment holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                content = (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if marker.encode() in content:
                found.append(int(entry.name))
    return found


def test_the_demo_prints_its_figures_and_draws_its_picture(data: Path, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.png"
    command = arguments(data, "--seeds", "1", "--epochs", "8", "--report", str(report))
    with started(command, tmp_path) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert err == ""
    assert re.search(r"training +[\d,]+ examples/s, the trainer waited [\d.]+% of the time", out)
    for name in ("with history", "history emptied", "item-mean baseline"):
        assert re.search(rf"{name} +test AUC 0\.\d{{4}}", out)
    lift = re.search(r"lift over baseline +([+-][\d.]+)", out)
    assert lift is not None
    assert float(lift[1]) >= 0.02
    assert report.read_bytes().startswith(b"\x89PNG")


def test_a_goal_that_is_not_reached_is_a_failure(tmp_path: Path) -> None:
    # Where the baseline knows everything, nothing can beat it.
    data = write_data(tmp_path, items_decide=True)
    command = arguments(data, "--seeds", "1", "--epochs", "1")
    with started(command, tmp_path) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "did not reach the goal" in err


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with started(arguments(tmp_path / "nowhere"), tmp_path) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert f"{tmp_path / 'nowhere'}" in err
    assert "Traceback" not in err


def test_ctrl_c_ends_it_and_its_servers(data: Path, tmp_path: Path) -> None:
    marker = f"DEMO_TEST_MARKER={tmp_path}"
    command = ["/usr/bin/env", marker, *arguments(data, "--epochs", "1000")]
    with started(command, tmp_path) as process:
        assert process.stdout is not None
        # Printed after the first pass over the data: training begins.
        assert "item-mean baseline" in process.stdout.readline()
        assert len(processes_that_hold(marker)) == 3
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, (out, err)
    assert err == "interrupted\n"
    assert processes_that_hold(marker) == []
