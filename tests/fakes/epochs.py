"""Deterministic data for a scripted fleet: shards of splits of rows, each row known by its id."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from headrace.v1 import preprocessor_service_pb2
from tests.fakes.encoder import Cursor, Rows


@dataclass(frozen=True)
class FakeData:
    """Rows per split, shard by shard; counts_known says whether plans state them.

    A row's id is its place in shard order. files name what the snapshot holds. encoding_version is
    the highest that the servers say they have.
    """

    shards: tuple[tuple[int, ...], ...]
    batch_size: int
    counts_known: bool = True
    files: tuple[str, ...] = ("a.parquet", "b.parquet")
    notes: tuple[str, ...] = ()
    encoding_version: int = 1

    def rows_in(self, shard: int) -> int:
        return sum(self.shards[shard])

    @property
    def row_count(self) -> int:
        return sum(map(sum, self.shards))

    def batches_in(self, shard: int) -> int:
        return -(-self.rows_in(shard) // self.batch_size)

    def row_ids(self, shard: int, epoch: int, seed: int) -> list[int]:
        """The ids of a shard's rows in an epoch's order."""
        first = sum(self.rows_in(s) for s in range(shard))
        ids = list(range(first, first + self.rows_in(shard)))
        random.Random(f"{seed} {epoch} {shard}").shuffle(ids)  # noqa: S311 - a repeatable order
        return ids

    def cursor(self, shard: int, batch: int, window: int) -> Cursor:
        """The position before a batch; at the end of the shard, the number of its splits."""
        row = batch * self.batch_size
        splits = self.shards[shard]
        for split in range(0, len(splits), window):
            rows = sum(splits[split : split + window])
            if row < rows:
                return split, row, 0, batch
            row -= rows
        return len(splits), 0, 0, batch

    def batches(self, shard: int, epoch: int, seed: int) -> Iterator[list[int]]:
        ids = self.row_ids(shard, epoch, seed)
        for start in range(0, len(ids), self.batch_size):
            yield ids[start : start + self.batch_size]

    def snapshot(self) -> tuple[str, bytes]:
        """(id, bytes) of the snapshot."""
        message = preprocessor_service_pb2.Snapshot(
            files=[
                preprocessor_service_pb2.SnapshotFile(path=path, size_bytes=100, mtime_ns=1)
                for path in self.files
            ]
        )
        data = message.SerializeToString(deterministic=True)
        name = "sha256:" + hashlib.sha256(data).hexdigest()
        return name, zstandard.ZstdCompressor().compress(data)


def rows_of(ids: list[int]) -> Rows:
    """The features of rows: all of them tell the row's id."""
    return Rows(
        dense={"dense_0": [float(i) for i in ids], "dense_1": [i / 2 for i in ids]},
        sparse={"cat": [[i + (1 << 40)] for i in ids], "seq": [[i] * (i % 4) for i in ids]},
        labels={"label": [float(i % 2) for i in ids]},
    )
