"""Datasets and snapshots that this process knows: caches, never state.

A request names a dataset and a snapshot; the catalog binds the two to what the pipeline runs.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import pyarrow as pa

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import (
    DatasetError,
    RequestError,
    ServerError,
    errors_in,
    raising,
)
from preprocessor_server.group_by import group_by_faults
from preprocessor_server.lru_cache import LruCache
from preprocessor_server.plan.epoch import EpochPlan, RowGroups, plan_epoch
from preprocessor_server.plan.identity import ENCODING_VERSION, Identity
from preprocessor_server.settings import Settings
from preprocessor_server.skipping import RowGroupSkips
from preprocessor_server.source.footer import FooterCache
from preprocessor_server.source.nesting import RowSchema, bind_rows, resolve_rows
from preprocessor_server.source.paths import Roots
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.source.snapshot import Snapshot, take_snapshot
from preprocessor_server.source.vocabulary import read_vocabulary
from preprocessor_server.transform import (
    Filter,
    Sampler,
    Transform,
    bind_features,
    bind_sampling,
    bind_where,
    compile_features,
    compile_where,
    distinct_faults,
    validate_spec,
    with_weight,
)
from preprocessor_server.transform.ops.listed import (
    Listed,
    ReadListed,
    list_integers,
    list_strings,
)
from preprocessor_server.udf.declared import binding_errors, identity_of, output_schema
from preprocessor_server.udf.run import Udfs, bind_udfs
from preprocessor_server.udf.workers import WorkerProcesses, Workers

DEFAULT_MAX_SPLIT_BYTES = 256 * 1024 * 1024
# Footers are read by threads of their own: they wait for storage, not for cores.
FOOTER_THREADS = 16


@dataclass(frozen=True)
class BoundDataset:
    """A dataset bound to a snapshot: checked, compiled, ready to be planned and read.

    source has all columns of the rows, columns those that are read. listed_bytes is what the
    vocabularies of files take up in memory.
    """

    spec: dataset_pb2.DatasetSpec
    snapshot: Snapshot
    source: RowSchema
    columns: RowSchema
    transform: Transform
    filter: Filter | None
    sampler: Sampler | None
    udfs: Udfs
    listed_bytes: int = 0

    @property
    def group_by(self) -> tuple[str, ...]:
        """The columns whose equal values keep adjacent rows together."""
        return tuple(self.spec.source.parquet.group_by)

    @property
    def distinct_by(self) -> tuple[str, ...]:
        """The columns that rows of a split must differ in: of equal ones the first is delivered."""
        return tuple(self.spec.distinct_by)

    @cached_property
    def size_bytes(self) -> int:
        """What it is reckoned to take up in memory, in bytes: code may be most of the spec."""
        return self.snapshot.size_bytes + 2 * self.spec.ByteSize() + self.listed_bytes

    @cached_property
    def used_columns(self) -> frozenset[str]:
        """The columns that features use, and those that decide which rows are delivered.

        Those that functions make included.
        """
        return frozenset((*self.transform.columns, *self.deciding_columns))

    @cached_property
    def deciding_columns(self) -> tuple[str, ...]:
        """The columns that decide which rows are delivered, those that functions make included."""
        return _deciding_columns(self.spec, self.filter, self.sampler)

    @cached_property
    def counted_columns(self) -> RowSchema:
        """The columns that counting reads: the deciding ones, or what functions make them of.

        The same object every time: readers know columns by it.
        """
        return self.columns.select(self.udfs.declared.sources(self.deciding_columns))

    @property
    def chooses_rows(self) -> bool:
        """Whether only reading tells how many rows are delivered, unless they were counted."""
        return bool(self.filter or self.sampler or self.distinct_by)

    @cached_property
    def skips(self) -> RowGroupSkips | None:
        """Which row groups need not be read; None if footers can prove that of none."""
        pushdown = None if self.filter is None else self.filter.pushdown
        if pushdown is None:
            return None
        named = {column.name: column for column in self.source.columns}
        return RowGroupSkips(self.snapshot, pushdown, [named[name] for name in pushdown.columns])

    @property
    def counts_known(self) -> bool:
        """Whether the snapshot says how many rows are delivered."""
        message, spec = self.snapshot.message, self.spec
        return not self.chooses_rows or (
            message.counted_filter == spec.where
            and message.HasField("counted_sampling") == spec.HasField("sampling")
            and message.counted_sampling == spec.sampling
            and message.counted_distinct_by == spec.distinct_by
        )

    @property
    def row_groups(self) -> RowGroups:
        """The row groups, with the rows that they deliver as far as that is known."""
        counted = self.chooses_rows and self.counts_known
        return self.snapshot.counted_row_groups if counted else self.snapshot.row_groups

    @property
    def max_split_bytes(self) -> int:
        """The decoded size above which a row group is cut, in bytes."""
        return self.spec.max_split_bytes or DEFAULT_MAX_SPLIT_BYTES

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the dataset, whatever it names."""
        return "sha256:" + hashlib.sha256(identity_of(self.spec)).hexdigest()

    @cached_property
    def schema(self) -> batch_pb2.BatchSchema:
        """The schema of the batches."""
        return self.transform.schema(ENCODING_VERSION)


