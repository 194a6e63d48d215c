"""The engine behind filters: bounded, closed in, and safe to use from many threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from headrace.v1.dataset_pb2 import DatasetSpec
from preprocessor_server.transform import compile_where, duck


def test_rows_keep_their_order_across_chunks() -> None:
    numbers = np.random.default_rng(3).integers(0, 100, 300_000)
    table = pa.table({"x": pa.chunked_array([numbers[:7], numbers[7:100_001], numbers[100_001:]])})
    filter_ = compile_where(DatasetSpec(where="x < 50"), table.schema)
    assert filter_ is not None
    assert np.array_equal(filter_.mask(table), numbers < 50)


def test_threads_share_the_engine() -> None:
    def work(limit: int) -> bool:
        numbers = np.random.default_rng(limit).integers(0, 100, 20_000)
        table = pa.table({"x": numbers})
        filter_ = compile_where(DatasetSpec(where=f"x < {limit}"), table.schema)
        assert filter_ is not None
        return all(np.array_equal(filter_.mask(table), numbers < limit) for _ in range(5))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/headrace_filter_test.csv'",
        "ATTACH '/tmp/headrace_filter_test.db'",
        "INSTALL httpfs",
        "SET threads = 4",
        "SET enable_external_access = true",
        "SELECT * FROM unrelated",
    ],
)
def test_nothing_outside_can_be_reached(statement: str) -> None:
    unrelated = pa.table({"x": [1]})
    assert unrelated.num_rows == 1
    with duck.cursor() as cursor, pytest.raises(duckdb.Error):
        cursor.execute(statement)


def test_settings_are_what_the_decision_says() -> None:
    names = ("threads", "async_threads", "temp_directory", "TimeZone", "memory_limit")
    with duck.cursor() as cursor:
        values = [cursor.execute("SELECT current_setting(?)", [name]).fetchone() for name in names]
    assert values == [(1,), (0,), ("",), ("UTC",), ("244.1 MiB",)]


def test_tables_do_not_outlive_a_call() -> None:
    filter_ = compile_where(DatasetSpec(where="x = 1"), pa.schema({"x": pa.int64()}))
    assert filter_ is not None
    filter_.mask(pa.table({"x": [1]}))
    with duck.cursor() as cursor, pytest.raises(duckdb.CatalogException):
        cursor.execute("SELECT * FROM split")


PROGRAM = """
import os, pyarrow as pa
from headrace.v1.dataset_pb2 import DatasetSpec
from preprocessor_server.transform import compile_where
before = len(os.listdir("/proc/self/task"))
table = pa.table({"x": range(100_000)})
assert compile_where(DatasetSpec(where="x < 10"), table.schema).mask(table).sum() == 10
print(len(os.listdir("/proc/self/task")) - before, os.listdir("."))
"""


def test_filters_start_no_threads_and_write_no_files(tmp_path: os.PathLike[str]) -> None:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "0 []"
