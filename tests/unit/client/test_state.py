from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet
from tests.unit.client.conftest import DATA, MakeStream, drain
from trainer_client import StateMismatchError

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
        ({"rank": 0, "world_size": 2}, "world_size 1.*as many ranks"),
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
        with pytest.raises(StateMismatchError, match="segments"):
            next(iter(resumed))