class Binding(NamedTuple):
    """What a dataset must be, and what is made of the columns that it reads."""

    validate: Callable[[dataset_pb2.DatasetSpec], None]
    features: Callable[[dataset_pb2.DatasetSpec, pa.Schema, ReadListed], Transform]


SERVED = Binding(validate_spec, compile_features)


class Catalog:
    """Binds requests to datasets; looks at files when asked to, and only then.

    binding says how, for who makes something else of a dataset's rows than its features.
    """

    def __init__(
        self,
        settings: Settings,
        udf_workers: Workers | None = None,
        binding: Binding = SERVED,
    ) -> None:
        self._binding = binding
        self._udf_workers = udf_workers or WorkerProcesses(settings)
        self._roots = Roots(settings.data_root)
        self._footers = FooterCache()
        self._footer_pool = ThreadPoolExecutor(FOOTER_THREADS, "footer")
        memory = settings.snapshot_cache_bytes
        self._snapshots: LruCache[str, Snapshot] = LruCache(
            memory // 2, lambda snapshot: snapshot.size_bytes
        )
        self._bound: LruCache[tuple[bytes, str], BoundDataset] = LruCache(
            memory // 4, lambda bound: bound.size_bytes
        )
        self._listed: LruCache[str, Listed] = LruCache(memory, lambda listed: listed.size_bytes)
        self._plans: LruCache[tuple[str, int, bool, bool, Identity], EpochPlan] = LruCache(
            memory // 4, lambda plan: plan.size_bytes
        )
        self._planning = threading.Lock()
        self.reader = SplitReader(self._roots, self._footers)

    def describe(self, spec: dataset_pb2.DatasetSpec) -> BoundDataset:
        """The dataset with a snapshot of what it names now."""
        self._binding.validate(spec)
        files = self._roots.expand(spec.source.parquet.paths)
        if not files:
            raise DatasetError(
                "PATH_NOT_FOUND", "the dataset names no file", field="dataset.source.parquet.paths"
            )
        schema = self._footers.read(files[0]).schema
        compiled = self._compile(spec, schema)
        snapshot = take_snapshot(files, schema, compiled.columns, self._footers, self._footer_pool)
        if compiled.udfs:
            snapshot = snapshot.with_udfs(compiled.udfs.look())
        self._snapshots.put(snapshot.id, snapshot)
        return self._bind(spec, snapshot)

    def bind(self, spec: dataset_pb2.DatasetSpec, snapshot_id: str) -> BoundDataset:
        """The dataset with a snapshot that the server knows; with one of now if the id is empty.

        Raises RequestError (SNAPSHOT_UNKNOWN) for an id that the server does not know.
        """
        if not snapshot_id:
            return self.describe(spec)
        self._binding.validate(spec)
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None:
            raise RequestError(
                "SNAPSHOT_UNKNOWN",
                f"this server does not know snapshot {snapshot_id!r}; hand it over with "
                "PutSnapshot, or leave the id empty to look at the files now",
                field="snapshot_id",
            )
        return self._bind(spec, snapshot)

    def put(self, frame: bytes) -> Snapshot:
        """Takes the bytes of a snapshot. Raises RequestError if they are none."""
        snapshot = Snapshot.from_frame(frame)
        self._snapshots.put(snapshot.id, snapshot)
        return snapshot

    def plan(self, dataset: BoundDataset, identity: Identity) -> EpochPlan:
        """The plan of an epoch of a dataset."""
        size = dataset.max_split_bytes
        # With one snapshot, counts are known for one choice of rows at most, and without any.
        filtered = dataset.chooses_rows
        key = (dataset.snapshot.id, size, filtered, dataset.counts_known, identity)
        # One plan at a time: ranks that ask for the same one together wait for one computation.
        with self._planning:
            plan = self._plans.get(key)
            if plan is None:
                plan = plan_epoch(
                    dataset.row_groups,
                    identity,
                    max_split_bytes=size,
                    counts_known=dataset.counts_known,
                )
                self._plans.put(key, plan)
            return plan

    def close(self) -> None:
        """Ends the processes of functions, and the threads that read footers: nobody waits."""
        self._udf_workers.close()
        self._footer_pool.shutdown(wait=False, cancel_futures=True)

    def _bind(self, spec: dataset_pb2.DatasetSpec, snapshot: Snapshot) -> BoundDataset:
        key = (spec.SerializeToString(deterministic=True), snapshot.id)
        bound = self._bound.get(key)
        if bound is None:
            compiled = self._compile(spec, snapshot.schema)
            needed = {column.measured_name for column in compiled.columns.columns}
            others = sorted(needed - set(snapshot.message.measured_columns))
            if others:
                raise RequestError(
                    "SNAPSHOT_INVALID",
                    f"snapshot {snapshot.id} was taken for other columns: this dataset also needs "
                    f"{', '.join(others)}; take a snapshot of this dataset (refresh_snapshot)",
                    field="snapshot_id",
                )
            compiled = compiled._replace(udfs=compiled.udfs.of(snapshot))
            bound = BoundDataset(spec, snapshot, *compiled)
            self._bound.put(key, bound)
        return bound

    def _compile(self, spec: dataset_pb2.DatasetSpec, files: pa.Schema) -> _Compiled:
        """All columns of the rows, those that features, filter and group_by need, and the former.

        files is the schema of the files.
        """
        source = resolve_rows(spec, files)
        try:
            return self._compile_rows(spec, source)
        except DatasetError as error:
            told = _as_flat(error, spec, source)
            if told is error:
                raise
            raise told from error

    def _compile_rows(self, spec: dataset_pb2.DatasetSpec, source: RowSchema) -> _Compiled:
        schema = source.schema
        udfs = bind_udfs(spec, schema, self._udf_workers)
        held: dict[str, int] = {}

        def read(path: str, sha256: str, field: str) -> Listed:
            listed = self._read_listed(path, sha256, field)
            held[sha256] = listed.size_bytes
            return listed

        transform = self._binding.features(spec, with_weight(spec, udfs.declared.schema), read)
        where = compile_where(spec, udfs.declared.schema, stored=schema)
        sampler = next(raising(bind_sampling(spec, udfs.declared.schema)), None)
        faults = (*group_by_faults(spec, source), *distinct_faults(spec, udfs.declared.schema))
        if faults:
            raise faults[0]
        deciding = _deciding_columns(spec, where, sampler)
        used = udfs.declared.sources({*transform.columns, *deciding})
        columns = source.select({*used, *spec.source.parquet.group_by})
        return _Compiled(source, columns, transform, where, sampler, udfs, sum(held.values()))

    def _read_listed(self, path: str, sha256: str, field: str) -> Listed:
        listed = self._listed.get(sha256)
        if listed is None:
            listed = read_listed(self._roots, path, sha256, field)
            self._listed.put(sha256, listed)
        return listed


