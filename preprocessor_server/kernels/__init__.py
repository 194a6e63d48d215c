"""The hot loops, compiled by numba: what numpy and pyarrow cannot do in one pass.

All run without the GIL and give the same bits on every CPU. warm() compiles every one of them.
"""

from __future__ import annotations

from collections.abc import Callable

from preprocessor_server.kernels._jit import KERNELS, cache_place
from preprocessor_server.kernels.byte_arrays import all_distinct, split_strings
from preprocessor_server.kernels.changes import count_changes, list_changes
from preprocessor_server.kernels.dates import Part, Unit, date_parts
from preprocessor_server.kernels.descriptors import Descriptors
from preprocessor_server.kernels.gather import Columns, Gathered, RunRows, run_rows, take_into
from preprocessor_server.kernels.gather_lists import GatheredLists, ListColumns
from preprocessor_server.kernels.gather_optional import (
    OptionalColumns,
    ids_of_lists,
    ids_of_valid,
    lists_of_ids,
)
from preprocessor_server.kernels.hashing import (
    MAX_NARROW_BUCKETS,
    first_state,
    fold_words,
    hash_ends,
    hash_integers,
    hash_strings,
    shuffle_keys,
)
from preprocessor_server.kernels.jagged import copy_tails, keep_valid, tail, take_lists
from preprocessor_server.kernels.layout import (
    FLOATS,
    HALVES,
    IDS,
    LENGTHS,
    Buffers,
    Layouts,
    lay_out,
    ones,
    write_buffers,
)
from preprocessor_server.kernels.logarithm import box_cox, log1p, logit
from preprocessor_server.kernels.lookup import (
    MAX_LISTED,
    find_strings,
    find_words,
    look_up,
    make_table,
)
from preprocessor_server.kernels.order import hashed_order
from preprocessor_server.kernels.page_header import PageHeader, page_header, page_headers
from preprocessor_server.kernels.page_levels import (
    LEVEL_ROOM,
    ListLevels,
    read_levels,
    read_valid,
)
from preprocessor_server.kernels.page_values import read_coded, spread
from preprocessor_server.kernels.scaling import count_reached, fill, limit, shift_and_scale
from preprocessor_server.kernels.sequences import first_occurrences, sum_integers, sum_lists

__all__ = [
    "FLOATS",
    "HALVES",
    "IDS",
    "LENGTHS",
    "LEVEL_ROOM",
    "MAX_LISTED",
    "MAX_NARROW_BUCKETS",
    "Buffers",
    "Columns",
    "Descriptors",
    "Gathered",
    "GatheredLists",
    "Layouts",
    "ListColumns",
    "ListLevels",
    "OptionalColumns",
    "PageHeader",
    "Part",
    "RunRows",
    "Unit",
    "all_distinct",
    "box_cox",
    "cache_place",
    "copy_tails",
    "count_changes",
    "count_reached",
    "date_parts",
    "fill",
    "find_strings",
    "find_words",
    "first_occurrences",
    "first_state",
    "fold_words",
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
    "lists_of_ids",
    "log1p",
    "logit",
    "look_up",
    "make_table",
    "ones",
    "page_header",
    "page_headers",
    "read_coded",
    "read_levels",
    "read_valid",
    "run_rows",
    "shift_and_scale",
    "shuffle_keys",
    "split_strings",
    "spread",
    "sum_integers",
    "sum_lists",
    "tail",
    "take_into",
    "take_lists",
    "warm",
    "write_buffers",
]


def warm(report: Callable[[str], None]) -> None:
    """Compiles every kernel, or loads it from the cache, so that no request waits for it.

    report gets a line before each: "compiling 3 of 8: hash_strings". Works where nothing can be
    written; cache_place() says where the result is kept.
    """
    for number, kernel in enumerate(KERNELS, start=1):
        report(f"compiling {number} of {len(KERNELS)}: {kernel.name}")
        kernel.compile()
        if kernel.not_kept:
            report(f"{kernel.name} is not kept, every start compiles it: {kernel.not_kept}")
