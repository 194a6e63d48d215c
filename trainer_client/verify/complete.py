"""Whether every batch of an epoch's plan was handed out exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainer_client.ledger.lines import PADDED, SKIPPED
from trainer_client.ledger.run import Epoch, Run
from trainer_client.verify.served import ShardPlans
from trainer_client.verify.table import INDEX_BITS, Ints, Place, Table, key, name_of

COMPLETE, FAULTY, UNFINISHED, UNKNOWN = "complete", "faulty", "unfinished", "unknown"
# Faults of one kind that are named one by one.
NAMED = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """A batch that is not there once: what is wrong, and the steps at which it came."""

    what: str
    shard: int
    index: int
    places: list[Place]


@dataclass(slots=True)
class EpochReport:
    """What is known of an epoch. Batches and rows that reached the trainer: each once, but faults.

    planned_* are None where only reading tells. left_out are those that uneven= left out, dropped
    those of drop_last, skipped those of skip(), padded are repeats. missing and doubled count all
    faults, of which faults names some. problems are why something cannot be told.
    """

    epoch: int
    verdict: str = COMPLETE
    planned_batches: int | None = None
    planned_rows: int | None = None
    steps: int = 0
    batches: int = 0
    rows: int = 0
    padded: int = 0
    skipped: int = 0
    skipped_rows: int = 0
    left_out: int = 0
    dropped: int = 0
    missing: int = 0
    doubled: int = 0
    deals: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(run: Run, shards_of: Callable[[Epoch], ShardPlans]) -> list[EpochReport]:
    """The epochs of a run, each against its plan."""
    return [check_epoch(epoch, shards_of(epoch), run) for epoch in run.epochs.values()]


def check_epoch(epoch: Epoch, plan: ShardPlans, run: Run) -> EpochReport:
    """One epoch against its plan."""
    table = Table(epoch)
    kinds = table.steps["kind"]
    rows = table.steps["rows"].astype(np.int64)
    rows[rows == 0] = epoch.setup["batch_size"]
    report = EpochReport(epoch.number, steps=len(table), deals=list(epoch.deals))
    report.problems += epoch.problems
    report.padded = int((kinds == PADDED).sum())
    skipped = kinds == SKIPPED
    report.skipped, report.skipped_rows = int(skipped.sum()), int(rows[skipped].sum())
    numbers, firsts, times = np.unique(
        table.keys[table.counts], return_index=True, return_counts=True
    )
    rows_once = rows[table.counts][firsts]
    report.batches, report.rows = len(numbers), int(rows_once.sum())
    for number in numbers[times > 1].tolist():
        report.doubled += 1
        if report.doubled <= NAMED:
            places = [table.place(row) for row in table.where(number).tolist()]
            what = f"was handed out {len(places)} times"
            report.faults.append(Fault(what, *name_of(number), places))
    if plan.batches is None or plan.rows is None:
        _against_ends(epoch, plan, numbers, report)
    else:
        _against_counts(epoch, plan, table, numbers, rows_once, report)
    _judge(epoch, run, report)
    return report


def _against_counts(
    epoch: Epoch,
    plan: ShardPlans,
    table: Table,
    numbers: Ints,
    rows: Ints,
    report: EpochReport,
) -> None:
    """The plan says how many batches and rows each shard has."""
    assert plan.batches is not None
    assert plan.rows is not None
    size = epoch.setup["batch_size"]
    report.planned_batches, report.planned_rows = int(plan.batches.sum()), int(plan.rows.sum())
    shards = np.repeat(np.arange(plan.num_shards), plan.batches)
    starts = np.repeat(np.cumsum(plan.batches) - plan.batches, plan.batches)
    indices = np.arange(report.planned_batches) - starts
    planned = (shards << INDEX_BITS) + indices
    planned_rows = np.minimum(size, plan.rows[shards] - indices * size)
    _name_strangers(table, numbers[~np.isin(numbers, planned)], report)
    there, at = np.intersect1d(planned, numbers, assume_unique=True, return_indices=True)[1:]
    short = numbers[at][planned_rows[there] != rows[at]]
    for number in short[:NAMED].tolist():
        place = table.place(int(table.where(number)[0]))
        due = int(planned_rows[np.searchsorted(planned, number)])
        what = f"had {place.rows:,} rows, the plan says {due:,}"
        report.faults.append(Fault(what, *name_of(number), [place]))
    lacking = ~np.isin(planned, numbers)
    if epoch.setup["drop_last"]:
        dropped = lacking & (planned_rows < size)
        report.dropped = int(dropped.sum())
        lacking &= ~dropped
    left_out = lacking & _left_out(epoch, planned)
    report.left_out = int(left_out.sum())
    _name_missing(planned[lacking & ~left_out], epoch, report)


def _left_out(epoch: Epoch, planned: Ints) -> npt.NDArray[np.bool_]:
    """Which of the planned batches the last deal left out, so that all ranks take as many steps."""
    found = np.zeros(len(planned), bool)
    for shard, first, count in epoch.begin["left_out"]:
        found |= (planned >= key(shard, first)) & (planned < key(shard, first + count))
    return found


def _against_ends(epoch: Epoch, plan: ShardPlans, numbers: Ints, report: EpochReport) -> None:
    """Only servers knew where a shard ends; no batch before that end may be missing."""
    noted = {key(*place) for place in (*epoch.left_out, *epoch.dropped)}
    delivered = set(numbers.tolist())
    report.left_out = sum(key(*place) not in delivered for place in epoch.left_out)
    report.dropped = sum(key(*place) not in delivered for place in epoch.dropped)
    known = np.unique(np.concatenate((numbers, np.array(sorted(noted), np.int64))))
    shards, counts = np.unique(known >> INDEX_BITS, return_counts=True)
    last = known[np.cumsum(counts) - 1] & ((1 << INDEX_BITS) - 1)
    missing: list[int] = []
    highest = dict(zip(shards.tolist(), (last + 1).tolist(), strict=True))
    found = dict(zip(shards.tolist(), counts.tolist(), strict=True))
    open_shards = 0
    for shard in range(plan.num_shards):
        end = epoch.shard_ends.get(shard)
        open_shards += end is None
        due = max(end or 0, highest.get(shard, 0))
        if found.get(shard, 0) < due:
            batches = np.arange(key(shard, 0), key(shard, due))
            missing += batches[~np.isin(batches, known)].tolist()
        if end is not None and highest.get(shard, 0) > end:
            report.problems.append(
                f"shard {shard} ended after {end} batches, and batch {highest[shard] - 1} of it "
                "was handed out"
            )
    _name_missing(np.array(missing, np.int64), epoch, report)
    if epoch.ended and open_shards:
        report.problems.append(
            f"{open_shards} of {plan.num_shards} shards were not read to their end"
            + (
                ", since what other ranks had not was left out, and not all of it was counted"
                if epoch.left_uncounted
                else ": what they still had is not known"
            )
        )


def _name_strangers(table: Table, strangers: Ints, report: EpochReport) -> None:
    report.doubled += len(strangers)
    for number in strangers[:NAMED].tolist():
        places = [table.place(row) for row in table.where(number).tolist()]
        report.faults.append(Fault("is not in the plan", *name_of(number), places))


def _name_missing(missing: Ints, epoch: Epoch, report: EpochReport) -> None:
    report.missing = len(missing)
    if epoch.ended:
        for number in missing[:NAMED].tolist():
            report.faults.append(Fault("was not handed out", *name_of(number), []))


def _judge(epoch: Epoch, run: Run, report: EpochReport) -> None:
    if epoch.absent:
        ranks = ", ".join(map(str, epoch.absent))
        report.problems.append(
            f"rank {ranks} of {epoch.deals[-1]} has no ledger of this epoch: it never came to it, "
            "or the file is missing"
        )
    if epoch.begin["counted"] and report.left_out >= epoch.deals[-1] > 1:
        report.problems.append(
            f"{report.left_out} batches were left out to keep {epoch.deals[-1]} ranks in step: at "
            f"most {epoch.deals[-1] - 1} can be"
        )
    gaps = bool(report.problems or run.problems)
    if any(fault.places for fault in report.faults):
        report.verdict = FAULTY
    elif epoch.ended and report.missing:
        report.verdict = UNKNOWN if gaps else FAULTY
    elif report.problems or (gaps and not epoch.ended):
        report.verdict = UNKNOWN
    elif not epoch.ended:
        report.verdict = UNFINISHED


def verdict_of(reports: Sequence[EpochReport], run: Run) -> str:
    """What is known of a whole run: the worst of its epochs, an unfinished one aside."""
    found = {report.verdict for report in reports}
    if FAULTY in found:
        return FAULTY
    return COMPLETE if COMPLETE in found and UNKNOWN not in found and not run.problems else UNKNOWN
