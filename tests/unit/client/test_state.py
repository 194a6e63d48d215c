from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA, MakeStream, drain, ids_of
from trainer_client import (
    DeploymentError,
    StateMismatchError,
    StreamClosedError,
    decode,
)

UNKNOWN = replace(DATA, counts_known=False)


def test_an_empty_state_changes_nothing(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        stream.load_state_dict({})
        assert sum(map(len, drain(stream))) == DATA.row_count


def test_a_state_applies_once(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        state = stream.state_dict()
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(state)
        assert len(drain(resumed)) == len(resumed) - 1
        assert len(drain(resumed)) == len(resumed)


def test_another_epoch_needs_reset(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(stream.state_dict())
        with pytest.raises(StateMismatchError, match=r"epoch 0.*reset=True"):
            resumed.set_epoch(1)
        resumed.set_epoch(1, reset=True)
        assert sum(map(len, drain(resumed))) == DATA.row_count
        assert resumed.epoch == 2


@pytest.mark.parametrize("data", [DATA, UNKNOWN])
def test_a_finished_epochs_state_starts_the_next(make_stream: MakeStream, data: FakeData) -> None:
    with FakeFleet(data) as fleet:
        stream = make_stream(fleet.target)
        drain(stream)
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(stream.state_dict())
        assert resumed.epoch == 1
        assert drain(resumed) == drain(stream)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "batch_size 4, this stream has 8.*batch_size=4"),
        ({"seed": 4}, "seed 3"),
        ({"shuffle": False}, "shuffle True"),
        ({"shuffle_window_splits": 2}, "shuffle_window_splits 1"),
        ({"drop_last": True}, "drop_last False"),
        ({"num_shards": 7}, "num_shards 5"),
        ({"snapshot": "sha256:" + "0" * 64}, "snapshot"),
    ],
)
def test_a_mismatch_names_field_values_and_way_out(
    make_stream: MakeStream, change: dict[str, Any], message: str
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        other = make_stream(fleet.target, **change)
        with pytest.raises(ValueError, match=message) as caught:
            other.load_state_dict(stream.state_dict())
        assert isinstance(caught.value, StateMismatchError)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.update(version=2),
        lambda s: s.pop("seed"),
        lambda s: s.update(epoch="x"),
        lambda s: s["position"].pop("turn"),
        lambda s: s["position"].update(open=[[0, None]]),
    ],
)
def test_damaged_states_are_refused(
    make_stream: MakeStream, damage: Callable[[Any], object]
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        state = stream.state_dict()
        damage(state)
        with pytest.raises(StateMismatchError, match="state"):
            make_stream(fleet.target).load_state_dict(state)


def test_a_state_of_other_segments_is_refused(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        state = stream.state_dict()
        state["position"]["next_segment"] = 99
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(state)
        with pytest.raises(
            StateMismatchError, match=r"plan of epoch 0 \(a position in other segments"
        ):
            next(iter(resumed))


@pytest.mark.parametrize(("epoch", "reset"), [(1, False), (0, True)])
def test_choosing_another_epoch_ends_the_iterator(
    make_stream: MakeStream, epoch: int, reset: bool
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, prefetch_bytes=1)
        iterator = iter(stream)
        next(iterator)
        stream.set_epoch(epoch, reset=reset)
        assert fleet.wait_for_streams(0)
        for _ in range(2):
            with pytest.raises(StreamClosedError, match="another epoch"):
                next(iterator)
        state = stream.state_dict()
        assert (state["epoch"], state["position"]) == (epoch, None)
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(state)
        assert drain(resumed) == drain(stream)


def test_choosing_the_epoch_that_is_read_keeps_the_iterator(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        expected = drain(make_stream(fleet.target))
        stream = make_stream(fleet.target)
        iterator = iter(stream)
        stream.set_epoch(0)
        got = [ids_of(next(iterator))]
        state = stream.state_dict()
        stream.set_epoch(0)
        assert stream.state_dict() == state
        assert got + [ids_of(batch) for batch in iterator] == expected


def test_choosing_the_epoch_of_an_abandoned_iterator_starts_it_again(
    make_stream: MakeStream,
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        stream.set_epoch(0)
        assert stream.state_dict()["position"] is None
        assert sum(map(len, drain(stream))) == DATA.row_count


def test_what_is_left_out_counts_once_an_epoch(make_stream: MakeStream, tmp_path: Path) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(
            fleet.target, rank=0, world_size=3, drop_last=True, snapshot_dir=tmp_path / "s"
        )
        drain(stream)
        once = stream.stats()
        assert once.left_out_rows > 0
        assert once.dropped_rows > 0
        stream.set_epoch(0)
        for _ in range(2):
            next(iter(stream))
            stream.load_state_dict(stream.state_dict())
        again = stream.stats()
        assert (again.left_out_batches, again.left_out_rows) == (
            once.left_out_batches,
            once.left_out_rows,
        )
        assert (again.dropped_batches, again.dropped_rows) == (
            once.dropped_batches,
            once.dropped_rows,
        )


def test_the_encoding_version_is_the_plans(make_stream: MakeStream) -> None:
    with FakeFleet(replace(DATA, encoding_version=3)) as fleet:
        stream = make_stream(fleet.target)
        assert stream.state_dict()["encoding_version"] is None
        drain(stream)
        # The fleet has a higher one, which this client did not ask for.
        state = stream.state_dict()
        assert state["encoding_version"] == 1
        state["encoding_version"] = 3
        other = make_stream(fleet.target)
        other.load_state_dict(state)
        with pytest.raises(DeploymentError, match=r"encoding version 3.*decodes version 1"):
            next(iter(other))
        with pytest.raises(StateMismatchError, match="encoding_version 3"):
            stream.load_state_dict(state)


def test_an_older_fleet_is_asked_for_what_it_has(
    make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "ENCODING_VERSION", 2)
    with FakeFleet(DATA) as fleet:
        # This client's only version is 2: it says so itself, at the plan.
        with pytest.raises(DeploymentError, match="plans encoding version 1"):
            next(iter(make_stream(fleet.target)))
        assert not fleet.opened


def test_skipped_batches_are_left_out_counted_and_recorded(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        expected = drain(make_stream(fleet.target))
        stream = make_stream(fleet.target)
        stream.skip(2)
        iterator = iter(stream)
        assert ids_of(next(iterator)) == expected[2]
        stream.skip(3)
        assert ids_of(next(iterator)) == expected[6]
        state = stream.state_dict()
        assert state["position"]["skipped"] == 5
        stats = stream.stats()
        assert (stats.batches, stats.skipped_batches) == (2, 5)
        assert stats.skipped_rows == sum(map(len, (*expected[:2], *expected[3:6])))
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(state)
        resumed.skip(1)
        rest = [(ids_of(batch), resumed.state_dict(batch)) for batch in resumed]
        assert [ids for ids, _ in rest] == expected[8:]
        assert rest[0][1]["position"]["skipped"] == 6
        # Of this epoch only.
        assert len(drain(resumed)) == len(resumed)
        assert resumed.stats().skipped_batches == 1


def test_more_than_is_left_may_be_skipped(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        stream.skip(10_000)
        assert drain(stream) == []
        assert len(drain(stream)) == len(stream)
        for batches in (-1, 1.5, True):
            with pytest.raises(ValueError, match="batches is"):
                stream.skip(batches)  # type: ignore[arg-type]
