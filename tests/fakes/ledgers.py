"""Ledgers of batches that never were, and copies of real ones with something wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_client.cursor import Cursor
from trainer_client.ledger.lines import TRAINED
from trainer_client.ledger.reader import read
from trainer_client.ledger.run import load
from trainer_client.ledger.writer import Ledger
from trainer_client.verify.complete import COMPLETE, EpochReport, check, verdict_of
from trainer_client.verify.report import complete_lines
from trainer_client.verify.served import connected

BATCH_SIZE = 4
SETUP = {
    "dataset": "sha256:0",
    "snapshot": "sha256:1",
    "seed": 0,
    "batch_size": BATCH_SIZE,
    "drop_last": False,
}
ABOUT: dict[str, Any] = {
    "rank": 0,
    "world_size": 1,
    "count": None,
    "target": "local://1",
    "dataset": {},
}


@dataclass(frozen=True)
class LoggedBatch:
    """A batch, as far as a ledger knows it."""

    shard: int
    index: int
    content_checksum: int
    cursor: Cursor
    batch_size: int = BATCH_SIZE
    kind: int = TRAINED


def flat_batches(shards: int, batches: int) -> list[LoggedBatch]:
    """Those of so many shards of flat files, round robin."""
    return [
        LoggedBatch(shard, n, hash_of(shard, n), Cursor(0, n * BATCH_SIZE, 0, n))
        for n in range(batches)
        for shard in range(shards)
    ]


def hash_of(shard: int, index: int) -> int:
    """A content that no other batch has."""
    return (shard * 7919 + index) * 0x9E3779B97F4A7C15 % (1 << 64)


def begin(ledger: Ledger, epoch: int, deals: Sequence[int] = (1,), **about: Any) -> None:
    """Starts an epoch as a stream does."""
    defaults = {
        "deals": list(deals),
        "counted": True,
        "uneven": "drop",
        "interleave": 4,
        "left_out": [],
        "setup": SETUP,
    }
    ledger.begin(epoch, 0, **(defaults | about))


def write_run(folder: Path, *epochs: Sequence[LoggedBatch]) -> None:
    """The ledger of one rank that came to the end of each epoch."""
    ledger = Ledger(folder, batch_size=BATCH_SIZE, about=ABOUT)
    for number, batches in enumerate(epochs):
        begin(ledger, number)
        for batch in batches:
            ledger.step(batch, batch.kind)
        ledger.end(number)
    ledger.close()


def check_complete(folder: Path, target: str, snapshots: Path) -> list[EpochReport]:
    """The epochs of a ledger, as verify --complete sees them; fails unless they are complete."""
    run = load(folder)
    with connected(run, target, snapshots, 30.0) as served:
        reports = check(run, served.shards)
    assert verdict_of(reports, run) == COMPLETE, "\n".join(complete_lines(run, reports))
    return reports


def copy_ledger(
    source: Path, copy: Path, change: Callable[[int, list[LoggedBatch]], list[LoggedBatch]]
) -> None:
    """A copy of the ledger of one session, each epoch's steps changed: (epoch, steps) to steps."""
    (session,) = read(source)
    header = {k: v for k, v in session.header.items() if k not in {"ledger", "session", "started"}}
    header.pop("resumed")
    size = header.pop("batch_size")
    ledger = Ledger(copy, batch_size=size, about=header)
    steps = [
        LoggedBatch(
            shard=int(row["shard"]),
            index=int(row["index"]),
            content_checksum=int(row["hash"]),
            cursor=Cursor(*session.cursor(n), int(row["index"])),
            batch_size=int(row["rows"]) or size,
            kind=int(row["kind"]),
        )
        for n, row in enumerate(session.steps)
    ]
    begun = [(at, r["begin"]) for at, r in session.records if "begin" in r]
    stops = [*(at for at, _ in begun[1:]), len(steps)]
    for (at, record), stop in zip(begun, stops, strict=True):
        epoch, step = record.pop("epoch"), record.pop("step")
        ledger.begin(epoch, step, **record)
        for batch in change(epoch, steps[at:stop]):
            ledger.step(batch, batch.kind)
        ledger.end(epoch)
    ledger.close()
