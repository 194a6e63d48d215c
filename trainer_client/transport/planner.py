"""What a dataset names now, and the plan of an epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from headrace.v1 import dataset_pb2, preprocessor_service_pb2
from trainer_client.errors import DeploymentError
from trainer_client.transport.calls import Connection, Snapshot
from trainer_client.transport.identity import difference


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plan of an epoch without its splits; identity has every default filled in.

    batch_counts has one entry a shard, or is None where counts are unknown.
    """

    identity: preprocessor_service_pb2.BatchIdentity
    row_count: int | None
    batch_counts: tuple[int, ...] | None
    notes: tuple[str, ...]


def describe(
    connection: Connection, dataset: dataset_pb2.DatasetSpec, paths: Sequence[str]
) -> Snapshot:
    """The snapshot of what a dataset names now; paths are for messages."""
    request = preprocessor_service_pb2.DescribeDatasetRequest(
        dataset=dataset, include_snapshot=True
    )
    response = connection.call(
        "DescribeDataset", request, what=f"describing the dataset {', '.join(paths)}"
    )
    return Snapshot(response.snapshot_id, response.snapshot, response.encoding_version)


def plan(
    connection: Connection,
    dataset: dataset_pb2.DatasetSpec,
    snapshot: Snapshot,
    identity: preprocessor_service_pb2.BatchIdentity,
) -> PlanSummary:
    """The summary of an epoch's plan."""
    request = preprocessor_service_pb2.PlanEpochRequest(
        dataset=dataset,
        snapshot_id=snapshot.snapshot_id,
        identity=identity,
        shards=[0],
        omit_splits=True,
    )
    what = f"planning epoch {identity.epoch}"
    response = _page(connection, request, what, snapshot)
    counts = tuple(response.shard_batch_counts) if response.HasField("batch_count") else None
    if counts is not None and len(counts) != response.identity.num_shards:
        raise DeploymentError(
            f"{what}: the plan has {response.identity.num_shards} shards and counts the batches of "
            f"{len(counts)}"
        )
    return PlanSummary(
        identity=response.identity,
        row_count=response.row_count if response.HasField("row_count") else None,
        batch_counts=counts,
        notes=tuple(response.notes),
    )


def plan_shards(
    connection: Connection,
    dataset: dataset_pb2.DatasetSpec,
    snapshot: Snapshot,
    identity: preprocessor_service_pb2.BatchIdentity,
    shards: Sequence[int],
    *,
    with_splits: bool,
) -> Iterator[preprocessor_service_pb2.ShardPlan]:
    """The plans of the given shards (none: of all), page by page, in order."""
    request = preprocessor_service_pb2.PlanEpochRequest(
        dataset=dataset,
        snapshot_id=snapshot.snapshot_id,
        identity=identity,
        shards=shards,
        omit_splits=not with_splits,
    )
    what = f"planning {len(shards) or 'all'} shards of epoch {identity.epoch}"
    missing = set(shards or range(identity.num_shards))
    while True:
        response = _page(connection, request, what, snapshot)
        for shard in response.shards:
            if shard.shard not in missing:
                raise DeploymentError(
                    f"{what}: the plan holds shard {shard.shard}, which was not asked for, or twice"
                )
            missing.remove(shard.shard)
            yield shard
        if not response.next_page_token:
            break
        if not response.shards:
            raise DeploymentError(f"{what}: a page of the plan holds no shard, and is not the last")
        request.page_token = response.next_page_token
    if missing:
        raise DeploymentError(f"{what}: the plan lacks {len(missing)} shards, first {min(missing)}")


def _page(
    connection: Connection,
    request: preprocessor_service_pb2.PlanEpochRequest,
    what: str,
    snapshot: Snapshot,
) -> preprocessor_service_pb2.PlanEpochResponse:
    """A page of a plan. Raises DeploymentError if it is the plan of something else."""
    response: preprocessor_service_pb2.PlanEpochResponse = connection.call(
        "PlanEpoch", request, what=what, snapshot=snapshot
    )
    other = difference(
        (request.snapshot_id, request.identity), (response.snapshot_id, response.identity)
    )
    if other:
        raise DeploymentError(f"{what}: a server planned {other}: is it of another version?")
    return response


def row_counts(
    connection: Connection,
    dataset: dataset_pb2.DatasetSpec,
    snapshot: Snapshot,
    identity: preprocessor_service_pb2.BatchIdentity,
    shards: Sequence[int],
) -> dict[int, int]:
    """The rows of the given shards (none: of all), whose counts are known."""
    plans = plan_shards(connection, dataset, snapshot, identity, shards, with_splits=False)
    return {plan.shard: plan.row_count for plan in plans}


def splits(
    connection: Connection,
    dataset: dataset_pb2.DatasetSpec,
    snapshot: Snapshot,
    identity: preprocessor_service_pb2.BatchIdentity,
    shards: Collection[int],
) -> dict[int, list[preprocessor_service_pb2.Split]]:
    """The splits of the given shards."""
    if not shards:
        return {}
    plans = plan_shards(connection, dataset, snapshot, identity, sorted(shards), with_splits=True)
    return {plan.shard: list(plan.splits) for plan in plans}
