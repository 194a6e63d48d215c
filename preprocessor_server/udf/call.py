"""One function: imported, called with blocks of rows, and held to what it declares."""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessor_server.udf import archive
from preprocessor_server.udf.archive import Code
from preprocessor_server.udf.types import arrow_type, fits, type_name


class ReturnedError(Exception):
    """A function returned other than it declares."""


def load(code: Code) -> Callable[..., Any]:
    """The function itself. Raises whatever its module does, and AttributeError."""
    path, _, name = code.function.partition(":")
    if code.archive:
        module = archive.import_from(code.archive, path)
    else:
        module = importlib.import_module(path)
    found = getattr(module, name)
    if not callable(found):
        raise TypeError(f"{code.function} is {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def source_files(function: str) -> list[tuple[str, Path]]:
    """The modules that are loaded of an installed function's top-level package, and their files."""
    top = function.partition(":")[0].partition(".")[0]
    found = []
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is not None and (name == top or name.startswith(f"{top}.")):
            found.append((name, Path(path)))
    return found


def fingerprint(files: Sequence[tuple[str, Path]]) -> str:
    """Identifies the content of modules, whatever folder they lie in."""
    digest = hashlib.sha256()
    for name, path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return "sha256:" + digest.hexdigest()


def generator(seed: Sequence[int]) -> np.random.Generator:
    """The random numbers of a block: Philox, of numpy's SeedSequence of eight 32-bit words or more.

    The words are fixed in number: what SeedSequence makes of integers depends on their size.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(seed))))


def call(
    function: Callable[..., Any],
    batch: pa.RecordBatch,
    outputs: Sequence[tuple[str, str]],
    seed: Sequence[int] | None,
) -> pa.RecordBatch:
    """The declared outputs (name, type) for a block.

    seed is that of its random numbers, None if it takes none. Raises ReturnedError, and whatever
    the function does.
    """
    result = function(batch) if seed is None else function(batch, rng=generator(seed))
    return _checked(result, batch, outputs)


def _checked(
    result: object, batch: pa.RecordBatch, outputs: Sequence[tuple[str, str]]
) -> pa.RecordBatch:
    if not isinstance(result, pa.RecordBatch):
        kind = type(result)
        raise ReturnedError(
            f"it returned {kind.__module__}.{kind.__qualname__}, not a pyarrow.RecordBatch"
        )
    if result.num_rows != batch.num_rows:
        raise ReturnedError(
            f"it returned {result.num_rows:,} rows for a block of {batch.num_rows:,}; a UDF may "
            "not change the number of rows (leave rows out with where, on a column that it makes)"
        )
    columns = []
    for name, declared in outputs:
        indices = result.schema.get_all_field_indices(name)
        if len(indices) != 1:
            there = ", ".join(result.schema.names) or "no column"
            problem = f"{len(indices)} columns called {name!r}" if indices else f"no {name!r}"
            raise ReturnedError(f"it returned {problem}, which it declares; it returned {there}")
        column = result.column(indices[0])
        if not fits(column.type, arrow_type(declared)):
            raise ReturnedError(
                f"it returned column {name!r} as {type_name(column.type)}, but declares "
                f"{declared}; cast it, or declare what it returns"
            )
        columns.append(column.cast(arrow_type(declared)))
    schema = pa.schema([pa.field(name, arrow_type(declared)) for name, declared in outputs])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, from the function's own frames on."""
    here = [str(Path(__file__).with_name(name)) for name in ("worker.py", "archive.py")]
    ours = (__file__, *here, importlib.__file__)
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename in ours
        or trace.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
