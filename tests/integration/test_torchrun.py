"""Ranks as torchrun starts them, over gloo: every mode ends, with every row accounted for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from preprocessor_server.server import Server
from tests.fakes.ledgers import check_complete
from tests.fakes.parquet import ROW_COUNT, make_table
from trainer_client import Dataset, Label, Sparse, ops, parquet
from trainer_client.verify.complete import EpochReport

pytestmark = pytest.mark.alone

Start = Callable[..., Server]
SCRIPT = Path(__file__).parents[2] / "examples" / "train_torchrun.py"
# A hang ends here; what runs takes a few seconds.
LIMIT_S = 150


def torchrun(world_size: int, *arguments: str) -> list[dict[str, int]]:
    """What the ranks say at the end, by rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world_size), str(SCRIPT), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert result.returncode == 0, result.stderr[-4000:]
    # Ranks write at the same time, and a line may have two of them.
    said = [json.loads(each) for each in re.findall(r"\{[^}]*\}", result.stdout)]
    return sorted(said, key=lambda each: int(each["rank"]))


@pytest.fixture
def flags(tmp_path: Path, dataset_root: Path, start_server: Start) -> Callable[[str], list[str]]:
    """The script's flags for a filter."""
    addresses = [start_server(data_root=(dataset_root,)).address for _ in range(2)]

    def of(where: str) -> list[str]:
        dataset = Dataset(
            source=parquet("rows"),
            where=where,
            features=[
                Sparse("seq", ops=[ops.Tail(5), ops.HashBucket(1000)]),
                Sparse("user", ops=[ops.HashBucket(1000)]),
                Label("label"),
            ],
        )
        path = tmp_path / "dataset.yaml"
        path.write_text(dataset.to_yaml())
        return [
            str(path),
            "--target=static:///" + ",".join(addresses),
            "--batch-size=64",
            f"--checkpoint={tmp_path / 'checkpoint.pt'}",
            f"--snapshots={tmp_path / 'snapshots'}",
            f"--ledger={tmp_path / 'ledger'}",
        ]

    return of


# Most rows that pass lie in the first row groups: ranks have very different numbers of batches.
SKEWED = "id < 1500 OR price < 0.05"
TABLE = make_table()
PASSING = pc.sum(
    pc.or_(pc.less(TABLE["id"], 1500), pc.less(TABLE["price"], np.float32(0.05)))
).as_py()


def proven(arguments: list[str]) -> EpochReport:
    """What the ledger of a run's only epoch says, which is that it is complete."""
    folder, snapshots, target = (
        next(a.partition("=")[2] for a in arguments if a.startswith(f"--{name}="))
        for name in ("ledger", "snapshots", "target")
    )
    (report,) = check_complete(Path(folder), target, Path(snapshots))
    return report


@pytest.mark.parametrize("uneven", ["drop", "pad"])
def test_counted_rows_leave_ranks_even(flags: Callable[[str], list[str]], uneven: str) -> None:
    arguments = flags(SKEWED)
    ranks = torchrun(2, *arguments, f"--uneven={uneven}", "--count=exact")
    report = proven(arguments)
    assert report.planned_rows == PASSING
    assert report.rows == sum(rank["rows"] for rank in ranks)
    assert report.padded == sum(rank["padded_batches"] for rank in ranks)
    assert len({rank["steps"] for rank in ranks}) == 1
    # Left out is what the deal leaves out; each rank tells it for all.
    assert sum(rank["rows"] for rank in ranks) + ranks[0]["left_out_rows"] == PASSING
    if uneven == "pad":
        assert ranks[0]["left_out_rows"] == 0


@pytest.mark.parametrize("uneven", ["sync", "sync-pad", "none"])
def test_a_filter_that_leaves_ranks_uneven(flags: Callable[[str], list[str]], uneven: str) -> None:
    arguments = flags(SKEWED)
    ranks = torchrun(2, *arguments, f"--uneven={uneven}")
    report = proven(arguments)
    assert report.rows == sum(rank["rows"] for rank in ranks)
    assert report.padded == sum(rank["padded_batches"] for rank in ranks)
    rows = sum(rank["rows"] + rank["left_out_rows"] for rank in ranks)
    assert rows == PASSING
    steps = {rank["steps"] for rank in ranks}
    padded = sum(rank["padded_batches"] for rank in ranks)
    left_out = sum(rank["left_out_rows"] for rank in ranks)
    if uneven == "sync":
        assert len(steps) == 1
        assert (padded, left_out > 0) == (0, True)
    elif uneven == "sync-pad":
        assert len(steps) == 1
        assert (padded > 0, left_out) == (True, 0)
    else:
        assert len(steps) == 2
        assert (padded, left_out) == (0, 0)


def test_training_goes_on_with_another_number_of_ranks(
    flags: Callable[[str], list[str]],
) -> None:
    arguments = flags("")
    first = torchrun(4, *arguments, "--stop-after=20")
    assert [rank["steps"] for rank in first] == [20] * 4
    second = torchrun(2, *arguments)
    assert len({rank["steps"] for rank in second}) == 1
    rows = sum(rank["rows"] for rank in (*first, *second))
    # Left out is what the second deal leaves out; each rank tells it for all.
    assert rows + second[0]["left_out_rows"] == ROW_COUNT
    assert (proven(arguments).deals, proven(arguments).rows) == ([4, 2], rows)
