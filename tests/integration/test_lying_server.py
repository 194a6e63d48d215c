"""One server of a fleet answers wrongly, and seals what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes import liar
from trainer_client import BatchStream, Dataset, DeploymentError, Label, Sparse, parquet

Start = Callable[..., Server]
Fleet = Callable[..., BatchStream]
DATASET = Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")])


@pytest.fixture
def honest(dataset_root: Path, start_server: Start) -> list[str]:
    return [start_server(data_root=(dataset_root,)).address for _ in range(2)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    streams = []

    def make(*addresses: str) -> BatchStream:
        streams.append(
            BatchStream(
                DATASET,
                target="static:///" + ",".join(addresses),
                batch_size=128,
                num_shards=6,
                snapshot_dir=tmp_path,
                timeout=20,
            )
        )
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


def sequence(stream: BatchStream) -> list[tuple[int, int, list[int]]]:
    found = []
    for batch in stream:
        assert batch.sparse is not None
        found.append((batch.shard, batch.index, batch.sparse["id"].values.tolist()))
    return found


@pytest.mark.parametrize(
    "lie",
    [
        liar.skips_a_batch,
        liar.repeats_a_batch,
        liar.starts_elsewhere,
        liar.takes_another_shard,
        liar.falls_silent,
    ],
)
def test_what_does_not_follow_is_fetched_elsewhere(
    honest: list[str], fleet: Fleet, lie: liar.Lie
) -> None:
    expected = sequence(fleet(*honest))
    with liar.Liar(honest[0], lie) as lying:
        stream = fleet(*honest, lying.address)
        assert sequence(stream) == expected
        assert lying.lies
        assert stream.stats().retries >= lying.lies
        assert stream.stats().servers[lying.address].batches < len(expected) / 2


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (liar.ends_early, "batches before its plan does: the servers disagree about the plan"),
        (liar.has_another_version, "sends encoding version 99.*upgrade the older of the two"),
        (liar.says_something_unknown, "sent a message of an unknown kind"),
    ],
)
def test_what_no_other_server_would_change_ends_the_run(
    honest: list[str], fleet: Fleet, lie: liar.Lie, message: str
) -> None:
    with (
        liar.Liar(honest[0], lie) as lying,
        pytest.raises(DeploymentError, match=message) as caught,
    ):
        sequence(fleet(*honest, lying.address))
    assert lying.address in str(caught.value)


def test_a_plan_of_another_snapshot_ends_the_run(honest: list[str], fleet: Fleet) -> None:
    def other(plan: pb.PlanEpochResponse) -> None:
        plan.snapshot_id = "sha256:" + "0" * 64

    with (
        liar.Liar(honest[0], lambda messages: messages, other) as lying,
        pytest.raises(DeploymentError, match=r"planned snapshot sha256:000.*another version"),
    ):
        sequence(fleet(lying.address))
