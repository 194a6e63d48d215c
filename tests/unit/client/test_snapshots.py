from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.fakes.epochs import FakeData
from tests.fakes.fleet import FakeFleet, Script, Stall, Status
from tests.unit.client.conftest import DATA, DATASET, MakeStream, drain, ids_of
from trainer_client import (
    BatchStream,
    DeploymentError,
    HeadraceError,
    RequestError,
    SnapshotMismatchError,
)
from trainer_client.snapshot_store import SnapshotStore, first_difference, identify
from trainer_client.snapshots import SnapshotChoice
from trainer_client.transport.calls import Snapshot

GROWN = replace(DATA, files=("a.parquet", "a2.parquet", "b.parquet"))
GROUP_TIMEOUT_S = 20


def snapshot_of(data: FakeData) -> Snapshot:
    return Snapshot(*data.snapshot())


class TestStore:
    def test_bytes_come_back_by_their_hash(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path / "new" / "s")
        name, data = DATA.snapshot()
        assert store.get(name) is None
        store.put(name, data)
        store.put(name, data)
        assert store.get(name) == data
        assert identify(data) == name
        assert identify(b"x") == ""

    def test_damaged_bytes_are_refused(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path)
        name, data = DATA.snapshot()
        store.put(name, data)
        (file,) = tmp_path.iterdir()
        file.write_bytes(data[:-1])
        with pytest.raises(RequestError, match=r"damaged: remove it"):
            store.get(name)

    @pytest.mark.parametrize("name", ["", "x", "sha256:../../../etc/passwd", "sha256:" + "0" * 63])
    def test_only_ids_are_looked_up(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RequestError, match="no id"):
            SnapshotStore(tmp_path).get(name)

    def test_the_first_pin_holds_until_it_is_replaced(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path)
        assert store.pinned("sha256:f") is None
        assert store.pin("sha256:f", "one") == "one"
        assert store.pin("sha256:f", "two") == "one"
        assert store.pinned("sha256:f") == "one"
        assert store.pin("sha256:f", "two", replace=True) == "two"
        assert store.pinned("sha256:f") == "two"
        assert [p.name for p in tmp_path.iterdir()] == ["f.pin"]

    def test_the_first_difference_is_named(self) -> None:
        one, grown = DATA.snapshot()[1], GROWN.snapshot()[1]
        longer = replace(DATA, files=("a.parquet", "b.parquet", "c.parquet")).snapshot()[1]
        assert first_difference(one, grown) == "a2.parquet is in only one of them"
        assert first_difference(grown, one) == "a2.parquet is in only one of them"
        assert first_difference(one, longer) == "c.parquet is in only one of them"
        assert "columns" in first_difference(one, one)


def test_a_server_that_does_not_know_the_snapshot_is_handed_it(make_stream: MakeStream) -> None:
    with FakeFleet(DATA, 3) as fleet:
        stream = make_stream(fleet.target)
        assert sum(map(len, drain(stream))) == DATA.row_count
        # The one that described it has it; streams that ask the same one at once may both bring it.
        used = {opened.server for opened in fleet.opened}
        assert fleet.put_count >= len(used) - 1 >= 1
        assert stream.stats().retries == 0


@pytest.mark.parametrize(
    "fault",
    [
        Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "SERVER_BUSY", retry_delay_s=0.01),
        Status(grpc.StatusCode.CANCELLED),
        Status(grpc.StatusCode.DEADLINE_EXCEEDED),
        Status(grpc.StatusCode.UNAVAILABLE),
        Stall(),
    ],
)
def test_a_server_that_cannot_take_the_snapshot_now_is_left_for_another(
    make_stream: MakeStream, fault: Status | Stall
) -> None:
    with FakeFleet(DATA, 2, Script(calls={"PutSnapshot": [fault]})) as fleet:
        stream = make_stream(fleet.target, timeout=2.0)
        assert sum(map(len, drain(stream))) == DATA.row_count
        assert stream.stats().retries == 1


