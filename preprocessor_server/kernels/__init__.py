"""The hot loops, compiled by numba: what numpy and pyarrow cannot do in one pass.

All run without the GIL and give the same bits on every CPU. warm() compiles every one of them.
"""

from __future__ import annotations

from collections.abc import Callable

from preprocessor_server.kernels._jit import KERNELS, cache_place
from preprocessor_server.kernels.changes import id_changes, list_changes
from preprocessor_server.kernels.gather import RunRows, gather_columns, run_rows
from preprocessor_server.kernels.hashing import (
    MAX_NARROW_BUCKETS,
    hash_ends,
    hash_integers,
    hash_strings,
    shuffle_keys,
)
from preprocessor_server.kernels.jagged import copy_tails, tail, take_lists
from preprocessor_server.kernels.layout import Layouts, float_layout, lay_out, write_elements
from preprocessor_server.kernels.logarithm import log1p

__all__ = [
    "MAX_NARROW_BUCKETS",
    "Layouts",
    "RunRows",
    "cache_place",
    "copy_tails",
    "float_layout",
    "gather_columns",
    "hash_ends",
    "hash_integers",
    "hash_strings",
    "id_changes",
    "lay_out",
    "list_changes",
    "log1p",
    "run_rows",
    "shuffle_keys",
    "tail",
    "take_lists",
    "warm",
    "write_elements",
]


def warm(report: Callable[[str], None]) -> None:
    """Compiles every kernel, or loads it from the cache, so that no request waits for it.

    report gets a line before each: "compiling 3 of 8: hash_strings". Works where nothing can be
    written; cache_place() says where the result is kept.
    """
    for number, kernel in enumerate(KERNELS, start=1):
        report(f"compiling {number} of {len(KERNELS)}: {kernel.name}")
        kernel.compile()
