"""Compiling: all of it ahead, with or without a place to keep the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import preprocessor_server
from preprocessor_server.kernels import cache_place, warm
from preprocessor_server.kernels._jit import KERNELS

PLACE = """
from preprocessor_server import kernels
import numpy as np
print("kept", kernels.cache_place())
"""
ONE = (
    PLACE
    + """
print("bucket", kernels.hash_integers(np.array([0]), 2**20, 0)[0])
"""
)
ALL = (
    PLACE
    + """
kernels.warm(print)
"""
)


def run(program: str, package: Path, **environment: str) -> list[str]:
    """Runs a program on a copy of the kernels whose folder takes no files, even from root."""
    kernels = package / "preprocessor_server" / "kernels"
    if not kernels.exists():
        source = Path(preprocessor_server.__file__).parent
        shutil.copytree(source / "kernels", kernels, ignore=shutil.ignore_patterns("__pycache__"))
        (package / "preprocessor_server" / "__init__.py").touch()
        (kernels / "__pycache__").touch()
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={
            **kept,
            "HOME": "/dev/null",
            "PYTHONPATH": str(package),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


def test_warm_reports_every_kernel_before_it_is_compiled() -> None:
    lines: list[str] = []
    warm(lines.append)
    total = len(lines)
    assert {line.partition(": ")[2] for line in lines} == {
        "all_distinct",
        "box_cox",
        "box_cox_narrow",
        "copy_lists",
        "copy_tails",
        "count_changes",
        "count_reached",
        "describe",
        "element_mask",
        "fill",
        "fill_table",
        "find_strings",
        "find_words",
        "first_occurrences",
        "fold_words",
        "gather",
        "gather_optional",
        "gather_values",
        "hash_ends",
        "hash_integers",
        "hash_strings",
        "hashed_order",
        "ids_of_lists",
        "ids_of_valid",
        "keep_valid",
        "lay_out",
        "limit",
        "list_changes",
        "list_offsets",
        "local_parts",
        "log1p",
        "log1p_narrow",
        "logit",
        "logit_narrow",
        "look_up",
        "natural_log",
        "natural_log_narrow",
        "pack",
        "page_headers",
        "parts_in_utc",
        "read_coded",
        "read_levels",
        "read_lists",
        "run_rows",
        "seconds",
        "shift_and_scale",
        "shift_and_scale_narrow",
        "shuffle_keys",
        "split_strings",
        "spread",
        "sum_integers",
        "sum_lists",
        "tail_offsets",
        "take_into",
        "take_offsets",
        "write",
    }
    assert [line.partition(":")[0] for line in lines] == [
        f"compiling {number} of {total}" for number in range(1, total + 1)
    ]


def test_cache_place_is_a_folder_that_exists() -> None:
    assert Path(cache_place()).is_dir()


def test_kernels_compile_where_nothing_can_be_written(tmp_path: Path) -> None:
    kept, bucket = run(ONE, tmp_path)
    assert kept.startswith("kept nowhere: every start compiles")
    assert "NUMBA_CACHE_DIR" in kept
    assert bucket == "bucket 926218"


def test_kernels_are_kept_in_numba_cache_dir(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kept, *_ = run(ALL, tmp_path / "package", NUMBA_CACHE_DIR=str(cache))
    assert kept.startswith(f"kept {cache}")
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")}
    assert len(files) >= len(KERNELS)
    run(ALL, tmp_path / "package", NUMBA_CACHE_DIR=str(cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nbc")} == files


def test_a_numba_cache_dir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (kept,) = run(PLACE, tmp_path, NUMBA_CACHE_DIR="/dev/null/cache")
    assert "NUMBA_CACHE_DIR='/dev/null/cache'" in kept
