"""What a rank repeats where others have batches left, and where it stands then."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.numbered import NumberedShard, reader_of
from tests.fakes.step_group import FakeGroup
from trainer_client import RequestError
from trainer_client import schedule as planning
from trainer_client.epoch import EpochReader
from trainer_client.in_step import InStep
from trainer_client.schedule import Position, Schedule
from trainer_client.telemetry import Meter

Ranks = list[tuple[InStep, EpochReader]]


def ranks(
    shards: list[NumberedShard], positions: list[Position | None], *, drop_last: bool = False
) -> Ranks:
    """Ranks in step over shards of unknown length, each from its position."""
    group = FakeGroup(len(positions), timeout_s=0.0)
    made = []
    for number, position in enumerate(positions):
        share = planning.share(
            *([None] * len(shards), (), number, len(positions)), even=False, pad=False
        )
        start = planning.start_of(position or Position(0), share.segments, even=False, pad=True)
        schedule = Schedule(share.segments, 1, start, keep_last=True)
        meter = Meter()
        reader = reader_of(shards, schedule, 1, meter, drop_last=drop_last)
        unread: Any = reader
        made.append((InStep(unread, group.ask(number), 0, meter, pad=True), reader))
    for steps, _ in made:
        # As the first next() does; here one rank comes after the other.
        steps._look_ahead()
    return made


def step(made: Ranks) -> list[Any]:
    return [next(steps) for steps, _ in made]


def close(made: Ranks) -> None:
    for _, reader in made:
        reader.close()


def test_a_rank_that_repeats_after_a_restore_is_still_in_the_epoch() -> None:
    shards = [NumberedShard(6), NumberedShard(1)]
    made = ranks(shards, [None, None])
    taken = [step(made) for _ in range(6)]
    close(made)
    positions = [batch.position for batch in taken[1]]
    for done in range(2, 6):
        made = ranks(shards, positions)
        batches = step(made)
        close(made)
        assert [batch.key for batch in batches] == [(0, done), (1, 0)]
        assert [batch.padding for batch in batches] == [False, True]
        # Saved again, and restored again.
        positions = [Position.from_json(0, batch.position.to_json()) for batch in batches]
        assert not positions[1].finished


@pytest.mark.filterwarnings("ignore:drop_last left out")
def test_a_batch_that_was_dropped_is_not_repeated() -> None:
    shards = [NumberedShard(5), NumberedShard(2, short=True)]
    made = ranks(shards, [None, None], drop_last=True)
    taken = [step(made) for _ in range(4)]
    close(made)
    assert [batches[1].key for batches in taken] == [(1, 0)] * 4
    for done in range(1, 4):
        made = ranks(shards, [batch.position for batch in taken[done]], drop_last=True)
        assert [batch.key for batch in step(made)] == [(0, done + 1), (1, 0)]
        close(made)


@pytest.mark.filterwarnings("ignore:drop_last left out")
def test_a_rank_whose_batches_are_all_dropped_has_none_to_repeat() -> None:
    made = ranks([NumberedShard(2), NumberedShard(1, short=True)], [None, None], drop_last=True)
    for steps, _ in made:
        with pytest.raises(RequestError, match="rank 1 has no batch at all"):
            next(steps)
    close(made)
