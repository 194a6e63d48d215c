"""One server of a fleet answers wrongly, and seals what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.server import Server
from tests.fakes import liar
from tests.fakes.parquet import write_dataset
from trainer_client import BatchStream, Dataset, DeploymentError, Label, Sparse, parquet

Start = Callable[..., Server]
Fleet = Callable[..., BatchStream]
DATASET = Dataset(
    source=parquet("rows"), features=[Sparse("id"), Sparse("request"), Label("label")]
)
# Nobody knows how many rows a shard has left.
FILTERED = replace(DATASET, where="label = 1")
# A server that cannot be reached at once is passed over for seconds, which may be a whole epoch.
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A shard has at least one row group: so many that there are as many shards as asked for.
    root = tmp_path_factory.mktemp("data")
    write_dataset(root / "rows", row_group_rows=100)
    return root


@pytest.fixture
def honest(dataset_root: Path, start_server: Start) -> list[str]:
    return [start_server(data_root=(dataset_root,)).address for _ in range(2)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    streams = []

    def make(*addresses: str, dataset: Dataset = DATASET) -> BatchStream:
        streams.append(
            BatchStream(
                dataset,
                target="static:///" + ",".join(addresses),
                batch_size=32,
                # So many that every server has some of them: each is sent to one of two that the
                # hashes of its number and their addresses, which no two runs share, point to.
                num_shards=40,
                snapshot_dir=tmp_path / str(hash(dataset.where)),
                timeout=20,
                uneven="none",
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


def read_on(stream: BatchStream) -> None:
    """Epoch after epoch, for as long as the lying server may be passed over."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        sequence(stream)


def same_until_heard(stream: BatchStream, expected: BatchStream, lying: liar.Liar) -> int:
    """Compares epochs until the server has lied; the batches of one epoch."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        wanted = sequence(expected)
        assert sequence(stream) == wanted
        if lying.lies:
            return len(wanted)
        assert time.monotonic() < deadline_s, "the lying server was asked for nothing"


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
    with liar.Liar(honest[0], lie) as lying:
        stream = fleet(*honest, lying.address)
        batches = same_until_heard(stream, fleet(*honest), lying)
        assert stream.stats().retries >= lying.lies
        assert stream.stats().servers[lying.address].batches < batches / 2


def test_where_rows_are_not_counted_an_end_must_be_that_of_the_splits(
    honest: list[str], fleet: Fleet
) -> None:
    with liar.Liar(honest[0], liar.ends_early) as lying:
        stream = fleet(*honest, lying.address, dataset=FILTERED)
        same_until_heard(stream, fleet(*honest, dataset=FILTERED), lying)
        assert stream.stats().refetches >= lying.lies


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (liar.is_of_another_snapshot, "streams snapshot sha256:000.*another version"),
        (liar.says_nothing_of_itself, "streams snapshot none .*another version"),
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
        read_on(fleet(*honest, lying.address))
    assert lying.address in str(caught.value)


def test_servers_with_other_features_end_the_run(honest: list[str], fleet: Fleet) -> None:
    # Whichever of the two is heard first.
    message = "('request', 'id'.*'id', 'request'|'id', 'request'.*'request', 'id').*of one version"
    with (
        liar.Liar(honest[0], liar.swaps_features) as lying,
        pytest.raises(DeploymentError, match=message),
    ):
        read_on(fleet(*honest, lying.address))


def wants_another_seed(request: pb.StreamBatchesRequest) -> None:
    request.identity.seed += 1


def wants_no_shuffle(request: pb.StreamBatchesRequest) -> None:
    request.identity.shuffle = False


@pytest.mark.parametrize(
    ("asks", "message"),
    [
        (wants_another_seed, "streams with seed 1 where 0 was asked for.*another version"),
        (wants_no_shuffle, "streams with shuffle False where True was asked for"),
    ],
)
def test_batches_of_another_identity_end_the_run(
    honest: list[str],
    fleet: Fleet,
    asks: Callable[[pb.StreamBatchesRequest], None],
    message: str,
) -> None:
    with (
        liar.Liar(honest[0], asks=asks) as lying,
        pytest.raises(DeploymentError, match=message) as caught,
    ):
        read_on(fleet(*honest, lying.address))
    assert lying.address in str(caught.value)


def of_another_snapshot(plan: pb.PlanEpochResponse) -> None:
    plan.snapshot_id = "sha256:" + "0" * 64


def splits_of_another_snapshot(plan: pb.PlanEpochResponse) -> None:
    if plan.shards[0].splits:
        of_another_snapshot(plan)


def of_another_seed(plan: pb.PlanEpochResponse) -> None:
    plan.identity.seed += 1


def splits_of_another_epoch(plan: pb.PlanEpochResponse) -> None:
    if plan.shards[0].splits:
        plan.identity.epoch += 1


def of_other_shards(plan: pb.PlanEpochResponse) -> None:
    if plan.shards[0].splits:
        plan.shards[-1].shard += 1


def of_one_shard_twice(plan: pb.PlanEpochResponse) -> None:
    if plan.shards[0].splits:
        plan.shards.append(plan.shards[0])


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (of_another_snapshot, r"planned snapshot sha256:000.* was asked for.*another version"),
        (splits_of_another_snapshot, r"planned snapshot sha256:000.*another version"),
        (of_another_seed, r"planned with seed 1 where 0 was asked for.*another version"),
        (splits_of_another_epoch, r"planned with epoch 1 where 0 was asked for.*another version"),
        (of_other_shards, r"the plan holds shard \d+, which was not asked for"),
        (of_one_shard_twice, r"the plan holds shard 0, which was not asked for, or twice"),
    ],
)
def test_a_plan_of_something_else_ends_the_run(
    honest: list[str], fleet: Fleet, lie: Callable[[pb.PlanEpochResponse], None], message: str
) -> None:
    with (
        liar.Liar(honest[0], plan=lie) as lying,
        pytest.raises(DeploymentError, match=message),
    ):
        sequence(fleet(lying.address))
