from __future__ import annotations

import gc
import os
import platform
import resource
import threading

import numpy as np
import pytest
import torch

from benchmarks.harness import fresh_process
from tests.fakes.encoder import Rows, encode_batch, encode_schema
from trainer_client import Batch, arena_pool
from trainer_client.arena_pool import ArenaPool
from trainer_client.decode import Decoder, Decoders

SIZE = 1 << 20
MESSAGES, MESSAGE_BYTES = 8, 1 << 20


def address_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def take(pool: ArenaPool, size: int = SIZE) -> torch.Tensor:
    return torch.from_numpy(pool.take(size))


@pytest.mark.parametrize("size", [1, 63, 1 << 16, (1 << 20) + 8, 5_000_000])
def test_sizes_and_alignment(size: int) -> None:
    pool = ArenaPool()
    for _ in range(3):
        array = pool.take(size)
        assert array.nbytes == size
        assert array.ctypes.data % 64 == 0


def test_memory_is_used_again_once_its_tensor_is_gone() -> None:
    pool = ArenaPool()
    tensor = take(pool)
    first = address_of(tensor)
    del tensor
    assert pool.idle_bytes >= SIZE
    assert address_of(take(pool, SIZE - 1000)) == first


def test_memory_that_a_view_still_shows_is_not_used_again() -> None:
    pool = ArenaPool()
    tensor = take(pool)
    kept = tensor[64:128].view(torch.float32).view(4, 4).t()[:, 0]
    first = address_of(tensor)
    kept.fill_(7)
    del tensor
    gc.collect()
    assert pool.idle_bytes == 0
    other = take(pool)
    assert address_of(other) != first
    other.fill_(255)
    assert kept.tolist() == [7.0] * 4
    del kept
    assert address_of(take(pool)) == first


def test_memory_that_an_array_still_shows_is_not_used_again() -> None:
    pool = ArenaPool()
    array = pool.take(SIZE)
    view = array[64:128].view(np.float32).reshape(4, 4).T
    tensor = torch.from_numpy(view[1:])
    del array, view
    assert pool.idle_bytes == 0
    kept = tensor[1:]
    del tensor
    assert pool.idle_bytes == 0
    del kept
    assert pool.idle_bytes >= SIZE


def test_a_numpy_array_of_a_tensor_keeps_its_memory_too() -> None:
    pool = ArenaPool()
    array = take(pool).numpy()[10:20]
    assert pool.idle_bytes == 0
    del array
    assert pool.idle_bytes > 0


def test_idle_memory_is_bounded() -> None:
    pool = ArenaPool(idle_bytes=3 * SIZE + SIZE // 2)
    tensors = [take(pool) for _ in range(8)]
    del tensors
    assert 2 * SIZE < pool.idle_bytes <= 3 * SIZE + SIZE // 2
    # What is larger than the bound is not kept at all, and displaces what is.
    del_me = take(pool, 5 * SIZE)
    del del_me
    assert pool.idle_bytes <= 3 * SIZE + SIZE // 2


def test_only_memory_of_about_the_size_is_used() -> None:
    pool = ArenaPool()
    tensor = take(pool, 8 * SIZE)
    large = address_of(tensor)
    del tensor
    assert address_of(take(pool, SIZE)) != large


def test_memory_comes_back_in_the_middle_of_anything() -> None:
    """A tensor may die while this thread holds the pool's lock: a collector runs when it likes."""
    pool = ArenaPool()
    tensor = take(pool)
    first = address_of(tensor)
    with pool._lock:
        del tensor
    assert address_of(take(pool)) == first


def test_many_threads() -> None:
    pool = ArenaPool()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            tensor = take(pool)
            tensor[:: SIZE // 8].fill_(number)
            if not torch.all(tensor[:: SIZE // 8] == number):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # A thread holds two for the moment in which it takes the next one.
    assert pool.idle_bytes < 17 * SIZE


def test_a_forked_child_can_use_a_pool_that_was_locked() -> None:
    pool = arena_pool.POOL
    with pool._lock:
        child = os.fork()
        if child == 0:
            pool.take(SIZE)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def batch_of(number: float, rows: int = 50_000) -> Batch:
    columns = Rows(
        {"d": [number] * rows}, {"s": [[int(number)] * 3] * rows}, {"l": [number] * rows}
    )
    message = encode_batch(columns, row_count=rows)
    return Decoder(encode_schema(columns))(message.SerializeToString())


def test_a_kept_column_of_a_batch_outlives_it() -> None:
    batch = batch_of(1.0)
    assert batch.dense is not None
    assert batch.sparse is not None
    column, values = batch.dense[:, 0], batch.sparse["s"].values[5:]
    addresses = {address_of(column), address_of(values)}
    del batch
    for number in (2.0, 3.0, 4.0):
        other = batch_of(number)
        assert other.sparse is not None
        assert address_of(other.arena) not in addresses
        assert address_of(other.sparse.values) not in addresses
    assert torch.all(column == 1.0)
    assert torch.all(values == 1)
    del column, values
    reused = {address_of(batch_of(5.0).arena) for _ in range(3)}
    assert reused & addresses


def message_faults() -> int:
    """Pages that the kernel gives for messages as large as some that were freed before."""
    Decoders()

    def fill() -> None:
        for block in [np.empty(MESSAGE_BYTES, np.uint8) for _ in range(MESSAGES)]:
            block.fill(1)

    for _ in range(3):
        fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_messages_take_the_memory_of_those_before() -> None:
    """Which glibc by itself gives back: all of these pages are new ones then."""
    pages = MESSAGES * MESSAGE_BYTES // resource.getpagesize()
    assert fresh_process(message_faults) < pages / 10
