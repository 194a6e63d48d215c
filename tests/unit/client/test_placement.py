from __future__ import annotations

from collections import Counter

import pytest

from trainer_client.transport.placement import COOL_DOWN_S, Placement

FLEET = [f"10.0.0.{i}:50051" for i in range(8)]
KEYS = [f"shard {i}".encode() for i in range(2000)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_idle_servers_get_the_same_share() -> None:
    placement = Placement()
    shares = Counter(placement.choose(key, FLEET) for key in KEYS)
    assert set(shares) == set(FLEET)
    assert max(shares.values()) < 1.35 * min(shares.values())


def test_every_client_chooses_the_same_server_whatever_the_order() -> None:
    for key in KEYS[:50]:
        assert Placement().choose(key, FLEET) == Placement().choose(key, FLEET[::-1])


def test_only_the_shards_of_a_server_that_goes_move() -> None:
    placement = Placement()
    before = [placement.choose(key, FLEET) for key in KEYS]
    after = [placement.choose(key, FLEET[1:]) for key in KEYS]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {FLEET[0]}


def test_a_server_that_comes_takes_its_share() -> None:
    placement = Placement()
    before = [placement.choose(key, FLEET[1:]) for key in KEYS]
    after = [placement.choose(key, FLEET) for key in KEYS]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {FLEET[0]}
    assert len(moved) == pytest.approx(len(KEYS) / len(FLEET), rel=0.25)


def test_open_streams_are_spread() -> None:
    placement = Placement()
    for key in KEYS[:64]:
        placement.opened(placement.choose(key, FLEET))
    held = sorted(server.streams for server in placement._servers.values())
    assert held[-1] - held[0] <= 3


def test_of_two_candidates_the_less_loaded_gets_a_shard() -> None:
    placement = Placement()
    key = KEYS[0]
    first = placement.choose(key, FLEET)
    placement.opened(first)
    second = placement.choose(key, FLEET)
    assert second != first
    placement.opened(second)
    assert placement.choose(key, FLEET) == first
    placement.closed(first)
    placement.closed(second)
    placement.took(first, 1.0)
    placement.took(second, 0.1)
    assert placement.choose(key, FLEET) == second
    for _ in range(30):
        placement.took(first, 0.01)
    assert placement.choose(key, FLEET) == first


def test_servers_that_failed_or_were_tried_come_last() -> None:
    clock = Clock()
    placement = Placement(clock)
    key = KEYS[0]
    left = list(FLEET)
    while left:
        address = placement.choose(key, FLEET)
        left.remove(address)
        placement.failed(address)
        clock.now += 0.01
    # All have failed: the best one is tried again.
    assert placement.choose(key, FLEET) == Placement().choose(key, FLEET)
    placement.took(FLEET[3], 0.1)
    assert placement.choose(key, FLEET) == FLEET[3]
    assert placement.choose(key, FLEET, {FLEET[3]}) != FLEET[3]
    clock.now += COOL_DOWN_S
    tried = {placement.choose(key, FLEET)}
    assert placement.choose(key, FLEET, tried) not in tried
    assert placement.choose(key, ["only:1"], {"only:1"}) == "only:1"