class _Compiled(NamedTuple):
    source: RowSchema
    columns: RowSchema
    transform: Transform
    filter: Filter | None
    sampler: Sampler | None
    udfs: Udfs
    listed_bytes: int


def read_listed(roots: Roots, path: str, sha256: str, field: str) -> Listed:
    """The vocabulary of a file, as read_vocabulary() reads it."""
    values = read_vocabulary(roots, path, sha256, field)
    return list_integers(values) if values.type == pa.int64() else list_strings(values)


def find_faults(
    spec: dataset_pb2.DatasetSpec, files: pa.Schema, unsound: Mapping[int, int], roots: Roots
) -> Iterator[ServerError]:
    """All that keeps a dataset from being read from files of a schema; others lie below roots.

    Where validate_spec refuses it already, unsound says from which operation on each feature is
    not judged.
    """
    for source in bind_rows(spec, files):
        if isinstance(source, DatasetError):
            yield source
            continue
        schema = output_schema(spec, source.schema)
        read = partial(read_listed, roots)
        found = (
            *binding_errors(spec, source.schema),
            *errors_in(bind_features(spec, with_weight(spec, schema), unsound, read)),
            *errors_in(bind_where(spec, schema)),
            *errors_in(bind_sampling(spec, schema)),
            *distinct_faults(spec, schema),
            *group_by_faults(spec, source),
        )
        yield from (_as_flat(error, spec, source) for error in found)


def _as_flat(error: ServerError, spec: dataset_pb2.DatasetSpec, source: RowSchema) -> ServerError:
    """The error, with the remark that files were read as flat ones if that may be why."""
    unknown = error.reason in {"FEATURE_UNMATCHED", "COLUMN_MISSING"}
    if source.grouped or not (unknown and spec.source.parquet.rows):
        return error
    return DatasetError(
        error.reason,
        f"{error.message} (what source.parquet.rows names holds no list of rows here, so the "
        "files are read as flat ones)",
        field=error.field,
    )


def _deciding_columns(
    spec: dataset_pb2.DatasetSpec, where: Filter | None, sampler: Sampler | None
) -> tuple[str, ...]:
    of_filter, of_sampler = where.columns if where else (), sampler.columns if sampler else ()
    return (*of_filter, *of_sampler, *spec.distinct_by)
