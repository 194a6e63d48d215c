"""What a server's process does with memory that has been freed."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from benchmarks.harness import fresh_process
from preprocessor_server.allocator import keep_freed_memory

BLOCKS, BLOCK_BYTES = 8, 2 << 20


def faults(kept: bool) -> int | None:
    """Pages that the kernel gives for blocks as large as some freed before; None without glibc."""
    if kept and not keep_freed_memory():
        return None

    def fill() -> None:
        for block in [np.empty(BLOCK_BYTES, np.uint8) for _ in range(BLOCKS)]:
            block.fill(1)

    fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_blocks_as_large_as_freed_ones_take_no_new_memory() -> None:
    pages = BLOCKS * BLOCK_BYTES // resource.getpagesize()
    kept, usual = fresh_process(faults, True), fresh_process(faults, False)
    if kept is None:
        pytest.skip("the C library is not glibc")
    assert usual is not None
    assert kept < pages / 10 < usual
