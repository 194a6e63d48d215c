"""A model check of the transport: streams of shards through random faults, on a clock of its own.

Streams, tries, placement and decoding are the real ones. Whatever servers do, a stream gives its
batches in order and once, or ends with an error that was earned; then another one goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fakes.clocked import Clock, ClockedFleet
from tests.fakes.fleet import (
    Cut,
    DamageHeader,
    DamagePayload,
    Drain,
    Fault,
    Misplace,
    Stall,
    Status,
)
from tests.unit.client.conftest import DATA
from trainer_client import HeadraceError, StreamTimeoutError
from trainer_client.cursor import Cursor
from trainer_client.errors import ServerUnavailableError
from trainer_client.transport.fleet import StaticFleet
from trainer_client.transport.placement import Placement
from trainer_client.transport.retry import MOST, Attempts
from trainer_client.transport.shard_stream import ShardStream
from trainer_client.transport.targets import StaticTarget

# Of a few seconds; make chaos asks for more.
EXAMPLES = int(os.environ.get("HEADRACE_MODEL_EXAMPLES", "400"))
# The same histories in every run of the tests; make chaos looks for others.
SAME = "HEADRACE_MODEL_EXAMPLES" not in os.environ
TIMEOUT_S = 60.0
Codes = grpc.StatusCode
ELSEWHERE: list[Fault] = [
    Cut(),
    Drain(),
    Stall(),
    Status(Codes.UNAVAILABLE, "going down", "DRAINING", retry_delay_s=0.01),
    Status(Codes.RESOURCE_EXHAUSTED, "no slot", "SERVER_BUSY", retry_delay_s=0.01),
    Status(Codes.ABORTED, "aborted"),
]
ONCE_MORE: list[Fault] = [
    DamagePayload(),
    DamageHeader(),
    Misplace(),
    Status(Codes.DATA_LOSS, "a file", "FILE_CORRUPT"),
]
UNCLEAR: list[Fault] = [
    Status(Codes.INTERNAL, "a bug"),
    Status(Codes.UNKNOWN, "an exception"),
    Status(Codes.FAILED_PRECONDITION, "no reason"),
    Status(Codes.FAILED_PRECONDITION, "a bit of the reason flipped", "SNAPSHOT_UNK^OWN"),
]
PERMANENT: list[Fault] = [Status(Codes.FAILED_PRECONDITION, "a column", "COLUMN_MISSING")]
FAULTS = [*ELSEWHERE, *ONCE_MORE, *UNCLEAR, *PERMANENT]
SHARDS = range(len(DATA.shards))


def kinds_of(faults: list[Fault]) -> Counter[str]:
    """How many of each kind, by what follows; stalls for themselves too."""
    kinds = Counter(
        name
        for fault in faults
        for name, members in (
            ("ONCE_MORE", ONCE_MORE),
            ("UNCLEAR", UNCLEAR),
            ("PERMANENT", PERMANENT),
        )
        if fault in members
    )
    kinds["any"] = len(faults)
    kinds["Stall"] = sum(isinstance(fault, Stall) for fault in faults)
    return kinds


def too_many(kinds: Counter[str]) -> bool:
    """Whether such faults, without a batch in between, end a stream."""
    often = any(kinds[verdict.name] >= most for verdict, most in MOST.items())
    return often or kinds["PERMANENT"] > 0


@dataclass(eq=False)
class Reader:
    """Who reads a segment: next_index is the batch that is due, end the one after its last."""

    shard: int
    next_index: int
    end: int
    bounded: bool
    stream: ShardStream[Any]
    cursor: Cursor | None = None
    given: int = 0
    items: Iterator[Any] = field(init=False)
    reading: bool = False

    def __post_init__(self) -> None:
        self.items = iter(self.stream)


class Streams(RuleBasedStateMachine):
    """Some shards being read from a fleet that changes."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.fleet = ClockedFleet(DATA, count, TIMEOUT_S)
        self.readers: list[Reader] = []

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            for reader in self.readers:
                self.leave(reader)
            self.nothing_is_counted_twice()

    def leave(self, reader: Reader) -> None:
        reader.stream.close()
        reader.items.close()  # type: ignore[attr-defined] # it is a generator
        reader.reading = False

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        """A server has as many streams as are read from it."""
        if not hasattr(self, "fleet"):
            return
        servers = self.fleet.connection.placement._servers
        reading = sum(reader.reading for reader in self.readers)
        assert sum(server.streams for server in servers.values()) == reading
        assert all(server.streams >= 0 == server.waiting for server in servers.values())
        assert self.fleet.streams_open == reading

    @precondition(lambda self: len(self.readers) < 4)
    @rule(shard=st.sampled_from(SHARDS), data=st.data())
    def read(self, shard: int, data: st.DataObject) -> None:
        """Begins to read a segment, of which the place or only the number may be known."""
        batches = DATA.batches_in(shard)
        first = data.draw(st.integers(0, batches - 1))
        count = data.draw(st.none() | st.integers(1, batches - first))
        known = data.draw(st.booleans())
        start: Cursor | int = Cursor(*DATA.cursor(shard, first, 1)) if known else first
        self.readers.append(
            Reader(
                *(shard, first, batches if count is None else first + count, count is not None),
                self.fleet.open(shard, start, count),
            )
        )

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 3), count=st.integers(1, 4))
    def take(self, which: int, count: int) -> None:
        """Takes the next batches of a segment."""
        reader = self.readers[which % len(self.readers)]
        for _ in range(count):
            if not self.take_one(reader):
                return

    def take_one(self, reader: Reader) -> bool:
        pending, due = self.pending(reader), reader.next_index
        served = bool(self.fleet.listed & self.fleet.alive)
        others = len(self.fleet.listed) > 1
        try:
            fetched = next(reader.items, None)
        except HeadraceError as error:
            met = kinds_of(self.met(pending, self.pending(reader)))
            self.check_earned(error, met, served, others)
            # Another run goes on from the last state.
            self.again(reader)
            return False
        if fetched is None:
            assert reader.next_index == reader.end
            self.readers.remove(reader)
            return False
        assert not too_many(kinds_of(self.met(pending, self.pending(reader, due))))
        self.took(reader, fetched.value)
        return reader in self.readers

    def took(self, reader: Reader, batch: Any) -> None:
        assert (batch.shard, batch.index) == (reader.shard, reader.next_index)
        rows = list(DATA.batches(reader.shard, 0, 0))[batch.index]
        assert batch.dense[:, 0].long().tolist() == rows
        reader.next_index += 1
        reader.cursor = batch.next_cursor
        reader.given += 1
        reader.reading = True
        if reader.next_index == reader.end and reader.bounded:
            # It knows of its end, and asks nobody.
            assert next(reader.items, None) is None
            self.readers.remove(reader)

    def pending(self, reader: Reader, index: int | None = None) -> list[list[Fault]]:
        """What will go wrong in opening a stream, and before a batch: the one that is due."""
        index = reader.next_index if index is None else index
        script = self.fleet.script
        opening: list[Any] = script.calls.get("StreamBatches", [])
        here = script.batches.get((reader.shard, index), [])
        return [list(opening), list(here)]

    def met(self, before: list[list[Fault]], after: list[list[Fault]]) -> list[Fault]:
        """What went wrong between two looks at what will; a stream that is open opens no more."""
        pairs = zip(before, after, strict=True)
        return [fault for was, left in pairs for fault in was[: len(was) - len(left)]]

    def check_earned(
        self, error: HeadraceError, met: Counter[str], served: bool, others: bool
    ) -> None:
        """An error is one of the faults that the tries met, and these are as many as it takes."""
        if isinstance(error, StreamTimeoutError):
            # While others are gone for good, each further failure takes seconds.
            gone = self.fleet.listed - self.fleet.alive
            assert not served or (not others and met["Stall"]) or (gone and met["any"] > 1)
        elif isinstance(error, ServerUnavailableError):
            assert not self.fleet.listed
        else:
            assert too_many(met)

    def again(self, reader: Reader) -> None:
        """Another stream from where a reader stands."""
        self.leave(reader)
        count = reader.end - reader.next_index if reader.bounded else None
        start = reader.cursor or reader.next_index
        reader.stream = self.fleet.open(reader.shard, start, count)
        reader.items, reader.given = iter(reader.stream), 0

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 3))
    def restart(self, which: int) -> None:
        """A trainer is started again from its state."""
        self.again(self.readers[which % len(self.readers)])

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 3), wins=st.booleans())
    def hedge(self, which: int, wins: bool) -> None:
        """A second server is raced with the first, and takes its place if it wins."""
        reader = self.readers[which % len(self.readers)]
        if not self.fleet.listed or reader.next_index == reader.end:
            return
        rival = reader.stream.rival(reader.given)
        assert reader.stream.rival(reader.given - 1) is None
        if rival is None:
            assert len(self.fleet.listed) < 2
            return
        items = iter(rival)
        first = None
        try:
            first = next(items, None) if wins else None
        except HeadraceError:
            # It has lost: the first one is still at it.
            wins = False
        if wins and first is not None:
            self.leave(reader)
            reader.stream, reader.items = rival, items
            self.took(reader, first.value)
        else:
            items.close()  # type: ignore[attr-defined] # it is a generator
            rival.close()

    @precondition(lambda self: self.readers)
    @rule(
        which=st.integers(0, 3),
        faults=st.lists(st.lists(st.sampled_from(FAULTS), max_size=5), min_size=1, max_size=3),
        count=st.integers(0, 4),
    )
    def fault(self, which: int, faults: list[list[Fault]], count: int) -> None:
        """Before the next batches things go wrong in a row, whichever servers are asked."""
        reader = self.readers[which % len(self.readers)]
        for place, each in enumerate(faults, start=reader.next_index):
            self.fleet.script.batches[reader.shard, place] = list(each)
        self.take(which, count)

    @rule(faults=st.lists(st.sampled_from([ELSEWHERE[3], ELSEWHERE[4], UNCLEAR[0]]), max_size=3))
    def refuse(self, faults: list[Any]) -> None:
        """The next streams are refused."""
        self.fleet.script.calls["StreamBatches"] = list(faults)

    @precondition(lambda self: len(self.fleet.servicers) < 6)
    @rule()
    def come(self) -> None:
        """A server appears."""
        self.fleet.come()

    @rule(data=st.data(), named=st.booleans(), running=st.booleans())
    def change(self, data: st.DataObject, named: bool, running: bool) -> None:
        """A server crashes, or comes back; its name is withdrawn, or given again."""
        address = data.draw(st.sampled_from(sorted(self.fleet.servicers)))
        (self.fleet.listed.add if named else self.fleet.listed.discard)(address)
        (self.fleet.alive.add if running else self.fleet.alive.discard)(address)

    @rule()
    def forget(self) -> None:
        """Servers forget their snapshots."""
        self.fleet.forget_snapshots()

    @rule(seconds=st.floats(0.0, 120.0))
    def wait(self, seconds: float) -> None:
        """The trainer takes its time, which is nobody's fault."""
        self.fleet.clock.now += seconds

    @rule()
    def finish(self) -> None:
        """All is well again: every stream comes to its end."""
        self.fleet.script.batches.clear()
        self.fleet.script.calls.clear()
        if not self.fleet.listed & self.fleet.alive:
            self.fleet.come()
        while self.readers:
            reader = self.readers[0]
            assert self.take_one(reader) or reader not in self.readers


@pytest.mark.timeout(900)
def test_streams_through_random_histories_of_a_fleet() -> None:
    run_state_machine_as_test(
        Streams,
        settings=settings(
            max_examples=EXAMPLES,
            derandomize=SAME,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("key", range(20))
def test_every_server_has_its_turn_in_every_round(key: int) -> None:
    """Of a fleet of which one is left, that one is not passed over for those that are gone."""
    clock = Clock()
    addresses = [f"10.0.0.{i}:1" for i in range(4)]
    fleet = StaticFleet(StaticTarget(tuple(addresses)))
    tries = Attempts(
        *(fleet, Placement(clock), "streaming"), key=b"%d" % key, timeout_s=TIMEOUT_S, clock=clock
    )
    asked: list[str] = []
    for _ in range(5 * len(addresses)):
        with tries.server() as address:
            asked.append(address)
        clock.now += min(2.5, tries.failed(ServerUnavailableError("gone", server=address)))
    rounds = [asked[i : i + 4] for i in range(0, len(asked), 4)]
    assert [sorted(each) for each in rounds] == [addresses] * 5
