"""DuckDB, as the engine of filters: in memory, on the caller's thread, with nothing to reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

# A filter streams a split through vectors of 2048 rows; this is ample, and a bound.
MEMORY_LIMIT = "256MB"

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # One thread is the caller's own: DuckDB starts none, and rows keep their order.
    "threads": "1",
    "async_threads": "0",
    "preserve_insertion_order": "true",
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
}
# In this order: the last one makes the others final.
_LOCKDOWN = (
    # Else the machine's zone would decide what a time without a zone means.
    "SET GLOBAL TimeZone = 'UTC'",
    # Not a file, not an extension, not a Python variable can be reached from an expression.
    "SET GLOBAL python_enable_replacements = false",
    "SET GLOBAL autoinstall_known_extensions = false",
    "SET GLOBAL autoload_known_extensions = false",
    "SET GLOBAL enable_external_access = false",
    "SET GLOBAL lock_configuration = true",
)

_lock = threading.Lock()
_database: list[duckdb.DuckDBPyConnection] = []


@contextmanager
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of its own to the process's one empty in-memory database."""
    with _lock:
        if not _database:
            database = duckdb.connect(":memory:", config=_CONFIG)
            for statement in _LOCKDOWN:
                database.execute(statement)
            _database.append(database)
        connection = _database[0].cursor()
    with connection:
        yield connection
