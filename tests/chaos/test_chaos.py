"""Faults of every kind while a trainer trains: no row lost, none doubled, the same sequence."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.chaos.rig import Rig, trained
from tests.fakes.parquet import ROW_COUNT, write_dataset
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet

EPOCHS = 2
OPTIONS = {"batch_size": 16, "seed": 5, "timeout": 30.0}


def dataset(path: Path) -> Path:
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
    return path


@pytest.mark.parametrize("seed", [1])
def test_every_row_once_and_in_the_same_order(tmp_path: Path, seed: int) -> None:
    write_dataset(tmp_path / "data" / "rows")
    spec = dataset(tmp_path / "dataset.yaml")
    with Rig(tmp_path / "runs", tmp_path / "data", servers=3) as rig:
        calm = rig.prepare("calm", spec, EPOCHS, **OPTIONS)
        rig.train(calm)
        expected = [line[:4] for line in trained(calm)]
        disturbed = rig.prepare("disturbed", spec, EPOCHS, **OPTIONS)
        outcome = rig.train(disturbed, random.Random(seed), kills=3)
    print(outcome.count(), outcome.trainer_kills, outcome.said)
    assert outcome.faults
    assert outcome.trainer_kills == 3
    found = list(trained(disturbed))
    ids: dict[int, Counter[int]] = defaultdict(Counter)
    for epoch, _, _, _, rows in found:
        ids[epoch].update(rows)
    assert ids == {epoch: Counter(range(ROW_COUNT)) for epoch in range(EPOCHS)}
    assert [line[:4] for line in found] == expected
