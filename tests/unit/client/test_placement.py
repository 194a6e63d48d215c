from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest

from trainer_client.transport.placement import BETWEEN_MOVES_S, COOL_DOWN_S, Placement

FLEET = [f"10.0.0.{i}:50051" for i in range(8)]
KEYS = [f"shard {i}".encode() for i in range(2000)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def chosen(placement: Placement, key: bytes, fleet: list[str], *tried: str) -> str:
    """The server for a shard that ends at once."""
    address = placement.choose(key, fleet, tried)
    placement.release(address)
    return address


def test_idle_servers_get_the_same_share() -> None:
    placement = Placement()
    shares = Counter(chosen(placement, key, FLEET) for key in KEYS)
    assert set(shares) == set(FLEET)
    assert max(shares.values()) < 1.35 * min(shares.values())


def test_every_client_chooses_the_same_server_whatever_the_order() -> None:
    for key in KEYS[:50]:
        assert Placement().choose(key, FLEET) == Placement().choose(key, FLEET[::-1])


def test_only_the_shards_of_a_server_that_goes_move() -> None:
    placement = Placement()
    before = [chosen(placement, key, FLEET) for key in KEYS]
    after = [chosen(placement, key, FLEET[1:]) for key in KEYS]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {FLEET[0]}


def test_a_server_that_comes_takes_its_share() -> None:
    placement = Placement()
    before = [chosen(placement, key, FLEET[1:]) for key in KEYS]
    after = [chosen(placement, key, FLEET) for key in KEYS]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {FLEET[0]}
    assert len(moved) == pytest.approx(len(KEYS) / len(FLEET), rel=0.25)


def test_open_streams_are_spread() -> None:
    placement = Placement()
    for key in KEYS[:64]:
        placement.choose(key, FLEET)
    held = sorted(server.streams for server in placement._servers.values())
    assert held[-1] - held[0] <= 2


def batches(
    placement: Placement, clock: Clock, servers: str | list[str], count: int, each_s: float
) -> None:
    """As many batches of a server, or of each of several at a time, each waited for so long."""
    addresses = [servers] if isinstance(servers, str) else servers
    for _ in range(count):
        with ExitStack() as waits:
            for address in addresses:
                waits.enter_context(placement.waiting(address))
            clock.now += each_s
        for address in addresses:
            placement.took(address)


def test_a_shard_goes_to_its_first_candidate_with_room_then_to_the_least_loaded() -> None:
    clock = Clock()
    placement = Placement(clock)
    key = KEYS[0]
    first, second, third = (placement.choose(key, FLEET) for _ in range(3))
    assert len({first, second, third}) == 3
    placement.release(first)
    assert chosen(placement, key, FLEET) == first


def test_a_server_that_is_waited_for_longer_gets_less() -> None:
    clock = Clock()
    placement = Placement(clock)
    pair = FLEET[:2]
    batches(placement, clock, pair[0], 10, 0.4)
    batches(placement, clock, pair[1], 10, 0.1)
    for key in KEYS[:15]:
        placement.choose(key, pair)
    assert [placement._servers[address].streams for address in pair] in ([3, 12], [4, 11])


def test_a_server_that_sends_nothing_gets_nothing_more() -> None:
    clock = Clock()
    placement = Placement(clock)
    batches(placement, clock, FLEET[0], 10, 0.1)
    batches(placement, clock, FLEET[1], 10, 0.1)
    with placement.waiting(FLEET[0]):
        clock.now += 2.0
        assert {chosen(placement, key, FLEET[:2]) for key in KEYS[:50]} == {FLEET[1]}
    # What it did is forgotten while it does better.
    batches(placement, clock, FLEET[0], 1000, 0.1)
    assert {chosen(placement, key, FLEET[:2]) for key in KEYS[:50]} == set(FLEET[:2])


def test_several_streams_that_wait_count_once() -> None:
    clock = Clock()
    placement = Placement(clock)
    with placement.waiting(FLEET[0]), placement.waiting(FLEET[0]):
        clock.now += 1.0
    placement.took(FLEET[0])
    placement.took(FLEET[0])
    server = placement._servers[FLEET[0]]
    assert server.busy_s / server.batches == pytest.approx(0.5, rel=0.1)


def test_streams_leave_a_server_until_another_one_that_came_has_its_share() -> None:
    clock = Clock()
    placement = Placement(clock)
    held = [placement.choose(key, FLEET[:3]) for key in KEYS[:8]]
    batches(placement, clock, FLEET[:3], 20, 0.1)
    assert not any(moved(placement, clock, held, i, FLEET[:3]) for i in range(8))
    for _ in range(3):
        for i in range(8):
            moved(placement, clock, held, i, FLEET[:4])
    assert sorted(Counter(held).values()) == [2, 2, 2, 2]


def moved(placement: Placement, clock: Clock, held: list[str], i: int, fleet: list[str]) -> bool:
    """Whether a stream moves, at a time at which one may, while all servers are waited for."""
    batches(placement, clock, sorted(set(held)), 5, BETWEEN_MOVES_S / 5)
    if not placement.leaves(held[i], fleet):
        return False
    placement.release(held[i])
    held[i] = placement.choose(KEYS[i], fleet)
    return True


def test_streams_leave_one_at_a_time_and_only_where_somebody_waits() -> None:
    clock = Clock()
    placement = Placement(clock)
    for _ in range(4):
        placement.choose(KEYS[0], FLEET[:1])
    batches(placement, clock, FLEET[0], 20, 0.001)
    clock.now += BETWEEN_MOVES_S
    assert not placement.leaves(FLEET[0], FLEET)
    batches(placement, clock, FLEET[0], 20, 0.5)
    assert placement.leaves(FLEET[0], FLEET)
    assert not placement.leaves(FLEET[0], FLEET)
    clock.now += BETWEEN_MOVES_S
    assert placement.leaves(FLEET[0], FLEET)


def of_one(server: str, pair: list[str]) -> list[bytes]:
    """Shards whose first candidate of two servers is this one."""
    return [key for key in KEYS if Placement().choose(key, pair) == server]


def test_nothing_moves_while_nobody_waits() -> None:
    clock = Clock()
    placement = Placement(clock)
    pair = FLEET[:2]
    keys = of_one(pair[0], pair)
    for address in pair:
        placement.choose(KEYS[0], [address])
    for _ in range(20):
        batches(placement, clock, pair, 1, 0.002)
        clock.now += 0.098
    assert {placement.choose(key, pair) for key in keys[:8]} == {pair[0]}
    clock.now += BETWEEN_MOVES_S
    assert not placement.leaves(pair[0], pair)


@pytest.mark.parametrize("pause_s", [0.0, 60.0])
def test_streams_are_even_on_servers_that_are_always_waited_for_however_short(
    pause_s: float,
) -> None:
    clock = Clock()
    placement = Placement(clock)
    pair = FLEET[:2]
    held = [placement.choose(key, pair) for key in KEYS[:4]]
    batches(placement, clock, pair, 200, 0.0005)
    for address in held:
        placement.release(address)
    # Between two epochs, when nobody could wait: that says nothing.
    clock.now += pause_s
    chosen_ones = Counter(placement.choose(key, pair) for key in of_one(pair[0], pair)[:4])
    assert chosen_ones == {pair[0]: 2, pair[1]: 2}


def test_servers_that_failed_or_were_tried_come_last() -> None:
    clock = Clock()
    placement = Placement(clock)
    key = KEYS[0]
    left = list(FLEET)
    while left:
        address = chosen(placement, key, FLEET)
        left.remove(address)
        placement.failed(address)
        clock.now += 0.01
    # All have failed: the best one is tried again.
    assert chosen(placement, key, FLEET) == Placement().choose(key, FLEET)
    clock.now += COOL_DOWN_S - 0.05
    placement.failed(FLEET[3])
    clock.now += 0.05
    assert chosen(placement, key, FLEET[3:5]) == FLEET[4]
    assert chosen(placement, key, FLEET[3:5], FLEET[4]) == FLEET[3]
    clock.now += COOL_DOWN_S
    tried = {chosen(placement, key, FLEET)}
    assert chosen(placement, key, FLEET, *tried) not in tried
    assert chosen(placement, key, ["only:1"], "only:1") == "only:1"
