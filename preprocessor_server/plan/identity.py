"""What fixes every batch of an epoch, and the positions between batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.v1 import batch_pb2, preprocessor_service_pb2
from preprocessor_server.errors import DeploymentError, RequestError

ENCODING_VERSION = 1
MAX_BATCH_SIZE = 1 << 20
MAX_NUM_SHARDS = 1 << 20
MAX_SHUFFLE_WINDOW_SPLITS = 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """The batch identity of a request, checked; num_shards is 0 until a plan chooses it."""

    seed: int
    epoch: int
    num_shards: int
    batch_size: int
    shuffle: bool
    window_splits: int
    encoding_version: int

    @classmethod
    def from_proto(cls, message: preprocessor_service_pb2.BatchIdentity) -> Identity:
        """Raises RequestError or DeploymentError that names the field at fault."""
        size = message.batch_size
        if not 1 <= size <= MAX_BATCH_SIZE:
            raise RequestError(
                "REQUEST_INVALID",
                f"batch_size is {size}; it must be from 1 to {MAX_BATCH_SIZE:,} rows",
                field="identity.batch_size",
            )
        if message.num_shards > MAX_NUM_SHARDS:
            raise RequestError(
                "REQUEST_INVALID",
                f"num_shards is {message.num_shards}; it must be from 1 to {MAX_NUM_SHARDS:,}, or "
                "0 for the default",
                field="identity.num_shards",
            )
        if message.shuffle_window_splits > MAX_SHUFFLE_WINDOW_SPLITS:
            raise RequestError(
                "REQUEST_INVALID",
                f"shuffle_window_splits is {message.shuffle_window_splits}; it must be from 1 to "
                f"{MAX_SHUFFLE_WINDOW_SPLITS}, or 0 for 1",
                field="identity.shuffle_window_splits",
            )
        if message.encoding_version > ENCODING_VERSION:
            raise DeploymentError(
                "ENCODING_UNSUPPORTED",
                f"encoding version {message.encoding_version} was asked for; this server has "
                f"versions 1 to {ENCODING_VERSION}: plan the epoch with one that the whole fleet "
                "has, or upgrade the servers",
                field="identity.encoding_version",
            )
        return cls(
            seed=message.seed,
            epoch=message.epoch,
            num_shards=message.num_shards,
            batch_size=size,
            shuffle=message.shuffle,
            window_splits=message.shuffle_window_splits or 1,
            encoding_version=message.encoding_version or ENCODING_VERSION,
        )

    def to_proto(self, num_shards: int) -> preprocessor_service_pb2.BatchIdentity:
        """The identity with every default filled in."""
        return preprocessor_service_pb2.BatchIdentity(
            seed=self.seed,
            epoch=self.epoch,
            num_shards=num_shards,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            shuffle_window_splits=self.window_splits,
            encoding_version=self.encoding_version,
        )


class Split(NamedTuple):
    """Parquet rows [first_row, first_row + row_count) of one row group of one file."""

    file: int
    row_group: int
    first_row: int
    row_count: int


class Cursor(NamedTuple):
    """A position in a shard, as headrace.v1.Cursor defines it."""

    split: int = 0
    parquet_row: int = 0
    offset: int = 0
    batch: int = 0

    def to_proto(self) -> batch_pb2.Cursor:
        """The message of this position."""
        return batch_pb2.Cursor(
            split=self.split, parquet_row=self.parquet_row, offset=self.offset, batch=self.batch
        )

    @classmethod
    def from_proto(
        cls,
        message: batch_pb2.Cursor,
        splits: Sequence[Split],
        window_splits: int,
        *,
        grouped: bool,
    ) -> Cursor:
        """The position of a message. Raises RequestError if it fits none of the shard's splits.

        Whether the offset fits a Parquet row of grouped files shows once that is read.
        """
        cursor = cls(message.split, message.parquet_row, message.offset, message.batch)
        end = len(splits)
        if cursor.split > end:
            problem = f"the shard has {end} splits"
        elif cursor.split < end and cursor.split % window_splits:
            problem = f"no shuffle window of {window_splits} splits starts there"
        elif cursor.offset and not grouped:
            problem = "the Parquet rows of this dataset hold one row each, so offset must be 0"
        else:
            window = splits[cursor.split : cursor.split + window_splits]
            rows = sum(split.row_count for split in window)
            if cursor.parquet_row < rows or cursor.parquet_row == cursor.offset == rows == 0:
                return cursor
            problem = f"the splits there hold {rows} Parquet rows"
        raise cursor.invalid(problem)

    def invalid(self, problem: str) -> RequestError:
        """The error for a cursor that fits no row of its shard."""
        return RequestError(
            "CURSOR_INVALID",
            f"cursor (split {self.split}, parquet_row {self.parquet_row}, offset {self.offset}) "
            f"fits no split of the shard: {problem}; use a cursor that came with a batch of this "
            "dataset, snapshot and identity",
            field="cursor",
        )
