"""Compiling: in the background, with or without a place to keep the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import trainer_client

PLACE_ONE = """
import numpy as np
from trainer_client.kernels import unpacking
buffers = np.zeros((1, unpacking.BUFFER_COLUMNS), np.int64)
buffers[0, :9] = unpacking.VALUES, unpacking.CONSTANT, unpacking.TYPE_INT64, 0, 0, 3, 0, 0, 0
parts = np.array([[unpacking.META, 1, 0, 3, 0, 1, unpacking.TYPE_INT64, 0]], np.int64)
assert unpacking.place_buffers(buffers, parts, 0) == 64
"""
WARM_AND_FORK = """
import os, sys, threading
from trainer_client import kernels
assert "numba" not in sys.modules
kernels.warm()
kernels.warm()
assert [t.name for t in threading.enumerate()].count("kernel-loader") <= 1
child = os.fork()
if child == 0:
    from trainer_client.kernels import expansion, unpacking
    os._exit(0 if unpacking.unpack._compiled and expansion.expand._compiled else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(program: str, folder: Path, **environment: str) -> None:
    """Runs a program on a copy of the kernels whose folder takes no files, even from root."""
    kernels = folder / "trainer_client" / "kernels"
    if not kernels.exists():
        source = Path(trainer_client.__file__).parent
        shutil.copytree(source / "kernels", kernels, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "trainer_client" / "__init__.py").touch()
        (kernels / "__pycache__").touch()
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "HOME": "/dev/null", "PYTHONPATH": str(folder), **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_kernels_compile_where_nothing_can_be_written(tmp_path: Path) -> None:
    run(PLACE_ONE, tmp_path)
    assert not [*tmp_path.rglob("*.nbc")]


def test_kernels_are_kept_in_numba_cache_dir(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(PLACE_ONE, tmp_path / "package", NUMBA_CACHE_DIR=str(cache))
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")}
    assert len(files) == 1
    run(PLACE_ONE, tmp_path / "package", NUMBA_CACHE_DIR=str(cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")} == files


def test_a_fork_waits_for_kernels_that_are_being_loaded(tmp_path: Path) -> None:
    run(WARM_AND_FORK, tmp_path)
