"""What a fleet says today about the batches that a ledger names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format

from headrace.v1 import dataset_pb2, preprocessor_service_pb2
from trainer_client import decode
from trainer_client.batch import Batch
from trainer_client.cursor import Cursor
from trainer_client.dataset import Dataset
from trainer_client.errors import DataError, RequestError
from trainer_client.header import end_checksum
from trainer_client.ledger.run import Epoch, Run
from trainer_client.payload import ACCEPTED_CODECS
from trainer_client.sampling import chooses_rows
from trainer_client.snapshot_store import SnapshotStore, default_directory
from trainer_client.snapshots import SnapshotChoice
from trainer_client.telemetry import Meter
from trainer_client.tls import Tls
from trainer_client.transport import counting, planner
from trainer_client.transport.calls import Connection, Snapshot
from trainer_client.transport.opening import credentials_for, open_fleet
from trainer_client.transport.shard_stream import Codec, Fetched, Job, ShardStream
from trainer_client.transport.stall import StallGuard
from trainer_client.transport.targets import parse_target
from trainer_client.verify.table import Ints


@dataclass(frozen=True, slots=True)
class ShardPlans:
    """The batches and rows of each shard, None in both where only reading tells."""

    num_shards: int
    batches: Ints | None
    rows: Ints | None


class Served:
    """A fleet that is asked about a run's epochs."""

    def __init__(
        self, connection: Connection, run: Run, snapshot_dir: str | os.PathLike[str] | None
    ) -> None:
        self._connection = connection
        header = run.sessions[-1].header
        self._message = json_format.ParseDict(header["dataset"], dataset_pb2.DatasetSpec())
        self._dataset = Dataset.from_proto(self._message)
        self._counts = header["count"] is not None and chooses_rows(self._message)
        self._store = SnapshotStore(snapshot_dir or default_directory())
        self._snapshots: dict[str, Snapshot] = {}

    def shards(self, epoch: Epoch) -> ShardPlans:
        """How many batches and rows each shard of an epoch has."""
        asked = self._connection, self._message, self._snapshot(epoch)
        summary = planner.plan(*asked, _identity(epoch))
        num_shards = summary.identity.num_shards
        if summary.batch_counts is None:
            return ShardPlans(num_shards, None, None)
        rows = planner.row_counts(*asked, summary.identity, ())
        by_shard = np.array([rows[shard] for shard in range(num_shards)], np.int64)
        return ShardPlans(num_shards, np.array(summary.batch_counts, np.int64), by_shard)

    def fetch(
        self, epoch: Epoch, shard: int, index: int, cursor: tuple[int, int, int, int] | None
    ) -> Fetched[Batch]:
        """A batch, from its cursor, or by its index alone where row counts are known."""
        identity, snapshot = _identity(epoch), self._snapshot(epoch)
        splits = planner.splits(self._connection, self._message, snapshot, identity, [shard])
        guard = StallGuard()
        codec = Codec(ACCEPTED_CODECS, decode.Decoders(), end_checksum)
        job = Job(self._connection, guard, self._message, snapshot, identity, codec)
        start = index if cursor is None else Cursor(*cursor)
        stream = ShardStream(job, shard, splits[shard], start, 1)
        try:
            return next(iter(stream))
        finally:
            stream.close()
            guard.close()

    def _snapshot(self, epoch: Epoch) -> Snapshot:
        wanted = epoch.setup["snapshot"]
        if wanted not in self._snapshots:
            if epoch.setup["dataset"] != self._dataset.fingerprint:
                raise DataError(
                    f"epoch {epoch.number} is of dataset {epoch.setup['dataset']}, the ledger's "
                    f"first line has {self._dataset.fingerprint}: the ledger is damaged"
                )
            choice = SnapshotChoice(
                name=self._dataset.fingerprint,
                store=self._store,
                pins=None,
                describe=self._describe,
                group=None,
                world_size=1,
            )
            self._snapshots[wanted] = choice.choose(wanted)
        return self._snapshots[wanted]

    def _describe(self) -> Snapshot:
        found = planner.describe(self._connection, self._message, self._dataset.source.paths)
        return counting.count(self._connection, self._message, found) if self._counts else found


@contextmanager
def connected(
    run: Run,
    target: str | None,
    snapshot_dir: str | os.PathLike[str] | None,
    timeout_s: float,
    tls: Tls | None = None,
) -> Iterator[Served]:
    """The fleet of a target, or of the one that the run used last."""
    used = run.sessions[-1].header["target"]
    servers = parse_target(target or used)
    credentials = credentials_for(servers, tls)
    fleet = open_fleet(servers, 1, 3.0)
    connection = Connection(fleet, timeout_s=timeout_s, meter=Meter(), tls=credentials)
    try:
        yield Served(connection, run, snapshot_dir)
    finally:
        connection.close()


def _identity(epoch: Epoch) -> preprocessor_service_pb2.BatchIdentity:
    setup: Mapping[str, Any] = epoch.setup
    names = ("seed", "num_shards", "batch_size", "shuffle", "shuffle_window_splits")
    try:
        identity = preprocessor_service_pb2.BatchIdentity(
            epoch=epoch.number,
            encoding_version=setup["encoding_version"],
            **{name: setup[name] for name in names},
        )
    except KeyError as error:
        raise RequestError(
            f"the ledger does not say with which {error} epoch {epoch.number} was read: it was "
            "written by another version of headrace"
        ) from error
    decode.check_version(identity.encoding_version, "the ledger is of")
    return identity
