"""Whether two runs trained on the same bytes, and where they first part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_client.ledger.run import Epoch, Run
from trainer_client.verify.table import Ints, Place, Table, key

SAME, DIFFERENT, UNKNOWN = "same", "different", "unknown"
# What fixes the order on a rank, besides what fixes the batches.
_ORDER = ("interleave", "uneven")


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, from an epoch on."""

    epoch: int
    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two runs first part, and why; a or b is None where that run has no batch there."""

    what: str
    a: Place | None
    b: Place | None


@dataclass(slots=True)
class EpochResult:
    """What became of an epoch; only_a and the like count batches.

    by is "order", "batch", or "gap": by batch, since a ledger lacks steps. left_out counts those
    that one run left out on purpose (uneven=, drop_last) and the other one had. open_ended says
    which run ended before the epoch did, or has a gap: what it lacks is not known.
    """

    epoch: int
    by: str
    steps_a: int
    steps_b: int
    verdict: str = SAME
    first: Parting | None = None
    same: int = 0
    changed: int = 0
    only_a: int = 0
    only_b: int = 0
    repeated: int = 0
    left_out: int = 0
    open_ended: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """The differences of settings, then epoch by epoch; problems are gaps in the ledgers."""

    differences: list[Difference]
    epochs: list[EpochResult]
    problems: list[str]
    only_in: dict[int, str]

    @property
    def verdict(self) -> str:
        """The worst that was found."""
        found = {result.verdict for result in self.epochs}
        if DIFFERENT in found:
            return DIFFERENT
        certain = found == {SAME} and not self.problems and not self.only_in
        return SAME if certain else UNKNOWN


def compare(a: Run, b: Run) -> Comparison:
    """Compares two runs, epoch by epoch."""
    problems = [f"A: {text}" for text in _problems(a)] + [f"B: {text}" for text in _problems(b)]
    shared = sorted(a.epochs.keys() & b.epochs.keys())
    only_in = {number: "A" if number in a.epochs else "B" for number in a.epochs ^ b.epochs.keys()}
    differences: list[Difference] = []
    said: dict[str, tuple[Any, Any]] = {}
    for number in shared:
        for found in _differences(a.epochs[number], b.epochs[number]):
            if said.get(found.name) != (found.a, found.b):
                said[found.name] = found.a, found.b
                differences.append(found)
    gaps = bool(a.problems), bool(b.problems)
    results = [_compare_epoch(a.epochs[number], b.epochs[number], gaps) for number in shared]
    return Comparison(differences, results, problems, dict(sorted(only_in.items())))


def _problems(run: Run) -> list[str]:
    return [*run.problems, *(text for epoch in run.epochs.values() for text in epoch.problems)]


def _differences(a: Epoch, b: Epoch) -> list[Difference]:
    found = [
        Difference(a.number, name, a.setup.get(name), b.setup.get(name))
        for name in dict.fromkeys((*a.setup, *b.setup))
    ]
    deals = [" then ".join(map(str, epoch.deals)) for epoch in (a, b)]
    found.append(Difference(a.number, "world_size", *deals))
    found += [Difference(a.number, name, a.begin[name], b.begin[name]) for name in _ORDER]
    return [each for each in found if each.a != each.b]


def _compare_epoch(a: Epoch, b: Epoch, gaps: tuple[bool, bool]) -> EpochResult:
    left, right = Table(a), Table(b)
    gap_a, gap_b = gaps[0] or bool(a.problems), gaps[1] or bool(b.problems)
    by = "order" if _dealt_alike(left, right) else "batch"
    result = EpochResult(a.number, "gap" if gap_a or gap_b else by, len(left), len(right))
    open_ended = {"A": gap_a or not a.ended, "B": gap_b or not b.ended}
    result.open_ended = [name for name in open_ended if open_ended[name]]
    wrong_a, wrong_b = _count(left, right, result)
    if result.by == "order":
        _by_order(left, right, result)
    elif wrong_a is not None or wrong_b is not None:
        result.first = _explain(left, right, wrong_a, wrong_b)
    if result.first is not None:
        result.verdict = DIFFERENT
    elif result.open_ended and (len(left) != len(right) or result.by != "order"):
        # As far as both go.
        result.verdict = SAME if result.only_a == result.only_b == 0 else UNKNOWN
    return result


def _dealt_alike(a: Table, b: Table) -> bool:
    """Whether ranks were given the same batches to hand out, so that their order can be compared.

    Once an epoch is dealt anew, that hangs on how far each rank had come.
    """
    if list(a.epoch.deals) != list(b.epoch.deals):
        return False
    earlier = range(len(a.epoch.deals) - 1)
    lengths_a, lengths_b = a.lengths(), b.lengths()
    return all(
        lengths_a.get((deal, rank), 0) == lengths_b.get((deal, rank), 0)
        for deal in earlier
        for rank in range(a.epoch.deals[deal])
    )


def _count(a: Table, b: Table, result: EpochResult) -> tuple[int | None, int | None]:
    """Counts batches, whatever their order; the first row of each that makes a difference."""
    ours, theirs = _Batches(a), _Batches(b)
    both_a = np.isin(ours.keys, theirs.keys, assume_unique=True)
    both_b = np.isin(theirs.keys, ours.keys, assume_unique=True)
    changed = ours.contents[both_a] != theirs.contents[both_b]
    more_a = ours.counts[both_a] > theirs.counts[both_b]
    more_b = theirs.counts[both_b] > ours.counts[both_a]
    result.changed = int(changed.sum())
    result.same = int((~changed).sum())
    result.repeated = int(more_a.sum() + more_b.sum())
    only_a, only_b = ours.keys[~both_a], theirs.keys[~both_b]
    meant_a = np.isin(only_a, _left_out(b.epoch, only_a))
    meant_b = np.isin(only_b, _left_out(a.epoch, only_b))
    result.left_out = int(meant_a.sum() + meant_b.sum())
    only_a, only_b = only_a[~meant_a], only_b[~meant_b]
    result.only_a, result.only_b = len(only_a), len(only_b)
    # What a run lacks that ended before the epoch did, it may have had later.
    lacking_b = only_a[:0] if "B" in result.open_ended else only_a
    lacking_a = only_b[:0] if "A" in result.open_ended else only_b
    suspects_a = np.concatenate((ours.keys[both_a][changed | more_a], lacking_b))
    suspects_b = np.concatenate((theirs.keys[both_b][more_b], lacking_a))
    return _last_of_first(a, suspects_a), _last_of_first(b, suspects_b)


def _last_of_first(table: Table, suspects: Ints) -> int | None:
    """The first row of a batch that is one of those."""
    return table.first_of(np.isin(table.keys, suspects) & table.counts)


class _Batches:
    """The distinct batches of a table, by number: what became of them, and how often they came."""

    def __init__(self, table: Table) -> None:
        rows = np.flatnonzero(table.counts)
        self.keys, first, self.counts = np.unique(
            table.keys[rows], return_index=True, return_counts=True
        )
        steps = table.steps[rows[first]]
        self.contents = steps["hash"].astype(np.int64) + (steps["kind"].astype(np.int64) << 32)


def _left_out(epoch: Epoch, candidates: Ints) -> Ints:
    """Those batches that an epoch left out on purpose."""
    parts = [
        candidates[(candidates >= key(shard, first)) & (candidates < key(shard, first + count))]
        for shard, first, count in epoch.begin["left_out"]
    ]
    named = [key(*place) for place in (*epoch.left_out, *epoch.dropped)]
    return np.concatenate([*parts, np.array(named, np.int64)])


def _by_order(a: Table, b: Table, result: EpochResult) -> None:
    """Finds the first step at which the runs part."""
    lengths_a, lengths_b = a.lengths(), b.lengths()
    parted: list[tuple[int, int, int, int | None, int | None]] = []
    for place in sorted(lengths_a.keys() | lengths_b.keys()):
        deal, rank = place
        rows_a = a.rows_of(place) if place in lengths_a else slice(0, 0)
        rows_b = b.rows_of(place) if place in lengths_b else slice(0, 0)
        ours, theirs = a.steps[rows_a], b.steps[rows_b]
        common = min(len(ours), len(theirs))
        step = _first_mismatch(ours[:common], theirs[:common])
        if step is not None:
            parted.append((deal, step, rank, rows_a.start + step, rows_b.start + step))
        elif len(ours) > common and _ended(b, place):
            parted.append((deal, common, rank, rows_a.start + common, None))
        elif len(theirs) > common and _ended(a, place):
            parted.append((deal, common, rank, None, rows_b.start + common))
    if parted:
        _, _, _, row_a, row_b = min(parted, key=lambda each: each[:3])
        result.first = _explain(a, b, row_a, row_b, in_order=True)


def _ended(table: Table, place: tuple[int, int]) -> bool:
    """Whether a rank came to the end of its deal: of an earlier one, wherever it stopped."""
    sequence = table.epoch.sequences.get(place)
    return place[0] < len(table.epoch.deals) - 1 or (sequence is not None and sequence.ended)


def _first_mismatch(ours: npt.NDArray[np.void], theirs: npt.NDArray[np.void]) -> int | None:
    wrong = np.zeros(len(ours), bool)
    for name in ("shard", "index", "hash", "rows", "kind"):
        wrong |= ours[name] != theirs[name]
    at = int(wrong.argmax()) if len(wrong) else 0
    return at if len(wrong) and wrong[at] else None


def _explain(
    a: Table, b: Table, row_a: int | None, row_b: int | None, *, in_order: bool = False
) -> Parting:
    """What happened at the rows where two tables part."""
    if not in_order and row_a is not None:
        # By batch: the same batch in B, wherever it is.
        there = b.where(int(a.keys[row_a]))
        row_b = b.first_of(there)
    elif not in_order and row_b is not None:
        row_a = a.first_of(a.where(int(b.keys[row_b])))
    place_a = None if row_a is None else a.place(row_a)
    place_b = None if row_b is None else b.place(row_b)
    if place_a is not None and place_b is not None:
        if (place_a.shard, place_a.index) == (place_b.shard, place_b.index):
            return Parting(_of_one_batch(a, b, place_a, place_b), place_a, place_b)
        assert row_a is not None
        assert row_b is not None
        return Parting(_of_two_batches(a, b, row_a, row_b), place_a, place_b)
    table, other, row, name, lacking = a, b, row_a, "A", "B"
    if row is None:
        table, other, row, name, lacking = b, a, row_b, "B", "A"
    assert row is not None
    return Parting(_of_lone(table, other, row, name, lacking), place_a, place_b)


def _of_one_batch(a: Table, b: Table, ours: Place, theirs: Place) -> str:
    number = key(ours.shard, ours.index)
    if ours.content != theirs.content:
        return "the batch holds other values"
    if ours.kind != theirs.kind:
        return f"in A it was {ours.kind}, in B {theirs.kind}"
    times = len(a.where(number)), len(b.where(number))
    if times[0] != times[1]:
        return f"the batch was handed out {times[0]} times in A and {times[1]} times in B"
    return "the batch has another number of rows"


def _of_two_batches(a: Table, b: Table, row_a: int, row_b: int) -> str:
    ours, theirs = int(a.keys[row_a]), int(b.keys[row_b])
    for name, table, row, number, other in (
        ("B", b, row_b, theirs, a),
        ("A", a, row_a, ours, b),
    ):
        times = table.where(number)
        if len(times) > len(other.where(number)):
            earlier = [each for each in times.tolist() if table.first((each, row)) != row]
            if earlier:
                return f"{name} repeats the batch of its {table.place(table.first(earlier))}"
    in_b, in_a = b.where(ours), a.where(theirs)
    if not len(in_b) or not len(in_a):
        lacking = [name for name, found in (("B", in_b), ("A", in_a)) if not len(found)]
        if lacking == ["B"]:
            return "B skipped the batch of A"
        if lacking == ["A"]:
            return "A skipped the batch of B"
        return "each has a batch that the other one has nowhere"
    place_b, place_a = b.place(int(in_b[0])), a.place(int(in_a[0]))
    if (place_a.deal, place_a.step, place_a.rank) == (place_b.deal, place_b.step, place_b.rank):
        return f"the batch is swapped with that of {place_b}"
    return f"the order is another: B has the batch of A at its {place_b}"


def _of_lone(table: Table, other: Table, row: int, name: str, lacking: str) -> str:
    number = int(table.keys[row])
    times, there = len(table.where(number)), len(other.where(number))
    if not there:
        return f"{lacking} skipped the batch of {name}"
    if times > there:
        return f"{name} hands out the batch {times} times, {lacking} {there} times"
    return f"{lacking} has ended, {name} goes on"
