"""Functions run on the rows of a split, block by block, before any row is left out or moved."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa

from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.errors import DeploymentError, RequestError, ServerError
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.reader import describe_row_group
from preprocessor_server.source.snapshot import Snapshot
from preprocessor_server.source.split_table import SplitTable
from preprocessor_server.stage_clock import count_parts
from preprocessor_server.telemetry import log
from preprocessor_server.udf.declared import DeclaredUdf, DeclaredUdfs, declare_udfs
from preprocessor_server.udf.process import UdfFailedError
from preprocessor_server.udf.types import plain_type
from preprocessor_server.udf.workers import Workers

# A status travels in the trailing metadata of a call, all of which may take 8 KiB, and more than
# once: of a traceback this much is sent, its end, as the bytes that its percent-encoding has.
_MAX_TRACEBACK_BYTES = 1600


class SplitPlace(NamedTuple):
    """Which rows are being worked on: those of a split, but for the first skipped_rows.

    seed and epoch are those of the identity; skipped are whole blocks.
    """

    snapshot: Snapshot
    split: Split
    seed: int = 0
    epoch: int = 0
    skipped_rows: int = 0

    @property
    def ordinal(self) -> int:
        """The number of the split, as docs/ops.md has it for shuffle keys."""
        group = self.snapshot.first_row_groups[self.split.file] + self.split.row_group
        return (group << 40) + self.split.first_row


@dataclass(frozen=True)
class Udfs:
    """The functions of a dataset, and who runs them; fingerprints are those of the snapshot."""

    declared: DeclaredUdfs
    workers: Workers
    fingerprints: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.declared.udfs)

    def look(self) -> list[pb.SnapshotUdf]:
        """The code of the functions as it is now. Raises DeploymentError (UDF_FAILED)."""
        found = []
        for udf in self.declared.udfs:
            try:
                fingerprint = self.workers.fingerprint(udf)
            except UdfFailedError as error:
                raise _failed(udf, error, "", "") from error
            found.append(pb.SnapshotUdf(function=udf.function, fingerprint=fingerprint))
        return found

    def of(self, snapshot: Snapshot) -> Udfs:
        """The same functions with the code that a snapshot fixes.

        Raises RequestError (SNAPSHOT_INVALID) if it fixes none for one of them.
        """
        known = {udf.function: udf.fingerprint for udf in snapshot.message.udfs}
        missing = [u.function for u in self.declared.udfs if u.function not in known]
        if missing:
            raise RequestError(
                "SNAPSHOT_INVALID",
                f"snapshot {snapshot.id} was taken for other functions: this dataset also runs "
                f"{', '.join(missing)}; take a snapshot of this dataset (refresh_snapshot)",
                field="snapshot_id",
            )
        return replace(self, fingerprints=known)

    def random_ones(self, names: Collection[str]) -> list[str]:
        """The functions that named columns need and that draw random numbers."""
        return [udf.function for udf in self.declared.needed(names) if udf.random]

    def apply(self, table: SplitTable, place: SplitPlace, names: Collection[str]) -> SplitTable:
        """The rows with the columns that named ones need of functions.

        Raises DeploymentError (UDF_FAILED, UDF_CHANGED) that names function, file and rows.
        """
        for udf in self.declared.needed(names):
            began_ns = time.perf_counter_ns()
            table = self._apply(udf, table, place)
            count_parts("transform", {udf.function: time.perf_counter_ns() - began_ns})
        return table

    def _apply(self, udf: DeclaredUdf, table: SplitTable, place: SplitPlace) -> SplitTable:
        rows, size = table.rows.num_rows, self.declared.block_rows
        blocks = []
        for first in range(0, rows, size):
            batch = self._block(udf, table, first, min(size, rows - first))
            seed = None
            if udf.random:
                block = (place.skipped_rows + first) // size
                seed = seed_words(place.seed, place.epoch, place.ordinal, block, udf.seed_word)
            fingerprint = self.fingerprints[udf.function]
            try:
                blocks.append(self.workers.run(udf, fingerprint, batch, seed))
            except UdfFailedError as error:
                where = _describe_block(place, table, first, batch.num_rows)
                raise _failed(udf, error, where, reproduction(udf, place)) from error
            except ServerError as error:
                raise error.at(_describe_block(place, table, first, batch.num_rows)) from error
        made = table.rows
        for output in udf.outputs:
            chunks = [block.column(output.name) for block in blocks]
            made = made.append_column(output.name, pa.chunked_array(chunks, output.type))
        if table.lengths is None:
            return replace(table, rows=made, parquet_rows=made)
        return replace(table, rows=made)

    def _block(self, udf: DeclaredUdf, table: SplitTable, first: int, count: int) -> pa.RecordBatch:
        """A function's inputs in a range of rows, in the types of the schema, plainly encoded."""
        of_rows = set(table.rows.column_names)
        types = (plain_type(self.declared.schema.field(name).type) for name in udf.inputs)
        schema = pa.schema(list(zip(udf.inputs, types, strict=True)))
        columns = []
        for part in schema:
            if part.name in of_rows:
                column = table.rows.column(part.name).slice(first, count)
            else:
                assert table.inverse is not None
                inverse = pa.array(table.inverse[first : first + count])
                column = table.parquet_rows.column(part.name).take(inverse)
            if column.type != part.type:
                # How a column is encoded in a file is nothing that a function should see.
                column = column.cast(part.type)
            columns.append(_joined(column))
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def bind_udfs(spec: dataset_pb2.DatasetSpec, source: pa.Schema, workers: Workers) -> Udfs:
    """The functions of a dataset whose rows have the columns of a schema.

    Raises DatasetError as declare_udfs(), DeploymentError as check_code().
    """
    declared = declare_udfs(spec, source)
    for udf in declared.udfs:
        workers.check_allowed(udf)
    return Udfs(declared, workers)


