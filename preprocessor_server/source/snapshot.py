"""A snapshot: what a dataset named when it was first looked at. Content-addressed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import zstandard
from google.protobuf.message import DecodeError

from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.errors import DatasetError, RequestError
from preprocessor_server.plan.epoch import RowGroups
from preprocessor_server.source.footer import FooterCache, decoded_bytes
from preprocessor_server.source.inner_rows import count_inner_rows
from preprocessor_server.source.leaves import leaves_of
from preprocessor_server.source.nesting import RowSchema, check_columns
from preprocessor_server.source.paths import NamedFile

# A snapshot of a million row groups is a few MB; what says that it unpacks to more is refused.
MAX_SNAPSHOT_BYTES = 1 << 30


@dataclass(frozen=True)
class Snapshot:
    """A snapshot, its id ("sha256:…") and the bytes that travel."""

    id: str
    message: pb.Snapshot
    frame: bytes

    @classmethod
    def of(cls, message: pb.Snapshot) -> Snapshot:
        """The snapshot of a message."""
        content = message.SerializeToString(deterministic=True)
        return cls(_id(content), message, zstandard.ZstdCompressor(level=3).compress(content))

    @classmethod
    def from_frame(cls, frame: bytes) -> Snapshot:
        """The snapshot that travelled as these bytes. Raises RequestError if they are none."""
        try:
            size = zstandard.get_frame_parameters(frame).content_size
            if not 0 < size <= MAX_SNAPSHOT_BYTES:
                raise ValueError(f"it says that it unpacks to {size} bytes")
            content = zstandard.ZstdDecompressor().decompress(frame)
            snapshot = cls(_id(content), pb.Snapshot.FromString(content), frame)
            snapshot._check()
            return snapshot
        except (zstandard.ZstdError, DecodeError, pa.ArrowException, ValueError, OSError) as error:
            raise RequestError(
                "SNAPSHOT_INVALID",
                f"the bytes are no snapshot ({error}); hand over what DescribeDataset returned",
                field="snapshot",
            ) from None

    def with_udfs(self, udfs: Sequence[pb.SnapshotUdf]) -> Snapshot:
        """The same snapshot, which also fixes the code of functions."""
        message = pb.Snapshot()
        message.CopyFrom(self.message)
        message.udfs.extend(udfs)
        return Snapshot.of(message)

    def _check(self) -> None:
        groups = sum(file.row_group_count for file in self.message.files)
        if not self.message.files:
            raise ValueError("it names no file")
        rows, sizes = self.message.row_group_rows, self.message.row_group_decoded_bytes
        inner, passing = self.message.row_group_inner_rows, self.message.row_group_passing_rows
        is_counted = (
            self.message.counted_filter
            or self.message.HasField("counted_sampling")
            or self.message.counted_distinct_by
        )
        counted = groups if is_counted else 0
        if not groups == len(rows) == len(sizes) or len(inner) not in {0, groups}:
            raise ValueError("its counts do not agree")
        if len(passing) != counted or any(
            some > all_ for some, all_ in zip(passing, inner or rows, strict=False)
        ):
            raise ValueError("its counts of rows that pass a filter do not agree with the others")
        if max((*rows, *sizes, *inner), default=0) >= 1 << 62:
            raise ValueError("a count is absurd")
        _ = self.schema

    @cached_property
    def size_bytes(self) -> int:
        """What the snapshot takes up in memory, in bytes; an estimate."""
        return self.message.ByteSize() + len(self.frame) + 64 * len(self.message.row_group_rows)

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of the first file."""
        return pa.ipc.read_schema(pa.py_buffer(self.message.arrow_schema))

    @property
    def grouped(self) -> bool:
        """Whether a Parquet row holds any number of rows, in lists."""
        return bool(self.message.row_group_inner_rows)

    @cached_property
    def row_groups(self) -> RowGroups:
        """Every row group, file by file, as if each row were delivered."""
        counts = np.array([file.row_group_count for file in self.message.files], np.int64)
        starts = np.cumsum(counts) - counts
        rows = np.array(self.message.row_group_inner_rows or self.message.row_group_rows, np.int64)
        return RowGroups(
            file=np.repeat(np.arange(len(counts)), counts),
            index=np.arange(counts.sum()) - np.repeat(starts, counts),
            parquet_rows=np.array(self.message.row_group_rows, np.int64),
            rows=rows,
            delivered=rows,
            whole=self.grouped,
            decoded_bytes=np.array(self.message.row_group_decoded_bytes, np.int64),
        )

    @cached_property
    def counted_row_groups(self) -> RowGroups:
        """Every row group with the rows that pass the filter that was counted."""
        passing = np.array(self.message.row_group_passing_rows, np.int64)
        return replace(self.row_groups, delivered=passing, whole=True)

    @cached_property
    def first_row_groups(self) -> list[int]:
        """For every file, how many row groups stand before its first."""
        counts = [file.row_group_count for file in self.message.files]
        return (np.cumsum(counts) - np.array(counts)).tolist()  # type: ignore[no-any-return]


def take_snapshot(
    files: Sequence[NamedFile],
    schema: pa.Schema,
    needed: RowSchema,
    footers: FooterCache,
    pool: Executor,
) -> Snapshot:
    """Reads every footer, in parallel, and fixes what the files hold now.

    needed are the columns that will be read. Raises DataError for a file that is not Parquet, or
    whose needed columns differ from those of the first file; DatasetError if there is no row.
    """
    message = pb.Snapshot(
        arrow_schema=schema.serialize().to_pybytes(),
        measured_columns=[column.measured_name for column in needed.columns],
    )

    def summarise(file: NamedFile) -> tuple[pb.SnapshotFile, list[int], list[int], list[int]]:
        footer = footers.read(file)
        check_columns(file.name, footer.schema, needed, files[0].name)
        leaves = leaves_of(file.name, footer.schema, footer.metadata, needed)
        count = footer.metadata.num_row_groups
        return (
            pb.SnapshotFile(
                path=file.name,
                size_bytes=footer.size_bytes,
                mtime_ns=footer.mtime_ns,
                row_group_count=count,
            ),
            [footer.metadata.row_group(i).num_rows for i in range(count)],
            [decoded_bytes(footer.metadata, i, leaves) for i in range(count)],
            count_inner_rows(file, footer, leaves) if needed.grouped else [],
        )

    for summary, rows, sizes, inner_rows in pool.map(summarise, files):
        message.files.append(summary)
        message.row_group_rows.extend(rows)
        message.row_group_decoded_bytes.extend(sizes)
        message.row_group_inner_rows.extend(inner_rows)
    if not sum(message.row_group_inner_rows or message.row_group_rows):
        raise DatasetError(
            "DATASET_INVALID",
            f"the dataset's {len(files)} files hold no row (the first is {files[0].name!r}); name "
            "files that hold some",
            field="dataset.source.parquet.paths",
        )
    return Snapshot.of(message)


def _id(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
