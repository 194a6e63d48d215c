"""What verify finds between two runs, on ledgers of batches that never were."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.ledgers import (
    ABOUT,
    BATCH_SIZE,
    SETUP,
    LoggedBatch,
    begin,
    flat_batches,
    write_run,
)
from trainer_client.ledger.lines import PADDED, SKIPPED
from trainer_client.ledger.run import load
from trainer_client.ledger.writer import Ledger
from trainer_client.verify import complete
from trainer_client.verify.compare import DIFFERENT, SAME, UNKNOWN, Comparison, compare
from trainer_client.verify.complete import COMPLETE, FAULTY, UNFINISHED, check_epoch
from trainer_client.verify.report import comparison_lines
from trainer_client.verify.served import ShardPlans

EPOCH = flat_batches(4, 25)


def compared(tmp_path: Path, a: Sequence[LoggedBatch], b: Sequence[LoggedBatch]) -> Comparison:
    """Two runs whose first epochs are the same and whose second ones are a and b."""
    write_run(tmp_path / "a", EPOCH, a)
    write_run(tmp_path / "b", EPOCH, b)
    left, right = load(tmp_path / "a"), load(tmp_path / "b")
    found = compare(left, right)
    lines = list(comparison_lines(left, right, found))
    assert all(len(line) <= 80 or "trainer-client show" in line for line in lines), lines
    assert found.epochs[0].verdict == SAME
    assert not found.differences
    return found


def first_of(found: Comparison) -> tuple[str, Any, Any]:
    """Why the second epochs part, and the steps at which they do."""
    result = found.epochs[1]
    assert (found.verdict, result.verdict) == (DIFFERENT, DIFFERENT)
    assert result.first is not None
    a, b = result.first.a, result.first.b
    return result.first.what, a and a.step, b and b.step


def test_the_same_is_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, EPOCH, EPOCH)
    assert found.verdict == SAME
    assert [result.by for result in found.epochs] == ["order", "order"]


@pytest.mark.parametrize("at", [0, 41, 99])
def test_a_changed_value(tmp_path: Path, at: int) -> None:
    changed = [*EPOCH]
    changed[at] = replace(EPOCH[at], content_checksum=EPOCH[at].content_checksum ^ 1)
    found = compared(tmp_path, EPOCH, changed)
    assert first_of(found) == ("the batch holds other values", at, at)
    result = found.epochs[1]
    assert (result.same, result.changed, result.only_a, result.only_b) == (99, 1, 0, 0)
    assert result.first is not None
    assert result.first.a is not None
    shard, index = EPOCH[at].shard, EPOCH[at].index
    assert result.first.a.cursor == (0, index * BATCH_SIZE, 0, index)
    assert (result.first.a.shard, result.first.a.index) == (shard, index)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 60), (98, 99)])
def test_a_swapped_pair(tmp_path: Path, one: int, other: int) -> None:
    swapped = [*EPOCH]
    swapped[one], swapped[other] = EPOCH[other], EPOCH[one]
    found = compared(tmp_path, EPOCH, swapped)
    what = f"the batch is swapped with that of step {other}"
    assert first_of(found) == (what, one, one)
    assert found.epochs[1].same == 100


@pytest.mark.parametrize("at", [0, 50, 99])
def test_a_skipped_batch(tmp_path: Path, at: int) -> None:
    found = compared(tmp_path, EPOCH, EPOCH[:at] + EPOCH[at + 1 :])
    there = None if at == 99 else at
    assert first_of(found) == ("B skipped the batch of A", at, there)
    assert (found.epochs[1].same, found.epochs[1].only_a) == (99, 1)
    assert first_of(compare(load(tmp_path / "b"), load(tmp_path / "a"))) == (
        *("A skipped the batch of B", there, at),
    )


@pytest.mark.parametrize("at", [0, 50, 99])
@pytest.mark.parametrize("later", [1, 30])
def test_a_repeated_batch(tmp_path: Path, at: int, later: int) -> None:
    if at + later > 100:
        later = 1
    found = compared(tmp_path, EPOCH, [*EPOCH[: at + later], EPOCH[at], *EPOCH[at + later :]])
    what, ours, theirs = first_of(found)
    assert theirs == at + later
    if at + later < 100:
        assert (what, ours) == (f"B repeats the batch of its step {at}", theirs)
    else:
        assert (what, ours) == ("B hands out the batch 2 times, A 1 times", None)
    assert (found.epochs[1].same, found.epochs[1].repeated) == (100, 1)


def test_a_batch_that_was_skipped_on_purpose_or_is_padding(tmp_path: Path) -> None:
    marked = [*EPOCH]
    marked[7] = replace(EPOCH[7], kind=SKIPPED)
    found = compared(tmp_path / "skip", EPOCH, marked)
    assert first_of(found) == ("in A it was trained on, in B left out by skip()", 7, 7)
    padded = [*EPOCH, replace(EPOCH[-1], kind=PADDED)]
    assert compared(tmp_path / "same", padded, padded).verdict == SAME
    found = compared(tmp_path / "pad", EPOCH, padded)
    assert first_of(found)[1:] == (None, 100)


def test_another_order_altogether(tmp_path: Path) -> None:
    shuffled = [*EPOCH]
    random.Random(1).shuffle(shuffled)  # noqa: S311 - a repeatable order
    found = compared(tmp_path, EPOCH, shuffled)
    assert "order is another" in first_of(found)[0] or "swapped" in first_of(found)[0]
    assert found.epochs[1].same == 100


def test_a_run_that_goes_on_or_still_goes_cannot_be_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", EPOCH, EPOCH)
    write_run(tmp_path / "b", EPOCH)
    found = compare(load(tmp_path / "a"), load(tmp_path / "b"))
    assert (found.verdict, found.only_in) == (UNKNOWN, {1: "A"})
    ledger = Ledger(tmp_path / "c", batch_size=BATCH_SIZE, about=ABOUT)
    begin(ledger, 0)
    for batch in EPOCH[:30]:
        ledger.step(batch)
    ledger.flush()
    found = compare(load(tmp_path / "b"), load(tmp_path / "c"))
    assert (found.verdict, found.epochs[0].verdict) == (UNKNOWN, UNKNOWN)
    assert found.epochs[0].open_ended == ["B"]
    ledger.close()


def test_a_gap_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "a", EPOCH)
    first = Ledger(tmp_path / "b", batch_size=BATCH_SIZE, about=ABOUT)
    begin(first, 0)
    for batch in EPOCH[:30]:
        name, _ = first.step(batch)
    first.close()
    # The state was taken after 40 steps, of which 10 could not be written.
    second = Ledger(tmp_path / "b", batch_size=BATCH_SIZE, about=ABOUT)
    second.resumed([(name, 40)], 0, middle=True, merged=False)
    begin(second, 0)
    for batch in EPOCH[40:]:
        second.step(batch)
    second.end(0)
    second.close()
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    found = compare(a, b)
    assert (found.verdict, found.epochs[0].by, found.epochs[0].only_a) == (UNKNOWN, "gap", 10)
    assert "after 30 steps, and the run went on from a state after 40" in found.problems[0]
    report = check_epoch(b.epochs[0], plan_of(25), b)
    assert (report.verdict, report.missing) == (complete.UNKNOWN, 10)


def test_settings_are_named_before_any_batch(tmp_path: Path) -> None:
    runs: list[tuple[str, dict[str, Any]]] = [
        ("a", {}),
        ("b", {"setup": SETUP | {"seed": 9, "snapshot": "sha256:2"}, "interleave": 2}),
    ]
    for name, about in runs:
        ledger = Ledger(tmp_path / name, batch_size=BATCH_SIZE, about=ABOUT)
        for epoch in range(2):
            begin(ledger, epoch, **about)
            for batch in EPOCH:
                ledger.step(batch)
            ledger.end(epoch)
        ledger.close()
    left, right = load(tmp_path / "a"), load(tmp_path / "b")
    found = compare(left, right)
    assert [(d.epoch, d.name, d.a, d.b) for d in found.differences] == [
        (0, "snapshot", "sha256:1", "sha256:2"),
        (0, "seed", 0, 9),
        (0, "interleave", 4, 2),
    ]
    text = "\n".join(comparison_lines(left, right, found))
    first = text.index("from epoch 0 on snapshot differs: sha256:1 in A, sha256:2 in B")
    assert first < text.index("\nepoch 0: ")
    # What was trained on is the same all the same.
    assert found.verdict == SAME


def dealt(folder: Path, world_size: int, batches: Sequence[LoggedBatch], **about: Any) -> None:
    """An epoch dealt round robin to ranks."""
    for rank in range(world_size):
        names = ABOUT | {"rank": rank, "world_size": world_size}
        ledger = Ledger(folder, batch_size=BATCH_SIZE, about=names)
        begin(ledger, 0, [world_size], **about)
        for batch in batches[rank::world_size]:
            ledger.step(batch)
        ledger.end(0)
        ledger.close()


def test_other_numbers_of_ranks_are_compared_batch_by_batch(tmp_path: Path) -> None:
    dealt(tmp_path / "a", 2, EPOCH)
    dealt(tmp_path / "b", 3, EPOCH[:-1], left_out=[[3, 24, 1]])
    found = compare(load(tmp_path / "a"), load(tmp_path / "b"))
    result = found.epochs[0]
    assert (found.verdict, result.by, result.same, result.left_out) == (SAME, "batch", 99, 1)
    assert [(d.name, d.a, d.b) for d in found.differences] == [("world_size", "2", "3")]
    wrong = [*EPOCH]
    wrong[10] = replace(wrong[10], content_checksum=1)
    wrong[20] = wrong[21]
    dealt(tmp_path / "c", 3, wrong)
    result = compare(load(tmp_path / "a"), load(tmp_path / "c")).epochs[0]
    assert (result.verdict, result.changed, result.only_a, result.repeated) == (DIFFERENT, 1, 1, 1)
    assert result.first is not None
    assert result.first.what == "the batch holds other values"
    assert (str(result.first.a), str(result.first.b)) == ("step 5 of rank 0", "step 3 of rank 1")


def plan_of(batches: int) -> ShardPlans:
    counts = np.full(4, batches, np.int64)
    return ShardPlans(4, counts, counts * BATCH_SIZE)


@pytest.mark.parametrize(
    ("change", "verdict", "missing", "doubled", "named"),
    [
        (lambda e: e, COMPLETE, 0, 0, []),
        (lambda e: e[:-1], FAULTY, 1, 0, ["was not handed out"]),
        (lambda e: [*e[:5], *e[6:]], FAULTY, 1, 0, ["was not handed out"]),
        (lambda e: [*e, e[3]], FAULTY, 0, 1, ["was handed out 2 times"]),
        (lambda e: [*e, replace(e[3], kind=PADDED)], COMPLETE, 0, 0, []),
        (lambda e: [*e, replace(e[3], shard=9)], FAULTY, 0, 1, ["is not in the plan"]),
        (lambda e: [*e, replace(e[3], index=25)], FAULTY, 0, 1, ["is not in the plan"]),
        (
            lambda e: [replace(e[0], batch_size=3), *e[1:]],
            FAULTY, 0, 0, ["had 3 rows, the plan says 4"],
        ),
    ],
)  # fmt: skip
def test_an_epoch_against_its_plan(
    tmp_path: Path, change: Any, verdict: str, missing: int, doubled: int, named: list[str]
) -> None:
    write_run(tmp_path, change(EPOCH))
    run = load(tmp_path)
    report = check_epoch(run.epochs[0], plan_of(25), run)
    assert (report.verdict, report.missing, report.doubled) == (verdict, missing, doubled)
    assert [fault.what for fault in report.faults] == named
    assert (report.planned_batches, report.planned_rows) == (100, 400)


def test_an_unfinished_epoch_lacks_nothing_yet_but_may_have_too_much(tmp_path: Path) -> None:
    for name, batches, verdict in (
        ("a", EPOCH[:50], UNFINISHED),
        ("b", [*EPOCH[:50], EPOCH[0]], FAULTY),
    ):
        ledger = Ledger(tmp_path / name, batch_size=BATCH_SIZE, about=ABOUT)
        begin(ledger, 0)
        for batch in batches:
            ledger.step(batch)
        ledger.close()
        run = load(tmp_path / name)
        report = check_epoch(run.epochs[0], plan_of(25), run)
        assert (report.verdict, report.missing) == (verdict, 50)


def test_shards_of_unknown_length_have_no_holes_and_an_end(tmp_path: Path) -> None:
    plan = ShardPlans(4, None, None)

    def verdict(name: str, batches: Sequence[LoggedBatch], ends: dict[int, int]) -> str:
        ledger = Ledger(tmp_path / name, batch_size=BATCH_SIZE, about=ABOUT)
        begin(ledger, 0, counted=False, uneven="none")
        for batch in batches:
            ledger.step(batch)
        for shard, count in ends.items():
            ledger.shard_ended(0, shard, count)
        ledger.end(0)
        ledger.close()
        run = load(tmp_path / name)
        report = check_epoch(run.epochs[0], plan, run)
        return report.verdict

    ends = dict.fromkeys(range(4), 25)
    assert verdict("whole", EPOCH, ends) == COMPLETE
    assert verdict("hole", [*EPOCH[:50], *EPOCH[51:]], ends) == FAULTY
    assert verdict("short", EPOCH[:-1], ends) == FAULTY
    assert verdict("long", EPOCH, ends | {2: 24}) == UNKNOWN
    assert verdict("open", EPOCH, {0: 25}) == UNKNOWN


def test_a_step_takes_a_few_bytes_of_memory(tmp_path: Path) -> None:
    steps = 50_000
    write_run(tmp_path, flat_batches(8, steps // 8))
    run = load(tmp_path)
    assert compare(run, run).verdict == SAME
    assert run.sessions[0].steps.nbytes == steps * 45
