"""A model check of scheduling: random histories of ranks that step, save, crash, and are resized.

The whole client is there but for servers and threads: plans, deals, schedules, states as JSON, and
the agreement on steps. Whatever happens, every batch of an epoch is delivered once or reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fakes.step_group import FakeGroup
from trainer_client import merge_state_dicts
from trainer_client import schedule as planning
from trainer_client import state as states
from trainer_client.cursor import Cursor
from trainer_client.in_step import InStep
from trainer_client.schedule import Position, Schedule
from trainer_client.telemetry import Meter

Key = tuple[int, int]
MODES = ("drop", "pad", "sync", "sync-pad", "none")


@dataclass(frozen=True)
class FakeBatch:
    """One row: a batch is known by its shard and index."""

    key: Key
    position: Position
    padding: bool = False
    batch_size: int = 1

    def but(self, **changes: Any) -> FakeBatch:
        """The same with some fields changed."""
        return replace(self, **changes)


class FakeReader:
    """What EpochReader does, on batches that are there at once; ends says how long shards are."""

    def __init__(self, schedule: Schedule, ends: list[int]) -> None:
        self._schedule = schedule
        self._ends = ends
        self._last: FakeBatch | None = None

    def __iter__(self) -> Iterator[FakeBatch]:
        return self

    def __next__(self) -> FakeBatch:
        while (current := self._schedule.current()) is not None:
            segment = self._schedule.segments[current.segment]
            index = segment.first_batch + current.delivered
            if index == self._ends[segment.shard]:
                self._schedule.end()
                continue
            position = self._schedule.deliver(Cursor(0, index + 1, 0, index + 1))
            batch = FakeBatch((segment.shard, index), position)
            if position.last is not None:
                self._last = batch
            return batch
        if not self._schedule.repeats:
            raise StopIteration
        last = self.last()
        assert last is not None
        return last.but(position=self._schedule.repeat(), padding=True)

    def ready(self) -> bool:
        return True

    def last(self) -> FakeBatch | None:
        known = self._schedule.position.last
        if self._last is None and known is not None:
            self._last = FakeBatch(known, self._schedule.position)
        return self._last

    def close(self) -> None:
        """Holds nothing."""


@dataclass
class Rank:
    """One trainer: where it stands after its last step."""

    reader: Any
    position: Position | None
    epoch: int
    meter: Meter = field(default_factory=Meter)
    ended: bool = False
    steps: int = 0


class Trainers(RuleBasedStateMachine):
    """Ranks over one dataset that step together, or each for itself where that is the mode."""

    @initialize(
        lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6),
        known=st.booleans(),
        mode=st.sampled_from(MODES),
        world_size=st.integers(1, 4),
        interleave=st.integers(1, 5),
    )
    def begin(
        self, lengths: list[int], known: bool, mode: str, world_size: int, interleave: int
    ) -> None:
        self.lengths = lengths
        self.known = known
        if known or world_size == 1:
            mode = {"sync": "drop", "sync-pad": "pad"}.get(mode, mode) if known else "none"
        elif mode in ("drop", "pad"):
            mode = {"drop": "sync", "pad": "sync-pad"}[mode]
        self.mode = mode
        self.epoch = 0
        self.delivered: list[Key] = []
        self.skipped: list[Key] = []
        # What an even deal left out, and how many batches were left over when ranks ended.
        self.rest: list[Key] = []
        self.left = 0
        self.open(world_size, interleave, {})
        self.save()

    @property
    def counts(self) -> list[int | None]:
        return [length if self.known else None for length in self.lengths]

    def setup(self, rank: int, world_size: int) -> states.Setup:
        return states.Setup(
            *("sha256:d", "sha256:s", 0, len(self.lengths), 1, False, 1, 1, False),
            rank=rank,
            world_size=world_size,
        )

    def open(self, world_size: int, interleave: int, state: dict[str, Any]) -> None:
        """Every rank from its own state, or from a merged one (None: of no rank)."""
        self.world_size, self.interleave = world_size, interleave
        self.ranks: list[Rank] = []
        even, pad = self.mode == "drop", self.mode in ("pad", "sync-pad")
        group = FakeGroup(world_size)
        for number in range(world_size):
            position = None
            own = state.get(str(number), state.get("merged"))
            if own is not None:
                restored = states.load(json.loads(own), self.setup(number, world_size))
                assert restored.epoch in (self.epoch, self.epoch + 1)
                position = restored.position
                if restored.epoch == self.epoch + 1:
                    # This rank has ended the epoch; others may not have.
                    rank = Rank(iter(()), None, self.epoch, ended=True)
                    self.ranks.append(rank)
                    continue
            deals = position.deals if position else ()
            given = planning.share(
                self.counts, deals, number, world_size, even=even, pad=self.mode == "pad"
            )
            start = planning.start_of(
                position or Position(self.epoch), given.segments, even=even, pad=pad
            )
            steps = given.steps if self.mode == "pad" else None
            schedule = Schedule(given.segments, interleave, start, steps, keep_last=pad)
            reader: Any = FakeReader(schedule, self.lengths)
            rank = Rank(reader, position, self.epoch)
            if self.mode in ("sync", "sync-pad"):
                ask = group.ask(number)
                rank.reader = InStep(reader, ask, self.epoch, rank.meter, pad=pad)
            self.ranks.append(rank)
            self.rest = [
                (segment.shard, segment.first_batch + i)
                for segment in given.rest
                for i in range(segment.batch_count or 0)
            ]
        self.nothing_to_pad = pad and self._nothing_to_pad()
        for rank in self.ranks:
            if isinstance(rank.reader, InStep) and not self.nothing_to_pad:
                # As the trainer's first next() does; here one rank comes after the other.
                rank.reader._look_ahead()

    def _nothing_to_pad(self) -> bool:
        """Whether a rank has no batch and none to repeat: the client refuses that."""
        own = [self._batches_of(rank) for rank in self.ranks if not rank.ended]
        return any(n == 0 for n in own) and any(own)

    def _batches_of(self, rank: Rank) -> int:
        reader: Any = rank.reader._reader if isinstance(rank.reader, InStep) else rank.reader
        if reader.last() is not None:
            return 1
        return sum(
            self.lengths[s.shard] - s.first_batch if s.batch_count is None else s.batch_count
            for s in reader._schedule.segments
        )

    def state_of(self, number: int) -> dict[str, Any]:
        rank = self.ranks[number]
        if rank.ended:
            return states.save(
                self.setup(number, self.world_size), self.interleave, self.epoch + 1, None
            )
        return states.save(
            self.setup(number, self.world_size), self.interleave, self.epoch, rank.position
        )

    def take(self, rank: Rank) -> bool:
        """One step of a rank; whether there was one."""
        batch = next(rank.reader, None)
        if batch is None:
            rank.ended = True
            return False
        rank.position = batch.position
        rank.steps += 1
        if not batch.padding:
            self.delivered.append(batch.key)
        return True

    @precondition(lambda self: not self.nothing_to_pad)
    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        """Every rank takes some steps: in every mode but one, all of them or none."""
        for _ in range(steps):
            took = [self.take(rank) for rank in self.ranks if not rank.ended]
            if self.mode != "none":
                assert len(set(took)) <= 1, took
        assert len(set(self.delivered)) == len(self.delivered)

    @precondition(lambda self: not self.nothing_to_pad)
    @rule(count=st.integers(1, 3))
    def skip(self, count: int) -> None:
        """Every rank leaves out its next batches."""
        before = len(self.delivered)
        self.step(count)
        self.skipped += self.delivered[before:]

    @rule()
    def save(self) -> None:
        """A checkpoint of all ranks, as text."""
        self.saved = {
            str(number): json.dumps(self.state_of(number)) for number in range(self.world_size)
        }
        self.saved_at = (
            self.world_size,
            list(self.delivered),
            list(self.skipped),
            all(rank.ended for rank in self.ranks),
        )
        self.saved_left = list(self.rest), self.left_over()

    @rule(interleave=st.integers(1, 5), twice=st.booleans())
    def crash(self, interleave: int, twice: bool) -> None:
        """All ranks go back to the checkpoint, each to its own state."""
        world_size, delivered, skipped, _ = self.saved_at
        expected = None
        if interleave == self.interleave and world_size == self.world_size:
            self.rewind(world_size, interleave, self.saved, delivered, skipped)
            expected = self.preview()
        for _ in range(1 + twice):
            self.rewind(world_size, interleave, self.saved, delivered, skipped)
        if expected is not None:
            assert self.preview() == expected
            self.rewind(world_size, interleave, self.saved, delivered, skipped)

    def rewind(
        self,
        world_size: int,
        interleave: int,
        state: dict[str, Any],
        delivered: list[Key],
        skipped: list[Key],
    ) -> None:
        self.delivered, self.skipped = list(delivered), list(skipped)
        self.rest, self.left = list(self.saved_left[0]), self.saved_left[1]
        self.open(world_size, interleave, state)

    def left_over(self) -> int:
        return self.left + sum(rank.meter.stats().left_out_batches for rank in self.ranks)

    def preview(self) -> list[Key]:
        """The next few batches; the ranks are to be opened anew after it."""
        if self.nothing_to_pad:
            return []
        before = len(self.delivered)
        self.step(3)
        return self.delivered[before:]

    @rule(world_size=st.integers(1, 5), interleave=st.integers(1, 5))
    def resize(self, world_size: int, interleave: int) -> None:
        """The checkpoint goes on with another number of ranks."""
        old, delivered, skipped, ended = self.saved_at
        if ended:
            return
        texts = [self.saved[str(number)] for number in range(old)]
        merged = json.dumps(merge_state_dicts([json.loads(text) for text in texts]))
        if self.mode in ("sync", "sync-pad") and world_size == 1:
            world_size = 2
        self.rewind(world_size, interleave, {"merged": merged}, delivered, skipped)
        self.save()

    @precondition(lambda self: not self.nothing_to_pad)
    @rule()
    def finish(self) -> None:
        """The epoch goes on to its end: nothing is lost, nothing doubled; then the next one."""
        while not all(rank.ended for rank in self.ranks):
            self.step(1)
        every = Counter(
            (shard, index) for shard, n in enumerate(self.lengths) for index in range(n)
        )
        delivered = Counter(self.delivered)
        missing = every - delivered
        assert not delivered - every
        if self.mode == "drop":
            assert missing == Counter(self.rest)
            assert len(self.rest) < self.world_size
        elif self.mode == "sync":
            assert missing.total() == self.left_over()
        else:
            assert not missing
        saved = [json.loads(json.dumps(self.state_of(n))) for n in range(self.world_size)]
        merged = merge_state_dicts(saved)
        assert (merged["epoch"], merged["position"]) == (self.epoch + 1, None)
        self.epoch += 1
        self.delivered, self.skipped, self.rest, self.left = [], [], [], 0
        self.open(self.world_size, self.interleave, {"merged": json.dumps(merged)})
        self.save()


def test_every_batch_once_through_random_histories() -> None:
    run_state_machine_as_test(
        Trainers,
        settings=settings(
            max_examples=1500,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