def seed_words(*numbers: int) -> list[int]:
    """Unsigned 64-bit numbers as 32-bit words, the low one of each first."""
    return [word for number in numbers for word in (number & 0xFFFFFFFF, number >> 32)]


def reproduction(udf: DeclaredUdf, place: SplitPlace) -> str:
    """The command that runs a split in one process."""
    split = place.split
    path = place.snapshot.message.files[split.file].path
    where = f"{path},{split.row_group},{split.first_row},{split.row_count}"
    allowed = "--udf upload" if udf.code.archive else f"--udf-module {udf.module}"
    return (
        f"preprocessor-server preview DATASET.yaml {allowed} "
        f"--split {shlex.quote(where)} --seed {place.seed} --epoch {place.epoch}"
    )


def _joined(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)


def _describe_block(place: SplitPlace, table: SplitTable, first: int, count: int) -> str:
    """Where a block is, for people: in rows of the row group, or of the lists of a split."""
    group = describe_row_group(place.snapshot, place.split)
    before = place.split.first_row
    first += place.skipped_rows
    if table.lengths is None:
        return f"{group}, rows {before + first}-{before + first + count - 1}"
    end = before + place.split.row_count - 1
    return f"{group}, rows {first}-{first + count - 1} in the lists of Parquet rows {before}-{end}"


def _failed(udf: DeclaredUdf, error: UdfFailedError, where: str, command: str) -> DeploymentError:
    log.warning(
        "udf failed",
        function=udf.function,
        where=where,
        message=error.message,
        traceback=error.traceback,
    )
    text = f"{where}: UDF {udf.function}: " if where else f"UDF {udf.function}: "
    text += error.message
    if error.traceback:
        text += f"\n{_end_of(error.traceback)}"
    if command:
        # Who uploads has no file of it yet.
        how = " (DATASET.yaml is dataset.to_yaml())" if udf.code.archive else ""
        text += f"\nreproduce it in one process{how}: {command}"
    return DeploymentError("UDF_FAILED", text)


def _end_of(text: str) -> str:
    lines: Sequence[str] = text.splitlines()
    kept: list[str] = []
    left = _MAX_TRACEBACK_BYTES
    for line in reversed(lines):
        left -= len(quote(line, safe=" ")) + 1
        if left < 0:
            kept.append("… (the server's log has all of it)" if kept else line[-200:])
            break
        kept.append(line)
    return "\n".join(reversed(kept))
