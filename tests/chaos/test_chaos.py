"""Faults of every kind while a trainer trains: no row lost, none doubled, the same sequence."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.chaos.oracles import (
    check_batches,
    check_ledger,
    check_rows,
    check_sequence,
    write_inputs,
)
from tests.chaos.rig import Rig, Trainer
from tests.fakes.parquet import make_table
from trainer_client.ledger.run import load
from trainer_client.verify.compare import SAME, compare

pytestmark = pytest.mark.alone

OPTIONS = {"batch_size": 16, "seed": 5, "timeout": 60.0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_a_disturbed_run_trains_on_the_same_sequence(
    tmp_path: Path, inputs: tuple[Path, Path]
) -> None:
    data, dataset = inputs
    with Rig(tmp_path, data, servers=3) as rig:
        calm = rig.prepare("calm", dataset, 2, **OPTIONS)
        rig.train(calm)
        disturbed = rig.prepare("disturbed", dataset, 2, **OPTIONS)
        outcome = rig.train(disturbed, seed=1, kills=3)
        assert check_ledger(calm, 2, rig) == 0
        check_ledger(disturbed, 2, rig)
    assert outcome.strikes
    assert outcome.trainer_kills == 3
    check_rows(disturbed, epochs=2)
    check_sequence(disturbed, calm)
    found = compare(load(calm / "ledger"), load(disturbed / "ledger"))
    assert (found.verdict, [result.by for result in found.epochs]) == (SAME, ["order", "order"])


def test_a_disturbed_epoch_by_changing_numbers_of_ranks(
    tmp_path: Path, inputs: tuple[Path, Path]
) -> None:
    data, dataset = inputs
    options = OPTIONS | {"uneven": "none"}
    with Rig(tmp_path, data, servers=2) as rig:
        calm = rig.prepare("calm", dataset, 1, **options)
        rig.train(calm)
        disturbed = rig.prepare("disturbed", dataset, 1, **options)
        outcome = rig.train_elastic(disturbed, [2, 3, 1, 2], seed=2)
        check_ledger(disturbed, 1, rig)
    assert outcome.strikes
    assert outcome.trainer_kills
    check_rows(disturbed, epochs=1)
    check_batches(disturbed, calm, epochs=1)
    found = compare(load(calm / "ledger"), load(disturbed / "ledger"))
    assert (found.verdict, [result.by for result in found.epochs]) == (SAME, ["batch"])


@pytest.mark.parametrize("fault", ["replaced", "truncated"])
def test_a_file_that_changes_ends_the_run_with_the_one_right_error(
    tmp_path: Path, fault: str
) -> None:
    data, dataset = write_inputs(tmp_path / "inputs")
    with Rig(tmp_path, data, servers=2) as rig:
        run = rig.prepare("run", dataset, 1, **OPTIONS, prefetch_factor=1)
        stopped = Trainer(run, 0, 1, kill_after=20)
        assert stopped.wait() < 0
        for file in (data / "rows").iterdir():
            if fault == "replaced":
                pq.write_table(make_table(3000, seed=9), file)
            else:
                file.write_bytes(file.read_bytes()[:-1000])
        trainer = Trainer(run, 0, 1, kill_after=None)
        assert trainer.wait() == 3
    (said,) = trainer.said
    assert (said["error"], said["reason"]) == ("DataError", "SNAPSHOT_CHANGED")
    assert "has changed since the snapshot" in said["message"]
