"""trainer-client verify and show, over ledgers of streams on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from preprocessor_server.server import Server
from tests.fakes.ledgers import LoggedBatch, copy_ledger
from tests.fakes.parquet import ROW_COUNT, make_table, write_dataset
from trainer_client import BatchStream, Dataset, Dense, Label, Sparse, merge_state_dicts, parquet
from trainer_client.cli import cli

Start = Callable[..., Server]
Train = Callable[..., None]
DATASET = Dataset(
    source=parquet("rows", group_by=["request"]),
    features=[Dense("price"), Sparse("id"), Sparse("seq"), Label("label")],
)
EPOCHS = 2


def run(*arguments: object) -> Result:
    """The program's answer."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def said(*arguments: object, code: int) -> dict[str, Any]:
    """The same as JSON; people's form must agree about the exit code and fit 80 columns."""
    for_people = run(*arguments)
    assert for_people.exit_code == code, for_people.output
    for line in for_people.output.splitlines():
        # Folders and values are as long as they are.
        assert len(line) <= 80 or " " not in line[80:] or "show" in line or "{" in line, line
    result = run(*arguments, "--json")
    assert result.exit_code == code
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data" / "rows")
    return tmp_path / "data"


@pytest.fixture
def address(root: Path, start_server: Start) -> str:
    return start_server(data_root=(root,), shared_bytes=0).address


@pytest.fixture
def train(tmp_path: Path, address: str) -> Train:
    """Trains to the end with a ledger of the given name."""

    def to_the_end(name: str, **options: Any) -> None:
        with BatchStream(
            DATASET,
            target=f"static:///{address}",
            batch_size=100,
            seed=5,
            ledger=tmp_path / name,
            **({"snapshot_dir": tmp_path / "snapshots"} | options),
        ) as stream:
            for epoch in range(EPOCHS):
                stream.set_epoch(epoch)
                for _ in stream:
                    pass

    return to_the_end


def test_a_single_changed_value_is_found_and_shown(
    tmp_path: Path, root: Path, train: Train
) -> None:
    train("before", snapshot_dir=tmp_path / "old")
    table = make_table()
    prices = table["price"].to_pylist()
    prices[7321] += 0.5
    place = table.schema.get_field_index("price")
    changed = table.set_column(place, "price", pa.array(prices, pa.float32()))
    write_dataset(root / "rows", changed)
    train("after", snapshot_dir=tmp_path / "new")
    found = said("verify", tmp_path / "before", tmp_path / "after", code=1)
    # The files were written anew, which is said before any batch.
    assert [each["name"] for each in found["differences"]] == ["snapshot"]
    assert [epoch["changed"] for epoch in found["epochs"]] == [1, 1]
    first = found["epochs"][0]["first"]
    assert first["what"] == "the batch holds other values"
    for key in ("epoch", "step", "rank", "shard", "index", "cursor"):
        assert first["a"][key] == first["b"][key]
    command = first["b"]["show"].split()
    assert command[:3] == ["trainer-client", "show", str(tmp_path / "after")]
    shown = said(*command[1:], "--rows=100", "--snapshot-dir", tmp_path / "new", code=0)
    assert shown["content"] == shown["ledger"] == first["b"]["content"]
    assert shown["cursor"] == first["b"]["cursor"]
    prices_shown = {row["id"][0]: row["price"] for row in shown["rows"]}
    assert prices_shown[7321] == pytest.approx(prices[7321])
    # The files of the run before are gone.
    command = first["a"]["show"].split()
    gone = run(*command[1:], "--snapshot-dir", tmp_path / "old")
    assert gone.exit_code == 2
    assert "has changed since the snapshot" in gone.output


Steps = list[LoggedBatch]


def swap(steps: Steps) -> Steps:
    return [*steps[:40], steps[47], *steps[41:47], steps[40], *steps[48:]]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (swap, "the batch is swapped with that of step 47"),
        (lambda steps: steps[:40] + steps[41:], "B skipped the batch of A"),
        (
            lambda steps: [*steps[:40], steps[39], *steps[40:]],
            "B repeats the batch of its step 39",
        ),
    ],
)
def test_a_step_out_of_order_is_found(
    tmp_path: Path, train: Train, change: Callable[[Steps], Steps], what: str
) -> None:
    train("a")
    train("b")
    same = said("verify", tmp_path / "a", tmp_path / "b", code=0)
    assert (same["verdict"], same["differences"]) == ("same", [])

    def in_second(epoch: int, steps: Steps) -> Steps:
        return change(steps) if epoch == 1 else steps

    copy_ledger(tmp_path / "b", tmp_path / "c", in_second)
    found = said("verify", tmp_path / "a", tmp_path / "c", code=1)
    assert [epoch["verdict"] for epoch in found["epochs"]] == ["same", "different"]
    first = found["epochs"][1]["first"]
    assert (first["what"], first["a"]["step"], first["b"]["step"]) == (what, 40, 40)
    for name in ("a", "b"):
        command = first[name]["show"].split()
        shown = said(*command[1:], "--snapshot-dir", tmp_path / "snapshots", code=0)
        assert shown["content"] == first[name]["content"]
        assert shown["cursor"] == first[name]["cursor"]


