from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_client.cursor import Cursor
from trainer_client.schedule import (
    Position,
    Schedule,
    Segment,
    assign_whole_shards,
    deal,
)

COUNTS = st.lists(st.integers(0, 12), max_size=12)
WORLD_SIZES = st.integers(1, 7)
Step = tuple[int, int]


def steps(segments: list[Segment]) -> list[Step]:
    return [
        (s.shard, batch)
        for s in segments
        for batch in range(s.first_batch, s.first_batch + (s.batch_count or 0))
    ]


def run(
    segments: list[Segment], interleave: int, position: Position, ends: list[int]
) -> list[Step]:
    """The order of a schedule whose segment n has ends[n] batches, known to it or not."""
    return [step for step, _ in walk(segments, interleave, position, ends)]


def walk(
    segments: list[Segment], interleave: int, position: Position, ends: list[int]
) -> list[tuple[Step, Position]]:
    schedule = Schedule(segments, interleave, position)
    taken = []
    while (current := schedule.current()) is not None:
        if current.delivered == ends[current.segment]:
            schedule.end()
            continue
        segment = segments[current.segment]
        batch = segment.first_batch + current.delivered
        after = schedule.deliver(Cursor(0, batch + 1, 0, batch + 1))
        taken.append(((segment.shard, batch), after))
    return taken


@given(COUNTS, WORLD_SIZES)
def test_every_batch_goes_to_one_rank_and_all_ranks_take_as_many_steps(
    counts: list[int], world_size: int
) -> None:
    dealt, rest = deal(counts, world_size)
    assert {len(steps(segments)) for segments in dealt} == {sum(counts) // world_size}
    everything = sorted(step for part in (*dealt, rest) for step in steps(part))
    assert everything == [(s, b) for s, count in enumerate(counts) for b in range(count)]
    assert len(steps(rest)) == sum(counts) % world_size


def test_whole_shards_come_first_and_are_dealt_round_robin() -> None:
    dealt, _ = deal([4, 4, 4, 4, 4], 2)
    assert dealt[0] == [Segment(0, 0, 4), Segment(2, 0, 4), Segment(4, 0, 2)]
    assert dealt[1] == [Segment(1, 0, 4), Segment(3, 0, 4), Segment(4, 2, 2)]


def test_unknown_counts_give_whole_shards_and_a_warning() -> None:
    segments = assign_whole_shards(5, 1, 2)
    assert segments == [Segment(1, 0, None), Segment(3, 0, None)]
    assert len(assign_whole_shards(5, 0, 1)) == 5


@given(COUNTS, WORLD_SIZES, st.integers(1, 5), st.booleans())
def test_resuming_anywhere_gives_the_identical_rest(
    counts: list[int], world_size: int, interleave: int, known: bool
) -> None:
    segments = deal(counts, world_size)[0][0]
    ends = [s.batch_count or 0 for s in segments]
    if not known:
        segments = [Segment(s.shard, s.first_batch, None) for s in segments]
    whole = walk(segments, interleave, Position(0), ends)
    order = [step for step, _ in whole]
    assert len(order) == sum(ends)
    for done, (_, position) in enumerate(whole, start=1):
        restored = Position.from_json(0, json.loads(json.dumps(position.to_json())))
        assert run(segments, interleave, restored, ends) == order[done:]
        assert position.delivered == done
        assert position.finished == (known and done == len(order))


@given(COUNTS, st.integers(1, 5), st.integers(1, 5))
def test_another_interleave_delivers_exactly_the_rest(
    counts: list[int], before: int, after: int
) -> None:
    segments = deal(counts, 1)[0][0]
    ends = [s.batch_count or 0 for s in segments]
    whole = walk(segments, before, Position(0), ends)
    order = [step for step, _ in whole]
    for done, (_, position) in enumerate(whole, start=1):
        assert sorted(run(segments, after, position, ends)) == sorted(order[done:])


def test_round_robin_gives_an_ended_slot_to_the_next_segment() -> None:
    segments = deal([1, 3, 2, 1], 1)[0][0]
    order = run(segments, 2, Position(0), [1, 3, 2, 1])
    assert order == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (3, 0)]


@pytest.mark.parametrize(
    "change", [{"open": [[0, [1, 2], 3]]}, {"turn": 5}, {"open": [[0, [0, 0, 0, -1], 3]]}]
)
def test_damaged_positions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cursor|turn"):
        Position.from_json(0, Position(0).to_json() | change)


def test_cursors_keep_their_parts_in_every_form() -> None:
    cursor = Cursor(split=4, parquet_row=3, offset=2, batch=1)
    assert Cursor.from_json(cursor.to_json()) == cursor
    assert Cursor.from_proto(cursor.to_proto()) == cursor
