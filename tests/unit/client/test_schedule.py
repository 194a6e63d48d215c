from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_client.cursor import Cursor
from trainer_client.schedule import (
    Deal,
    OpenSegment,
    Position,
    Schedule,
    Segment,
    deal,
    undelivered,
    whole_shards,
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


def everything(counts: list[int]) -> list[Step]:
    return [(s, b) for s, count in enumerate(counts) for b in range(count)]


@given(COUNTS, WORLD_SIZES)
def test_every_batch_goes_to_one_rank_and_all_ranks_take_as_many_steps(
    counts: list[int], world_size: int
) -> None:
    dealt, rest = deal(whole_shards(counts), world_size, even=True)
    assert {len(steps(segments)) for segments in dealt} == {sum(counts) // world_size}
    assert sorted(step for part in (*dealt, rest) for step in steps(part)) == everything(counts)
    assert len(steps(rest)) == sum(counts) % world_size


@given(COUNTS, WORLD_SIZES)
def test_nothing_is_left_out_where_steps_may_be_uneven(counts: list[int], world_size: int) -> None:
    dealt, rest = deal(whole_shards(counts), world_size, even=False)
    assert rest == []
    taken = [len(steps(segments)) for segments in dealt]
    assert taken == sorted(taken, reverse=True)
    assert max(taken) - min(taken) <= 1
    assert sorted(step for part in dealt for step in steps(part)) == everything(counts)


def test_whole_shards_come_first_and_are_dealt_round_robin() -> None:
    dealt, _ = deal(whole_shards([4, 4, 4, 4, 4]), 2, even=True)
    assert dealt[0] == [Segment(0, 0, 4), Segment(2, 0, 4), Segment(4, 0, 2)]
    assert dealt[1] == [Segment(1, 0, 4), Segment(3, 0, 4), Segment(4, 2, 2)]


def test_unknown_counts_give_whole_shards() -> None:
    shards = whole_shards([None] * 5)
    dealt, rest = deal(shards, 2, even=False)
    assert dealt == [shards[::2], shards[1::2]]
    assert rest == []


def test_part_read_shards_come_first_in_the_next_deal() -> None:
    shards = whole_shards([4, 4, 4, 0, 4])
    dealt, _ = deal(shards, 2, even=True)
    schedules = [Schedule(segments, 1, Position(0)) for segments in dealt]
    for _ in range(5):
        for schedule in schedules:
            current = schedule.current()
            assert current is not None
            schedule.deliver(Cursor(0, current.delivered + 1, 0, current.delivered + 1))
    left = undelivered(shards, [Deal(True, tuple(each.position for each in schedules))])
    # Of shards 2 and 4 one batch each is delivered.
    assert left == [
        Segment(2, 1, 3, Cursor(0, 1, 0, 1)),
        Segment(4, 1, 3, Cursor(0, 1, 0, 1)),
    ]


@given(
    COUNTS,
    st.lists(st.tuples(WORLD_SIZES, st.integers(1, 5), st.booleans()), min_size=1, max_size=4),
    st.booleans(),
    st.data(),
)
def test_any_number_of_restores_with_any_world_sizes_deliver_every_batch_once(
    counts: list[int],
    restores: list[tuple[int, int, bool]],
    known: bool,
    data: st.DataObject,
) -> None:
    shards = whole_shards([count if known else None for count in counts])
    deals: list[Deal] = []
    delivered: list[Step] = []
    for number, (world_size, interleave, even) in enumerate(restores, start=1):
        dealt, rest = deal(undelivered(shards, deals), world_size, even=even)
        positions = []
        for segments in dealt:
            ends = [
                counts[s.shard] - s.first_batch if s.batch_count is None else s.batch_count
                for s in segments
            ]
            whole = walk(segments, interleave, Position(0), ends)
            # The last run goes to its end; those before stop anywhere, each rank for itself.
            stop = len(whole) if number == len(restores) else data.draw(st.integers(0, len(whole)))
            delivered += [step for step, _ in whole[:stop]]
            position = whole[stop - 1][1] if stop else Position(0)
            if not known and stop == len(whole):
                position = Position(0, finished=True)
            positions.append(position)
        history = Deal(even, tuple(positions))
        deals.append(Deal.from_json(0, json.loads(json.dumps(history.to_json()))))
    left_out = steps(rest)
    assert len(left_out) < world_size
    assert even or not left_out
    assert sorted([*delivered, *left_out]) == everything(counts)
    # Shards that were read in part, or that some of is left out of, come first.
    left_by_shard = Counter(shard for shard, _ in left_out)
    left_out.sort(key=lambda step: (left_by_shard[step[0]] == counts[step[0]], step))
    assert steps(undelivered(shards, deals)) == left_out


def test_part_read_shards_come_first_in_what_is_left_out() -> None:
    shards = whole_shards([1, 2])
    dealt, _ = deal(shards, 2, even=False)
    assert dealt == [[Segment(0, 0, 1), Segment(1, 0, 1)], [Segment(1, 1, 1)]]
    deals = [Deal(False, (Position(0), Position(0, finished=True)))]
    _, rest = deal(undelivered(shards, deals), 3, even=True)
    assert rest == [Segment(1, 0, 1), Segment(0, 0, 1)]
    deals.append(Deal(True, (Position(0),) * 3))
    assert undelivered(shards, deals) == rest


def test_positions_in_other_segments_are_refused() -> None:
    shards = whole_shards([4, 4])
    for position in (
        Position(0, next_segment=3),
        Position(0, (OpenSegment(1),), next_segment=1),
        Position(0, (OpenSegment(0, None, 5),), next_segment=1),
    ):
        with pytest.raises(ValueError, match="segment"):
            undelivered(shards, [Deal(True, (position,))])


@given(COUNTS, WORLD_SIZES, st.integers(1, 5), st.booleans())
def test_resuming_anywhere_gives_the_identical_rest(
    counts: list[int], world_size: int, interleave: int, known: bool
) -> None:
    segments = deal(whole_shards(counts), world_size, even=True)[0][0]
    ends = [s.batch_count or 0 for s in segments]
    if not known:
        segments = [Segment(s.shard, s.first_batch, None) for s in segments]
    whole = walk(segments, interleave, Position(0), ends)
    order = [step for step, _ in whole]
    assert len(order) == sum(ends)
    for done, (_, position) in enumerate(whole, start=1):
        assert position.delivered == done
        assert position.finished == (known and done == len(order))
        restored = Position.from_json(0, json.loads(json.dumps(position.to_json())))
        assert restored.finished == position.finished
        if not restored.finished:
            assert run(segments, interleave, restored, ends) == order[done:]


@given(COUNTS, st.integers(1, 5), st.integers(1, 5))
def test_another_interleave_delivers_exactly_the_rest(
    counts: list[int], before: int, after: int
) -> None:
    segments = deal(whole_shards(counts), 1, even=True)[0][0]
    ends = [s.batch_count or 0 for s in segments]
    whole = walk(segments, before, Position(0), ends)
    order = [step for step, _ in whole]
    for done, (_, position) in enumerate(whole, start=1):
        assert sorted(run(segments, after, position, ends)) == sorted(order[done:])


def test_round_robin_gives_an_ended_slot_to_the_next_segment() -> None:
    segments = deal(whole_shards([1, 3, 2, 1]), 1, even=True)[0][0]
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