def test_a_server_that_could_not_take_the_snapshot_is_handed_it_again(
    make_stream: MakeStream,
) -> None:
    busy = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "SERVER_BUSY", retry_delay_s=0.01)
    with FakeFleet(DATA, script=Script(calls={"PutSnapshot": [busy, busy]})) as fleet:
        stream = make_stream(fleet.target)
        assert len(stream) == sum(map(DATA.batches_in, range(5)))
        fleet.known_snapshots[0].clear()
        assert sum(map(len, drain(stream))) == DATA.row_count
        assert fleet.put_count >= 1


def test_a_server_that_refuses_the_snapshot_ends_it(make_stream: MakeStream) -> None:
    refusal = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    with FakeFleet(DATA, 2, Script(calls={"PutSnapshot": [refusal] * 9})) as fleet:
        stream = make_stream(fleet.target)

        def forget_and_drain() -> None:
            assert len(stream)
            # Whichever server the shards go to needs it.
            for known in fleet.known_snapshots:
                known.clear()
            drain(stream)

        with pytest.raises(DeploymentError, match="too large"):
            forget_and_drain()


def test_a_snapshot_dir_is_adopted_by_later_streams(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with FakeFleet(DATA) as fleet:
        first = make_stream(fleet.target, snapshot_dir=kept)
        drain(first)
        # Files have arrived since; the pinned snapshot holds, for whoever comes.
        fleet.known_snapshots[0].clear()
        second = make_stream(fleet.target, snapshot_dir=kept)
        drain(second)
        assert fleet.describe_count == 1
        assert second.state_dict()["snapshot"] == first.state_dict()["snapshot"]


def test_refreshing_takes_in_new_files_between_epochs(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, snapshot_dir=tmp_path / "s")
        drain(stream)
        before = stream.state_dict()["snapshot"]
        fleet.data = GROWN
        drain(stream)
        assert stream.state_dict()["snapshot"] == before
        next(iter(stream))
        with pytest.raises(RequestError, match="between epochs"):
            stream.refresh_snapshot()
        stream.set_epoch(2)
        assert stream.refresh_snapshot() == GROWN.snapshot()[0]
        drain(stream)
        assert stream.state_dict()["snapshot"] == GROWN.snapshot()[0]
        later = make_stream(fleet.target, snapshot_dir=tmp_path / "s")
        drain(later)
        assert later.state_dict()["snapshot"] == GROWN.snapshot()[0]


def test_a_resume_goes_on_with_the_snapshot_of_the_state(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        iterator = iter(stream)
        next(iterator)
        state = stream.state_dict()
        rest = [ids_of(batch) for batch in iterator]
        resumed = make_stream(fleet.target)
        resumed.load_state_dict(state)
        assert drain(resumed) == rest
        assert fleet.describe_count == 1


def test_a_resume_without_the_bytes_needs_the_same_files(
    make_stream: MakeStream, tmp_path: Path
) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target)
        next(iter(stream))
        state = stream.state_dict()
        same = make_stream(fleet.target, snapshot_dir=tmp_path / "empty")
        same.load_state_dict(state)
        assert len(drain(same)) == len(same) - 1
        fleet.data = GROWN
        other = make_stream(fleet.target, snapshot_dir=tmp_path / "empty too")
        other.load_state_dict(state)
        with pytest.raises(RequestError, match=r"no longer what it recorded.*snapshot_dir="):
            next(iter(other))


def test_an_explicit_snapshot_is_used(make_stream: MakeStream, tmp_path: Path) -> None:
    name, data = DATA.snapshot()
    SnapshotStore(tmp_path).put(name, data)
    with FakeFleet(DATA) as fleet:
        drain(make_stream(fleet.target, snapshot=name, snapshot_dir=tmp_path))
        assert fleet.describe_count == 0
        with pytest.raises(RequestError, match="no id"):
            next(iter(make_stream(fleet.target, snapshot="latest")))


def test_an_unwritable_cache_warns_and_an_unwritable_snapshot_dir_fails(
    make_stream: MakeStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with FakeFleet(DATA) as fleet:
        with pytest.warns(UserWarning, match="snapshot_dir="):
            drain(make_stream(fleet.target))
        with pytest.raises(RequestError, match="cannot be written"):
            next(iter(make_stream(fleet.target, snapshot_dir=file / "s")))


def test_ranks_on_their_own_are_warned(make_stream: MakeStream) -> None:
    with FakeFleet(DATA) as fleet:
        stream = make_stream(fleet.target, rank=0, world_size=2)
        with pytest.warns(UserWarning, match=r"torch\.distributed.*snapshot_dir"):
            next(iter(stream))
        with pytest.raises(RequestError, match="several ranks"):
            make_stream(fleet.target, rank=0, world_size=2).refresh_snapshot()


class Meeting:
    """A group of threads that share values as torch.distributed's gather does."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size)
        self.values: list[Any] = [None] * world_size


class Member:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank
        self.world_size = len(meeting.values)

    def share(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait(GROUP_TIMEOUT_S)
        values = list(self.meeting.values)
        self.meeting.barrier.wait(GROUP_TIMEOUT_S)
        return values


def choose_together(
    tmp_path: Path, wanted: list[str], describe: list[Callable[[], Snapshot]]
) -> list[Snapshot | Exception]:
    """What each rank chooses, or what it fails with."""
    meeting = Meeting(len(wanted))
    outcome: list[Snapshot | Exception] = [RuntimeError("never ran")] * len(wanted)

    def run(rank: int) -> None:
        choice = SnapshotChoice(
            name=DATASET.fingerprint,
            store=SnapshotStore(tmp_path / str(rank)),
            pins=None,
            describe=describe[rank],
            group=Member(meeting, rank),
            world_size=len(wanted),
        )
        try:
            outcome[rank] = choice.choose(wanted[rank])
        except HeadraceError as error:
            outcome[rank] = error

    threads = [threading.Thread(target=run, args=(r,)) for r in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GROUP_TIMEOUT_S)
    return outcome


def test_rank_0_describes_and_the_others_adopt(tmp_path: Path) -> None:
    describe = [lambda: snapshot_of(DATA), lambda: snapshot_of(GROWN)]
    outcome = choose_together(tmp_path, ["", ""], describe)
    assert outcome == [snapshot_of(DATA)] * 2
    assert SnapshotStore(tmp_path / "1").get(DATA.snapshot()[0]) is not None


def test_different_snapshots_on_ranks_name_the_first_file_that_differs(tmp_path: Path) -> None:
    for rank, data in enumerate((DATA, GROWN)):
        SnapshotStore(tmp_path / str(rank)).put(*data.snapshot())
    wanted = [DATA.snapshot()[0], GROWN.snapshot()[0]]
    outcome = choose_together(tmp_path, wanted, [lambda: snapshot_of(DATA)] * 2)
    for failure in outcome:
        assert isinstance(failure, SnapshotMismatchError)
        assert "a2.parquet is in only one of them" in str(failure)


def test_a_failure_of_rank_0_reaches_every_rank(tmp_path: Path) -> None:
    def fail() -> Snapshot:
        raise RequestError("no such path")

    outcome = choose_together(tmp_path, ["", ""], [fail, lambda: snapshot_of(DATA)])
    assert all(isinstance(o, RequestError) and "no such path" in str(o) for o in outcome)


def test_ranks_that_start_at_once_pin_one_snapshot(tmp_path: Path) -> None:
    with FakeFleet(DATA) as fleet:
        streams = [
            BatchStream(
                DATASET,
                target=fleet.target,
                batch_size=4,
                rank=rank,
                world_size=2,
                snapshot_dir=tmp_path / "s",
            )
            for rank in range(2)
        ]
        ids: list[list[int]] = [[], []]

        def run(rank: int) -> None:
            for batch in drain(streams[rank]):
                ids[rank] += batch

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for stream in streams:
            stream.close()
        left_out = streams[0].stats().left_out_rows
        assert len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1]) == DATA.row_count - left_out
