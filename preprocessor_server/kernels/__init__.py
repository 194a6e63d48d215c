"""The hot loops, compiled by numba: what numpy and pyarrow cannot do in one pass.

All run without the GIL and give the same bits on every CPU. warm() compiles every one of them.
"""

from __future__ import annotations

from collections.abc import Callable

from preprocessor_server.kernels._jit import KERNELS, cache_place
from preprocessor_server.kernels.hashing import hash_integers, hash_strings, shuffle_keys
from preprocessor_server.kernels.jagged import (
    copy_tails,
    gather_flat,
    gather_jagged,
    jagged_total,
    tail,
)
from preprocessor_server.kernels.logarithm import log1p

__all__ = [
    "cache_place",
    "copy_tails",
    "gather_flat",
    "gather_jagged",
    "hash_integers",
    "hash_strings",
    "jagged_total",
    "log1p",
    "shuffle_keys",
    "tail",
    "warm",
]


def warm(report: Callable[[str], None]) -> None:
    """Compiles every kernel, or loads it from the cache, so that no request waits for it.

    report gets a line before each: "compiling 3 of 8: hash_strings". Works where nothing can be
    written; cache_place() says where the result is kept.
    """
    for number, kernel in enumerate(KERNELS, start=1):
        report(f"compiling {number} of {len(KERNELS)}: {kernel.name}")
        kernel.compile()
