"""Caches on a disk without room: nothing is lost, and what cannot be kept is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import full_disk
from tests.fakes.parquet import ROW_COUNT
from tests.fakes.process import ROOT, python_environment
from trainer_client import Dataset, Label, parquet

LIMIT_S = 120
SCRIPT = """
import json, sys, warnings
from trainer_client import BatchStream, Dataset, HeadraceError
options = json.loads(sys.argv[2])
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    rows = 0
    try:
        with BatchStream(
            Dataset.from_yaml(sys.argv[1]), target="local://1", batch_size=500, **options
        ) as stream:
            rows = sum(batch.batch_size for batch in stream)
        error = ""
    except HeadraceError as failure:
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps({"rows": rows, "error": error, "said": [str(w.message) for w in said]}))
"""

COMPILE = """
import sys, warnings
from numba.core import event
from preprocessor_server.kernels import hashing as server
from trainer_client.kernels import unpacking as client
kernel = {"server": server._hash_strings, "client": client.place_buffers}[sys.argv[1]]
warnings.simplefilter("ignore")
with event.install_recorder("numba:compile") as recorder:
    kernel.compile()
started = [entry.data for _, entry in recorder.buffer if entry.is_start]
compiled = [(data["dispatcher"].py_func, data["args"]) for data in started]
print(len(compiled) - len(set(compiled)), getattr(kernel, "not_kept", "No space left on device"))
"""


def train(full: Path, dataset: Path, caches: list[str], **options: str) -> tuple[int, str, str]:
    """Rows trained on, the error, and the warnings; full is the folder of the full disk.

    caches are the variables that name it.
    """
    full.mkdir()
    program = [sys.executable, "-c", SCRIPT, str(dataset), json.dumps(options)]
    result = subprocess.run(
        [*full_disk.beside(full), *program],
        env=python_environment(**dict.fromkeys(caches, str(full))),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    if result.returncode == full_disk.UNMOUNTABLE:
        pytest.skip("no file system of its own can be mounted here")
    assert result.returncode == 0, result.stderr[-4000:]
    said = json.loads(result.stdout.splitlines()[-1])
    return said["rows"], said["error"], "\n".join(said["said"])


@pytest.fixture
def dataset(dataset_root: Path, tmp_path: Path) -> Path:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    path = tmp_path / "dataset.yaml"
    source = parquet(str(dataset_root / "rows"))
    path.write_text(Dataset(source=source, features=[Label("label")]).to_yaml())
    return path


def test_training_goes_on_without_caches(tmp_path: Path, dataset: Path) -> None:
    rows, error, said = train(tmp_path / "full", dataset, ["XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
    assert (rows, error) == (ROW_COUNT, "")
    assert "the snapshot is not kept" in said
    assert "No space left on device" in said
    assert "compiled kernels cannot be kept" in said


def test_a_snapshot_dir_that_was_asked_for_must_have_room(tmp_path: Path, dataset: Path) -> None:
    full = tmp_path / "full"
    rows, error, _ = train(full, dataset, [], snapshot_dir=str(full / "snapshots"))
    assert rows == 0
    assert error.startswith("RequestError: snapshot_dir")
    assert "No space left on device" in error


def test_a_ledger_that_cannot_be_written_on_ends_and_training_does_not(
    tmp_path: Path, dataset: Path
) -> None:
    full = tmp_path / "full"
    rows, error, said = train(full, dataset, [], ledger=str(full / "ledger"))
    assert (rows, error) == (ROW_COUNT, "")
    assert "ends early" in said
    assert "No space left on device" in said
    assert ".ended-early.ledger.zst" in said


@pytest.mark.parametrize("side", ["server", "client"])
def test_kernels_that_cannot_be_kept_are_compiled_once(tmp_path: Path, side: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if not full_disk.can_fill(full):
        pytest.skip("no file system of its own can be mounted here")
    result = subprocess.run(
        [*full_disk.beside(full), sys.executable, "-c", COMPILE, side],
        env=python_environment(NUMBA_CACHE_DIR=str(full)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    again, why = result.stdout.split(maxsplit=1)
    assert again == "0"
    assert "No space left on device" in why
