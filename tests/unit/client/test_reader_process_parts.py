"""What a reader process is made of: messages over a socket, and memory that two maps show."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_client.arena_pool import ArenaPool, Memory
from trainer_client.reader_process import shared_memory
from trainer_client.reader_process.channel import READ_BYTES, Channel, ChannelClosedError
from trainer_client.reader_process.shared_memory import PAGE_BYTES, Borrower, Lender

MANY = 4 * READ_BYTES


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory.create()
    yield descriptor
    os.close(descriptor)


def used_bytes(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def shows(lender: Lender, borrower: Borrower, array: Memory, value: int) -> bool:
    start = lender.start_of(array.ctypes.data)
    assert start % PAGE_BYTES == 0
    return bool((borrower.borrow(0, start, array.nbytes) == value).all())


def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@settings(max_examples=30)
@given(
    st.lists(st.binary(max_size=300) | st.integers(1, MANY).map(lambda n: b"x" * n), max_size=12)
)
def test_messages_arrive_in_order_whatever_their_size(found: list[bytes]) -> None:
    one, other = ends()
    with one, other:
        sender, receiver = Channel(one), Channel(other)
        received: list[bytes] = []
        for message in found:
            sender.send(message)
            received += receiver.receive()
        while not sender.flush():
            received += receiver.receive()
        while len(received) < len(found):
            received += receiver.receive()
        assert received == found
        assert receiver.receive() == []


class Interrupted(socket.socket):
    """A socket on which a signal arrives between what a system call does and what follows."""

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data[:1000], flags)
        signal.raise_signal(signal.SIGALRM)
        return sent


def test_a_message_of_a_signal_handler_follows_the_one_that_it_interrupts() -> None:
    plain, other = ends()
    with Interrupted(fileno=plain.detach()) as one, other:
        sender, receiver = Channel(one), Channel(other)
        of_handler = iter(["second", "third"])

        def handle(*_: object) -> None:
            message = next(of_handler, None)
            if message is not None:
                assert sender.send(message)

        before = signal.signal(signal.SIGALRM, handle)
        try:
            first = "x" * 5000
            assert sender.send(first)
            assert receiver.receive() == [first, "second", "third"]
        finally:
            signal.signal(signal.SIGALRM, before)


def test_the_end_of_a_channel_comes_after_its_last_message() -> None:
    one, other = ends()
    with other:
        sender, receiver = Channel(one), Channel(other)
        sender.send("last")
        one.close()
        assert receiver.receive() == ["last"]
        with pytest.raises(ChannelClosedError):
            receiver.receive()
        with pytest.raises(ChannelClosedError):
            receiver.send("nobody listens")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40 * PAGE_BYTES), st.booleans()), min_size=1, max_size=60),
    st.randoms(),
)
def test_pieces_never_overlap_and_are_given_back(
    wanted: list[tuple[int, bool]], random: Random
) -> None:
    descriptor = shared_memory.create()
    try:
        lender = Lender(descriptor)
        borrower = Borrower(descriptor)
        held: dict[int, Memory] = {}
        for number, (size, frees) in enumerate(wanted):
            array = lender.allocate(size)
            array[:] = number % 251
            held[number] = array
            if frees:
                held.pop(random.choice(sorted(held)))
            del array
            assert all(shows(lender, borrower, held[n], n % 251) for n in sorted(held))
        assert used_bytes(descriptor) >= sum(array.nbytes for array in held.values())
        held.clear()
        assert used_bytes(descriptor) == 0
        assert lender.allocate(1).nbytes == 1
        assert len(lender._free) == 1
    finally:
        os.close(descriptor)


def test_a_loan_ends_with_the_last_view_of_it(memory: int) -> None:
    lender, borrower = Lender(memory), Borrower(memory)
    array = lender.allocate(1000)
    array[:] = 7
    place = lender.start_of(array.ctypes.data)
    first, second = borrower.borrow(1, place, 500), borrower.borrow(2, place + 500, 500)
    view = first[100:200].view(np.int32)[::2]
    assert borrower.returned() == []
    del first
    assert borrower.returned() == []
    del view
    assert borrower.returned() == [1]
    assert second.tolist() == [7] * 500
    del second
    assert borrower.returned() == [2]
    assert borrower.returned() == []


def test_memory_is_there_for_as_long_as_it_is_shown(memory: int) -> None:
    lender, borrower = Lender(memory), Borrower(memory)
    array = lender.allocate(PAGE_BYTES)
    array[:] = 9
    shown = borrower.borrow(1, lender.start_of(array.ctypes.data), PAGE_BYTES)
    del borrower
    gc.collect()
    assert (shown == 9).all()


def test_a_pool_takes_all_of_its_memory_from_where_it_is_told_to(memory: int) -> None:
    lender, pool = Lender(memory), ArenaPool(idle_bytes=1 << 20)
    pool.allocate_by(lender.allocate)
    size = os.fstat(memory).st_size
    for nbytes in (0, 1, 1000, 1 << 20):
        array = pool.take(nbytes)
        assert array.nbytes == nbytes
        assert 0 <= lender.start_of(array.ctypes.data) < size
        assert array.ctypes.data % 64 == 0
    del array
    before = used_bytes(memory)
    # What is over the limit of what is kept goes back to the system.
    large = pool.take(8 << 20)
    large[:] = 1
    assert used_bytes(memory) >= 8 << 20
    del large
    assert pool.idle_bytes <= 1 << 20
    assert used_bytes(memory) <= before + (1 << 20)


def test_threads_allocate_one_after_the_other(memory: int) -> None:
    lender, done = Lender(memory), threading.Event()

    def work() -> None:
        lender.allocate(1)
        done.set()

    thread = threading.Thread(target=work)
    with lender._lock:
        thread.start()
        assert not done.wait(0.05)
    thread.join(10)
    assert done.is_set()


def test_what_is_not_lent_is_given_back_once_its_lender_is_gone(memory: int) -> None:
    lender, borrower = Lender(memory), Borrower(memory)
    arrays = [lender.allocate(3 * PAGE_BYTES + 10) for _ in range(6)]
    for array in arrays:
        array[:] = 5
    places = [lender.start_of(array.ctypes.data) for array in arrays]
    kept = [borrower.borrow(n, places[n], 3 * PAGE_BYTES + 10) for n in (1, 2, 4)]
    small = borrower.borrow(7, places[5] + PAGE_BYTES + 64, 100)
    assert used_bytes(memory) == 24 * PAGE_BYTES
    borrower.keep_loans_only()
    assert used_bytes(memory) == (3 * 4 + 1) * PAGE_BYTES
    assert all((array == 5).all() for array in (*kept, small))
