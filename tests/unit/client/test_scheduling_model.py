"""A model check of scheduling: random histories of ranks that step, save, crash, and are resized.

The whole client is there but for servers: plans, deals, schedules, readers, states as JSON, and the
agreement on steps. Whatever happens, every batch of an epoch is delivered once or reported.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from dataclasses import replace as but
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.fakes.numbered import NumberedShard, reader_of
from tests.fakes.step_group import FakeGroup
from trainer_client import RequestError, StateMismatchError, merge_state_dicts
from trainer_client import schedule as planning
from trainer_client import state as states
from trainer_client.epoch import EpochReader
from trainer_client.in_step import InStep, choose_uneven
from trainer_client.options import Uneven
from trainer_client.schedule import Position, Schedule, Share
from trainer_client.telemetry import Meter

# Of a few seconds; make chaos asks for more.
EXAMPLES = int(os.environ.get("HEADRACE_MODEL_EXAMPLES", "600"))
# The same histories in every run of the tests; make chaos looks for others.
SAME = "HEADRACE_MODEL_EXAMPLES" not in os.environ
Key = tuple[int, int]
MODES: tuple[Uneven, ...] = ("drop", "pad", "sync", "sync-pad", "none")
# Steps of each rank; of all ranks where they go together.
STEPS = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@dataclass
class Rank:
    """One trainer: what it took since it was started, and where it stood then."""

    start: Position | None
    reader: EpochReader | None
    steps: Any = None
    share: Share | None = None
    meter: Meter = field(default_factory=Meter)
    taken: list[tuple[Key, bool, Position]] = field(default_factory=list)
    skipped: int = 0
    ended: bool = False

    def keys(self, count: int | None = None) -> list[Key]:
        return [key for key, padding, _ in self.taken[:count] if not padding]


@dataclass
class Checkpoint:
    """The states of all ranks, by rank, as text; and what those have delivered together.

    futures are what ranks took after it, by interleave and mode: they take the same again.
    """

    epoch: int
    states: list[str]
    mode: Uneven
    delivered: list[Key]
    futures: dict[tuple[int, str], dict[int, list[tuple[Key, bool]]]] = field(default_factory=dict)


class Trainers(RuleBasedStateMachine):
    """Ranks over one dataset that step together, or each for itself where that is the mode."""

    @initialize(
        shards=st.lists(
            st.builds(NumberedShard, st.integers(0, 7), st.booleans()), min_size=1, max_size=8
        ),
        known=st.booleans(),
        drop_last=st.booleans(),
        wanted=st.sampled_from(MODES),
        world_size=st.integers(1, 4),
        interleave=st.integers(1, 5),
    )
    def begin(
        self,
        shards: list[NumberedShard],
        known: bool,
        drop_last: bool,
        wanted: Uneven,
        world_size: int,
        interleave: int,
    ) -> None:
        self.shards, self.known, self.drop_last = shards, known, drop_last
        self.epoch = 0
        self.ranks: list[Rank] = []
        self.delivered: list[Key] = []
        self.expected: dict[int, list[tuple[Key, bool]]] = {}
        self.start(self.mode_for(wanted, world_size), interleave, [""] * world_size)
        self.save(0, False)

    def teardown(self) -> None:
        """Every history goes on to the end of its epoch, unless it has failed."""
        try:
            if hasattr(self, "saved") and sys.exception() is None:
                self.finish()
        finally:
            self.stop()

    def stop(self) -> None:
        for rank in getattr(self, "ranks", []):
            if rank.reader is not None:
                rank.reader.close()

    def mode_for(self, wanted: Uneven, world_size: int) -> Uneven:
        """As the client chooses, with a process group."""
        if self.known or world_size == 1:
            return choose_uneven(wanted, 0, world_size, known=self.known)
        return {"drop": "sync", "pad": "sync-pad"}.get(wanted, wanted)  # type: ignore[return-value]

    @property
    def every(self) -> Counter[Key]:
        """What is to be delivered or reported."""
        return Counter(
            (number, index)
            for number, shard in enumerate(self.shards)
            for index in range(shard.batch_count - (self.drop_last and self.dropped(shard)))
        )

    def dropped(self, shard: NumberedShard) -> int:
        return int(shard.short and shard.batch_count > 0)

    def setup(self, rank: int, world_size: int) -> states.Setup:
        return states.Setup(
            *("sha256:d", "sha256:s", 0, len(self.shards), 1, False, 1, 1, self.drop_last),
            rank=rank,
            world_size=world_size,
        )

    def start(self, mode: Uneven, interleave: int, texts: list[str]) -> None:
        """Starts as many ranks as there are states, each from its own; "" is the epoch's start."""
        self.stop()
        self.mode, self.interleave = mode, interleave
        counts: list[int | None] = [
            shard.batch_count - (self.drop_last and self.dropped(shard)) if self.known else None
            for shard in self.shards
        ]
        even, pad = mode == "drop", mode in ("pad", "sync-pad")
        # One rank comes after the other: nobody is waited for.
        group = FakeGroup(len(texts), timeout_s=0.0)
        self.ranks = []
        for number, text in enumerate(texts):
            position = None
            if text:
                restored = states.load(json.loads(text), self.setup(number, len(texts)))
                position = restored.position
                if restored.epoch > self.epoch:
                    # It has ended an epoch that others are still in.
                    self.ranks.append(Rank(None, None, ended=True))
                    continue
            share = planning.share(
                *(counts, position.deals if position else (), number, len(texts)),
                even=even,
                pad=mode == "pad",
            )
            start = planning.start_of(
                position or Position(self.epoch), share.segments, even=even, pad=pad
            )
            steps = share.steps if mode == "pad" else None
            schedule = Schedule(share.segments, interleave, start, steps, keep_last=pad)
            meter = Meter()
            reader = reader_of(self.shards, schedule, interleave, meter, drop_last=self.drop_last)
            rank = Rank(position, reader, iter(reader), share, meter)
            if mode in ("sync", "sync-pad"):
                ask: Any = group.ask(number)
                rank.steps = InStep(reader, ask, self.epoch, meter, pad=pad)
                # As the trainer's first next() does.
                rank.steps._look_ahead()
            self.ranks.append(rank)

    def state_of(self, number: int, behind: int, by_batch: bool) -> tuple[str, int]:
        """The state after all but the last few batches, and how many were before them."""
        rank = self.ranks[number]
        count = max(0, len(rank.taken) - behind)
        epoch, position = self.epoch, rank.taken[count - 1][2] if count else rank.start
        if rank.ended and not (by_batch and count) and count == len(rank.taken):
            epoch, position = epoch + 1, None
        setup = self.setup(number, len(self.ranks))
        return json.dumps(states.save(setup, self.interleave, epoch, position)), count

    def take(self, number: int) -> bool:
        """One step of a rank; whether there was one."""
        rank = self.ranks[number]
        batch = next(rank.steps, None)
        if batch is None:
            rank.ended = True
            return False
        position = but(batch.position, skipped=batch.position.skipped + rank.skipped)
        own = rank.keys()
        rank.taken.append((batch.key, batch.padding, position))
        assert not batch.padding or batch.key in own[-1:] or not own
        expected = self.expected.get(number, [])[: len(rank.taken)]
        assert [each[:2] for each in rank.taken[: len(expected)]] == expected
        return True

    def step_all(self, counts: list[int]) -> None:
        """So many steps of every rank: the first count for all, but where each goes alone."""
        running = [n for n, rank in enumerate(self.ranks) if not rank.ended]
        if self.mode == "none":
            for number in running:
                for _ in range(counts[number % len(counts)]):
                    if not self.take(number):
                        break
            return
        for _ in range(counts[0]):
            try:
                took = {self.take(number) for number in running}
            except RequestError:
                # A rank has nothing to repeat, which all are told: they do as it says.
                for number in running[1:] if self.mode == "sync-pad" else []:
                    try:
                        self.take(number)
                    except RequestError:
                        continue
                    raise AssertionError(f"rank {number} was not told") from None
                self.advised()
                return
            assert len(took) <= 1
            if took != {True}:
                return

    def advised(self) -> None:
        """Goes on without padding, from the last checkpoint."""
        advice: Uneven = self.saved.mode
        if advice in ("pad", "sync-pad"):
            advice = "none" if self.known else "sync"
        self.go_back(advice, self.interleave, self.saved.states)

    @rule(counts=STEPS)
    def step(self, counts: list[int]) -> None:
        """Ranks take some steps."""
        self.step_all(counts)
        delivered = self.so_far()
        assert len(set(delivered)) == len(delivered)

    @rule(count=st.integers(1, 3))
    def skip(self, count: int) -> None:
        """Every rank leaves out its next batches: the state counts them, nobody gets them again."""
        before = [len(rank.taken) for rank in self.ranks]
        ranks = self.ranks
        self.step_all([count])
        for rank, first in zip(ranks, before, strict=True):
            for n in range(first, len(rank.taken)):
                rank.skipped += 1
                key, padding, position = rank.taken[n]
                rank.taken[n] = key, padding, but(position, skipped=position.skipped + 1)

    def so_far(self, counts: list[int] | None = None) -> list[Key]:
        """What all ranks have delivered of the epoch, up to some batch of each."""
        found = list(self.delivered)
        for number, rank in enumerate(self.ranks):
            found += rank.keys(None if counts is None else counts[number])
        return found

    @rule(behind=st.integers(0, 3), by_batch=st.booleans())
    def save(self, behind: int, by_batch: bool) -> None:
        """A checkpoint of what was trained on: all ranks have prefetched more."""
        texts, counts = zip(
            *(self.state_of(n, behind, by_batch) for n in range(len(self.ranks))), strict=True
        )
        self.saved = Checkpoint(self.epoch, list(texts), self.mode, self.so_far([*counts]))
        self.remember([*counts])

    def remember(self, counts: list[int]) -> None:
        """Notes what ranks took after the checkpoint from which they have come."""
        futures = self.saved.futures.setdefault((self.interleave, self.mode), {})
        for number, rank in enumerate(self.ranks):
            future = [each[:2] for each in rank.taken[counts[number] :]]
            if len(future) > len(futures.get(number, [])):
                futures[number] = future
        self.since = counts

    def go_back(self, mode: Uneven, interleave: int, texts: list[str]) -> None:
        """Starts again from the checkpoint."""
        own = len(texts) == len(self.ranks) and texts == self.saved.states
        if own and self.since is not None:
            self.remember(self.since)
        self.epoch, self.delivered = self.saved.epoch, list(self.saved.delivered)
        epochs = [json.loads(text)["epoch"] for text in texts]
        if min(epochs) > self.epoch:
            # The end of an epoch is the start of the next.
            self.epoch, self.delivered = self.epoch + 1, []
        futures = self.saved.futures.get((interleave, mode), {}) if own else {}
        self.expected = {n: list(keys) for n, keys in futures.items()}
        self.start(mode, interleave, texts)
        self.since = [0] * len(texts) if own else None

    since: list[int] | None = None

    @rule(
        ahead=STEPS, behind=st.none() | st.integers(0, 3), interleave=st.none() | st.integers(1, 5)
    )
    def crash(self, ahead: list[int], behind: int | None, interleave: int | None) -> None:
        """All ranks go back to a checkpoint, each to its own state, and take the same again."""
        if behind is not None:
            self.save(behind, False)
        self.step_all(ahead)
        for _ in range(2):
            self.go_back(self.saved.mode, interleave or self.interleave, self.saved.states)
            self.step_all(ahead)

    @rule(
        ahead=STEPS,
        behind=st.none() | st.integers(0, 2),
        by_batch=st.booleans(),
        world_size=st.integers(1, 5),
        interleave=st.integers(1, 5),
        wanted=st.sampled_from(MODES),
    )
    def resize(
        self,
        ahead: list[int],
        behind: int | None,
        by_batch: bool,
        world_size: int,
        interleave: int,
        wanted: Uneven,
    ) -> None:
        """A checkpoint goes on with another number of ranks, and another mode."""
        self.step_all(ahead)
        if behind is not None:
            self.save(behind, by_batch)
        own = [json.loads(text) for text in self.saved.states]
        try:
            merged = json.dumps(merge_state_dicts(own))
        except StateMismatchError:
            # Who has ended does not say how the epoch was dealt, nor does who has not begun.
            begun = [each["position"] for each in own if each["epoch"] == self.saved.epoch]
            assert 0 < len(begun) < len(own)
            assert not any(position and position["delivered"] for position in begun)
            return
        self.go_back(self.mode_for(wanted, world_size), interleave, [merged] * world_size)
        if not self.lacks():
            self.save(0, False)

    def lacks(self) -> bool:
        """Whether a rank has nothing to repeat: the client says so before the first step."""
        shares = [rank.share for rank in self.ranks if rank.share is not None]
        deals = self.ranks[0].start.deals if self.ranks[0].start else ()
        none = any(min(s.batches) == 0 < max(s.batches) for s in shares)
        return self.mode == "pad" and none and planning.last_of(deals) is None

    @rule()
    def finish(self) -> None:
        """The epoch goes on to its end: nothing is lost, nothing doubled; then the next one."""
        while not all(rank.ended for rank in self.ranks):
            self.step_all([1])
        delivered = Counter(self.so_far())
        missing = self.every - delivered
        assert not delivered - self.every
        left = sum(rank.meter.stats().left_out_batches for rank in self.ranks)
        # A rank that started at the end has no part in the rest.
        shares = [rank.share for rank in self.ranks if rank.share is not None]
        if self.mode == "drop" and shares:
            rest = [
                (s.shard, s.first_batch + i)
                for s in shares[0].rest
                for i in range(s.batch_count or 0)
            ]
            assert missing == Counter(rest)
            assert len(rest) < len(self.ranks)
        elif self.mode == "sync":
            assert missing.total() == left
        elif shares:
            assert not missing
        for rank in self.ranks:
            if rank.share is not None and rank.share.steps is not None:
                before = rank.start.delivered if rank.start else 0
                assert before + len(rank.taken) == rank.share.steps
        self.save(0, False)
        assert {json.loads(text)["epoch"] for text in self.saved.states} == {self.epoch + 1}
        self.go_back(self.mode, self.interleave, self.saved.states)


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:drop_last left out")
def test_every_batch_once_through_random_histories() -> None:
    run_state_machine_as_test(
        Trainers,
        settings=settings(
            max_examples=EXAMPLES,
            derandomize=SAME,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