def test_a_lost_and_a_doubled_batch_are_found_by_the_plan(tmp_path: Path, train: Train) -> None:
    train("run")
    snapshots = ("--snapshot-dir", tmp_path / "snapshots")
    whole = said("verify", tmp_path / "run", "--complete", *snapshots, code=0)
    assert whole["verdict"] == "complete"
    for epoch in whole["epochs"]:
        assert epoch["rows"] == epoch["planned_rows"] == ROW_COUNT

    def lose_and_double(epoch: int, steps: Steps) -> Steps:
        return [*steps[:10], *steps[11:]] if epoch == 0 else [*steps, steps[20]]

    copy_ledger(tmp_path / "run", tmp_path / "faulty", lose_and_double)
    found = said("verify", tmp_path / "faulty", "--complete", *snapshots, code=1)
    lost, doubled = found["epochs"]
    assert (lost["missing"], lost["doubled"]) == (1, 0)
    assert (doubled["missing"], doubled["doubled"]) == (0, 1)
    assert lost["faults"][0]["what"] == "was not handed out"
    assert [place["step"] for place in doubled["faults"][0]["places"]] == [20, 100]
    for_people = run("verify", tmp_path / "faulty", "--complete", *snapshots)
    assert "FAULTY: rows are missing or arrived more than once" in for_people.output


def test_runs_of_other_numbers_of_ranks_trained_on_the_same(
    tmp_path: Path, address: str, train: Train
) -> None:
    train("one")
    states: list[dict[str, Any]] = []
    for world_size, steps in ((2, 11), (3, 1000)):
        merged = merge_state_dicts(states) if states else {}
        states = []
        for rank in range(world_size):
            with BatchStream(
                DATASET,
                target=f"static:///{address}",
                batch_size=100,
                seed=5,
                rank=rank,
                world_size=world_size,
                uneven="none",
                snapshot_dir=tmp_path / "snapshots",
                ledger=tmp_path / "many",
            ) as stream:
                stream.load_state_dict(merged)
                for step, batch in enumerate(stream):
                    if step == 9:
                        states.append(stream.state_dict(batch))
                    if step == steps:
                        break
    snapshots = ("--snapshot-dir", tmp_path / "snapshots")
    whole = said("verify", tmp_path / "many", "--complete", *snapshots, code=0)
    assert (whole["epochs"][0]["deals"], whole["epochs"][0]["rows"]) == ([2, 3], ROW_COUNT)
    assert whole["rolled_back"] == 2 * 2
    # One of them has a second epoch.
    found = said("verify", tmp_path / "one", tmp_path / "many", code=2)
    assert (found["epochs"][0]["verdict"], found["epochs"][0]["by"]) == ("same", "batch")
    assert found["only_in"] == {"1": "A"}


def test_what_cannot_be_told_has_a_code_of_its_own(tmp_path: Path, train: Train) -> None:
    for arguments, words in (
        ((tmp_path / "x", tmp_path / "y"), "is no folder"),
        ((tmp_path, tmp_path), "holds no ledger"),
        ((tmp_path,), "one run and --complete"),
        ((tmp_path, tmp_path, "--complete"), "one run and --complete"),
    ):
        result = run("verify", *arguments)
        assert (result.exit_code, words in " ".join(result.output.split())) == (2, True)
    train("run")
    nobody = ("--target", "static:///127.0.0.1:1", "--timeout", "1")
    result = run("verify", tmp_path / "run", "--complete", *nobody)
    assert result.exit_code == 2
    assert "127.0.0.1:1" in result.output
    result = run("show", tmp_path / "run", "--epoch", "7", "--shard", "0", "--index", "0")
    assert (result.exit_code, "there is 0, 1" in result.output) == (2, True)
    result = run("show", tmp_path / "run", "--epoch", "0", "--shard", "9999", "--index", "0")
    assert result.exit_code == 2
    assert "9999" in result.output
