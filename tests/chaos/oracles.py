"""What must be true of what a trainer trained on, whatever struck meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from tests.chaos.rig import Rig, trained
from tests.fakes.ledgers import check_complete
from tests.fakes.parquet import ROW_COUNT, write_dataset
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet
from trainer_client.ledger.run import load
from trainer_client.verify.complete import COMPLETE
from trainer_client.verify.table import Table


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Parquet files and a dataset of them: the data root, and the dataset's path."""
    write_dataset(folder / "data" / "rows")
    path = folder / "dataset.yaml"
    path.write_text(
        Dataset(
            source=parquet("rows", group_by=["request"]),
            features=[
                Dense("price"),
                Sparse("id"),
                Sparse("seq", ops=[ops.Tail(5), ops.HashBucket(1000)]),
                Label("label"),
            ],
        ).to_yaml()
    )
    return folder / "data", path


def check_rows(run: Path, epochs: int) -> None:
    """Every id of the files, which are counted from 0, once in every epoch."""
    ids: dict[int, Counter[int]] = defaultdict(Counter)
    for epoch, _, _, _, rows in trained(run):
        ids[epoch].update(rows)
    assert ids == {epoch: Counter(range(ROW_COUNT)) for epoch in range(epochs)}


def check_ledger(run: Path, epochs: int, rig: Rig) -> int:
    """The ledger proves that every row of the first epochs came once; the steps rolled back.

    rig serves the plans. And it has the batches that the trainers wrote down themselves.
    """
    reports = check_complete(run / "ledger", rig.target, run / "snapshots")
    finished = [report.epoch for report in reports if report.verdict == COMPLETE]
    assert finished[:epochs] == list(range(epochs))
    ledger = load(run / "ledger")
    handed = Counter[tuple[int, int, int]]()
    for number, epoch in ledger.epochs.items():
        steps = Table(epoch).steps
        places = zip(steps["shard"].tolist(), steps["index"].tolist(), strict=True)
        handed.update((number, shard, index) for shard, index in places)
    wrote = Counter((epoch, shard, index) for epoch, shard, index, _, _ in trained(run))
    # A rank that is killed after a step, before its state is saved, has handed out a batch more.
    assert wrote <= handed
    assert (handed - wrote).total() <= len(ledger.final)
    return ledger.rolled_back


def check_whole_epochs(run: Path) -> int:
    """Every id once in each epoch but the last, which may have been left; how many these are."""
    ids: Counter[int] = Counter()
    current = 0
    for epoch, _, _, _, rows in trained(run):
        if epoch != current:
            assert ids == Counter(range(ROW_COUNT)), f"epoch {current}"
            ids.clear()
            current = epoch
        ids.update(rows)
    assert max(ids.values(), default=0) <= 1
    return current


def check_sequence(run: Path, calm: Path) -> None:
    """The same batches, byte for byte and in the same order."""
    assert [line[:4] for line in trained(run)] == [line[:4] for line in trained(calm)]


def check_batches(run: Path, calm: Path, epochs: int) -> None:
    """The same batches of the first epochs, byte for byte, whichever rank had them."""
    expected = sorted(line[:4] for line in trained(calm) if line[0] < epochs)
    assert sorted(line[:4] for line in trained(run)) == expected
