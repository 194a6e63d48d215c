"""The hot loops, compiled by numba: what numpy and pyarrow cannot do in one pass.

All run without the GIL and give the same bits on every CPU. warm() compiles every one of them.
"""

from __future__ import annotations

from collections.abc import Callable

from preprocessor_server.kernels._jit import KERNELS, cache_place
from preprocessor_server.kernels.hashing import (
    MAX_NARROW_BUCKETS,
    hash_ends,
    hash_integers,
    hash_strings,
    shuffle_keys,
)
from preprocessor_server.kernels.jagged import copy_tails, tail, take_lists
from preprocessor_server.kernels.lists import Measures, list_changes, measure_ids, measure_lists
from preprocessor_server.kernels.logarithm import log1p
from preprocessor_server.kernels.planes import ids_planes, list_planes, planes_bytes, word_planes

__all__ = [
    "MAX_NARROW_BUCKETS",
    "Measures",
    "cache_place",
    "copy_tails",
    "hash_ends",
    "hash_integers",
    "hash_strings",
    "ids_planes",
    "list_changes",
    "list_planes",
    "log1p",
    "measure_ids",
    "measure_lists",
    "planes_bytes",
    "shuffle_keys",
    "tail",
    "take_lists",
    "warm",
    "word_planes",
]


def warm(report: Callable[[str], None]) -> None:
    """Compiles every kernel, or loads it from the cache, so that no request waits for it.

    report gets a line before each: "compiling 3 of 8: hash_strings". Works where nothing can be
    written; cache_place() says where the result is kept.
    """
    for number, kernel in enumerate(KERNELS, start=1):
        report(f"compiling {number} of {len(KERNELS)}: {kernel.name}")
        kernel.compile()
