"""What must be true of what a trainer trained on, whatever struck meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from tests.chaos.rig import trained
from tests.fakes.parquet import ROW_COUNT, write_dataset
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet


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
