"""Ledgers of streams that crash, go on from states and are resized: one history comes of them."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATASET, MakeStream, ids_of
from trainer_client import BatchStream, merge_state_dicts
from trainer_client.ledger.run import Run, load
from trainer_client.ledger.writer import SUFFIX
from trainer_client.verify.compare import DIFFERENT, SAME, compare
from trainer_client.verify.complete import COMPLETE, UNFINISHED, UNKNOWN, EpochReport, check_epoch
from trainer_client.verify.served import ShardPlans

DATA = FakeData(shards=tuple((8, 5 + i) for i in range(11)), batch_size=4)
UNKNOWN_DATA = replace(DATA, counts_known=False)


@dataclass(frozen=True)
class Phase:
    """Ranks that take steps, are saved after some, and crash after some more."""

    world_size: int
    kept: int
    lost: int
    merged: bool = True


@st.composite
def histories(draw: st.DrawFn) -> tuple[FakeData, str, list[Phase]]:
    uneven = draw(st.sampled_from(["none", "none", "drop", "pad"]))
    data = draw(st.sampled_from([DATA, UNKNOWN_DATA])) if uneven == "none" else DATA
    phases: list[Phase] = []
    for _ in range(draw(st.integers(0, 3))):
        merged = not phases or draw(st.booleans())
        world_size = draw(st.integers(1, 3)) if merged else phases[-1].world_size
        kept, lost = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        phases.append(Phase(world_size, kept, lost, merged))
    merged = not phases or draw(st.booleans())
    world_size = draw(st.integers(1, 3)) if merged else phases[-1].world_size
    return data, uneven, [*phases, Phase(world_size, 0, 0, merged)]


def open_ranks(
    fleet: FakeFleet, folder: Path, world_size: int, **options: Any
) -> list[BatchStream]:
    return [
        BatchStream(
            DATASET,
            target=fleet.target,
            batch_size=DATA.batch_size,
            seed=3,
            timeout=5.0,
            rank=rank,
            world_size=world_size,
            snapshot_dir=folder / "snapshots",
            ledger=folder / "ledger",
            **options,
        )
        for rank in range(world_size)
    ]


def plan_of(data: FakeData) -> ShardPlans:
    shards = range(len(data.shards))
    if not data.counts_known:
        return ShardPlans(len(shards), None, None)
    batches = np.array([data.batches_in(shard) for shard in shards])
    return ShardPlans(len(shards), batches, np.array([data.rows_in(shard) for shard in shards]))


def check(run: Run, data: FakeData) -> list[EpochReport]:
    return [check_epoch(epoch, plan_of(data), run) for epoch in run.epochs.values()]


@settings(max_examples=20)
@given(histories())
def test_any_history_is_told_apart_from_what_was_rolled_back(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[FakeData, str, list[Phase]]
) -> None:
    data, uneven, phases = history
    folder = tmp_path_factory.mktemp("run")
    kept = lost = 0
    delivered: list[int] = []
    states: list[dict[str, Any]] = []
    with FakeFleet(data) as fleet:
        for phase in phases:
            streams = open_ranks(fleet, folder, phase.world_size, uneven=uneven)
            merged = merge_state_dicts(states) if states and phase.merged else None
            loaded = states
            states = []
            for rank, stream in enumerate(streams):
                if loaded:
                    stream.load_state_dict(loaded[rank] if merged is None else merged)
                if phase is phases[-1]:
                    for epoch in range(stream.epoch, 2):
                        stream.set_epoch(epoch)
                        for batch in stream:
                            kept += 1
                            if epoch == 0 and not batch.padding:
                                delivered += ids_of(batch)
                    stream.close()
                    continue
                # With nothing left of epoch 0 a rank may be in the next one already.
                iterator = iter(stream) if stream.epoch == 0 else iter(())
                state = stream.state_dict()
                for batch in itertools.islice(iterator, phase.kept):
                    kept += 1
                    delivered += [] if batch.padding else ids_of(batch)
                    state = stream.state_dict(batch)
                lost += sum(1 for _ in itertools.islice(iterator, phase.lost))
                states.append(json.loads(json.dumps(state)))
                stream.close()
    run = load(folder / "ledger")
    assert (run.problems, run.steps, run.rolled_back) == ([], kept, lost)
    reports = check(run, data)
    assert [(r.epoch, r.verdict, r.problems) for r in reports] == [
        (0, COMPLETE, []),
        (1, COMPLETE, []),
    ]
    assert reports[0].rows == len(delivered) == len(set(delivered))
    if uneven != "drop":
        assert reports[0].rows == data.row_count
    else:
        assert reports[0].left_out < phases[-1].world_size


def test_a_run_that_was_killed_and_resumed_is_the_same_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    with FakeFleet(DATA) as fleet:
        (calm,) = open_ranks(fleet, tmp_path / "a", 1)
        for _ in calm:
            pass
        calm.close()
        state: dict[str, Any] = {}
        for steps in (5, 11, 1000):
            (stream,) = open_ranks(fleet, tmp_path / "b", 1)
            stream.load_state_dict(state)
            for n, batch in enumerate(stream):
                if n == steps:
                    break
                if n == steps - 2:
                    state = stream.state_dict(batch)
            stream.close()
    a, b = load(tmp_path / "a" / "ledger"), load(tmp_path / "b" / "ledger")
    found = compare(a, b)
    assert (found.verdict, found.epochs[0].by, b.rolled_back) == (SAME, "order", 4)


def test_a_state_of_a_run_without_a_ledger(tmp_path: Path, make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        before = make_stream(fleet.target)
        batches = iter(before)
        for _ in range(3):
            next(batches)
        state = before.state_dict()
        assert "ledger" not in state
        after = make_stream(fleet.target, ledger=tmp_path)
        after.load_state_dict(state)
        for _ in range(2):
            for _ in after:
                pass
        after.close()
    reports = check(load(tmp_path), DATA)
    assert [r.verdict for r in reports] == [UNKNOWN, COMPLETE]
    assert "a stream that kept no ledger" in reports[0].problems[0]


def test_a_session_whose_file_is_gone(tmp_path: Path, make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, ledger=tmp_path)
        next(iter(stream))
        state = stream.state_dict()
        stream.close()
        for path in tmp_path.glob(f"*{SUFFIX}"):
            path.unlink()
        stream = make_stream(fleet.target, ledger=tmp_path)
        stream.load_state_dict(state)
        for _ in stream:
            pass
        stream.close()
    run = load(tmp_path)
    assert "put all ledgers of a run into one folder" in run.problems[0]
    assert [r.verdict for r in check(run, DATA)] == [UNKNOWN]


def test_an_iterator_that_is_left_and_started_again_hands_rows_out_twice(
    tmp_path: Path, make_stream: MakeStream
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, ledger=tmp_path)
        next(iter(stream))
        for _ in stream:
            pass
        stream.close()
    (report,) = check(load(tmp_path), DATA)
    assert report.doubled == 1
    assert [place.step for place in report.faults[0].places] == [0, 1]


def test_skipped_batches_are_read_and_said_to_be_left_out(
    tmp_path: Path, make_stream: MakeStream
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, ledger=tmp_path / "a")
        stream.skip(3)
        for _ in stream:
            pass
        stream.close()
        stream = make_stream(fleet.target, ledger=tmp_path / "b")
        for _ in stream:
            pass
        stream.close()
    a = load(tmp_path / "a")
    (report,) = check(a, DATA)
    assert (report.verdict, report.skipped, report.skipped_rows) == (COMPLETE, 3, 12)
    found = compare(a, load(tmp_path / "b"))
    assert (found.verdict, found.epochs[0].changed) == (DIFFERENT, 3)


@pytest.mark.parametrize("data", [DATA, UNKNOWN_DATA])
def test_dropped_batches_are_said_to_be_dropped(
    tmp_path: Path, make_stream: MakeStream, data: FakeData
) -> None:
    with FakeFleet(data) as fleet, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "drop_last left out")
        stream = make_stream(fleet.target, ledger=tmp_path, drop_last=True)
        for _ in stream:
            pass
        stats = stream.stats()
        stream.close()
    (report,) = check(load(tmp_path), data)
    assert (report.verdict, report.dropped) == (COMPLETE, stats.dropped_batches)
    assert report.dropped > 0


def test_an_epoch_that_goes_on_is_unfinished(tmp_path: Path, make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, ledger=tmp_path)
        for _ in stream:
            pass
        next(iter(stream))
        stream.state_dict()
        assert [r.verdict for r in check(load(tmp_path), DATA)] == [COMPLETE, UNFINISHED]
        stream.close()


def test_the_same_stream_may_load_states_again_and_again(
    tmp_path: Path, make_stream: MakeStream
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, ledger=tmp_path)
        state = stream.state_dict()
        for steps in (4, 2, 1000):
            stream.load_state_dict(state)
            for n, batch in enumerate(stream, 1):
                if n == 2:
                    state = stream.state_dict(batch)
                if n == steps:
                    break
        stream.close()
    run = load(tmp_path)
    assert (run.problems, run.rolled_back, len(run.sessions)) == ([], 2, 4)
    assert [r.verdict for r in check(run, DATA)] == [COMPLETE]
