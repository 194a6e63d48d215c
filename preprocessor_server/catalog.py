"""Datasets and snapshots that this process knows: caches, never state.

A request names a dataset and a snapshot; the catalog binds the two to what the pipeline runs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import (
    DatasetError,
    RequestError,
    ServerError,
    errors_in,
    raising,
)
from preprocessor_server.plan.epoch import EpochPlan, RowGroups, plan_epoch
from preprocessor_server.plan.identity import ENCODING_VERSION, Identity
from preprocessor_server.settings import Settings
from preprocessor_server.skipping import RowGroupSkips
from preprocessor_server.source.footer import FooterCache
from preprocessor_server.source.nesting import RowSchema, bind_rows, resolve_rows
from preprocessor_server.source.paths import Roots
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.source.snapshot import Snapshot, take_snapshot
from preprocessor_server.transform import (
    Filter,
    Sampler,
    Transform,
    bind_features,
    bind_sampling,
    bind_where,
    compile_features,
    compile_where,
    validate_spec,
    with_weight,
)
from preprocessor_server.transform.invalid import suggest
from preprocessor_server.udf.declared import binding_errors, identity_of, output_schema
from preprocessor_server.udf.run import Udfs, bind_udfs
from preprocessor_server.udf.workers import WorkerProcesses, Workers

DEFAULT_MAX_SPLIT_BYTES = 256 * 1024 * 1024
# Footers are read by threads of their own: they wait for storage, not for cores.
FOOTER_THREADS = 16

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The values used last, up to a total weight; the newest is kept whatever it weighs."""

    def __init__(self, capacity: int, weigh: Callable[[V], int]) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key, None if it is not there (any longer)."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Adds a value, dropping those used longest ago."""
        with self._lock:
            if key in self._values:
                self._weight -= self._weigh(self._values.pop(key))
            self._values[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._capacity and len(self._values) > 1:
                _, dropped = self._values.popitem(last=False)
                self._weight -= self._weigh(dropped)


@dataclass(frozen=True)
class BoundDataset:
    """A dataset bound to a snapshot: checked, compiled, ready to be planned and read.

    source has all columns of the rows, columns those that are read.
    """

    spec: dataset_pb2.DatasetSpec
    snapshot: Snapshot
    source: RowSchema
    columns: RowSchema
    transform: Transform
    filter: Filter | None
    sampler: Sampler | None
    udfs: Udfs

    @property
    def group_by(self) -> tuple[str, ...]:
        """The columns whose equal values keep adjacent rows together."""
        return tuple(self.spec.source.parquet.group_by)

    @cached_property
    def size_bytes(self) -> int:
        """What it is reckoned to take up in memory, in bytes: code may be most of the spec."""
        return self.snapshot.size_bytes + 2 * self.spec.ByteSize()

    @cached_property
    def used_columns(self) -> frozenset[str]:
        """The columns that features use, and those that decide which rows are delivered.

        Those that functions make included.
        """
        return frozenset((*self.transform.columns, *self.deciding_columns))

    @cached_property
    def deciding_columns(self) -> tuple[str, ...]:
        """The columns that filter and sampling need, those that functions make included."""
        return _deciding_columns(self.filter, self.sampler)

    @property
    def chooses_rows(self) -> bool:
        """Whether only reading tells how many rows are delivered, unless they were counted."""
        return self.filter is not None or self.sampler is not None

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
        counted = message.counted_filter, message.HasField("counted_sampling")
        return not self.chooses_rows or (
            counted == (spec.where, spec.HasField("sampling"))
            and message.counted_sampling == spec.sampling
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


class Catalog:
    """Binds requests to datasets; looks at files when asked to, and only then."""

    def __init__(self, settings: Settings, udf_workers: Workers | None = None) -> None:
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
        self._plans: LruCache[tuple[str, int, bool, bool, Identity], EpochPlan] = LruCache(
            memory // 4, lambda plan: plan.size_bytes
        )
        self._planning = threading.Lock()
        self.reader = SplitReader(self._roots, self._footers)

    def describe(self, spec: dataset_pb2.DatasetSpec) -> BoundDataset:
        """The dataset with a snapshot of what it names now."""
        validate_spec(spec)
        files = self._roots.expand(spec.source.parquet.paths)
        if not files:
            raise DatasetError(
                "PATH_NOT_FOUND", "the dataset names no file", field="dataset.source.parquet.paths"
            )
        schema = self._footers.read(files[0]).schema
        compiled = _compile(spec, schema, self._udf_workers)
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
        validate_spec(spec)
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
        # With one snapshot, counts are known for one filter at most, and without any.
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
            compiled = _compile(spec, snapshot.schema, self._udf_workers)
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


class _Compiled(NamedTuple):
    source: RowSchema
    columns: RowSchema
    transform: Transform
    filter: Filter | None
    sampler: Sampler | None
    udfs: Udfs


def _compile(spec: dataset_pb2.DatasetSpec, files: pa.Schema, workers: Workers) -> _Compiled:
    """All columns of the rows, those that features, filter and group_by need, and the former two.

    files is the schema of the files.
    """
    source = resolve_rows(spec, files)
    try:
        return _compile_rows(spec, source, workers)
    except DatasetError as error:
        told = _as_flat(error, spec, source)
        if told is error:
            raise
        raise told from error


def find_faults(
    spec: dataset_pb2.DatasetSpec, files: pa.Schema, unsound: Mapping[int, int]
) -> Iterator[ServerError]:
    """All that keeps a dataset from being read from files of a schema.

    Where validate_spec refuses it already, unsound says from which operation on each feature is
    not judged.
    """
    for source in bind_rows(spec, files):
        if isinstance(source, DatasetError):
            yield source
            continue
        schema = output_schema(spec, source.schema)
        found = (
            *binding_errors(spec, source.schema),
            *errors_in(bind_features(spec, with_weight(spec, schema), unsound)),
            *errors_in(bind_where(spec, schema)),
            *errors_in(bind_sampling(spec, schema)),
            *_group_by_faults(spec, source),
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


def _compile_rows(spec: dataset_pb2.DatasetSpec, source: RowSchema, workers: Workers) -> _Compiled:
    schema = source.schema
    udfs = bind_udfs(spec, schema, workers)
    transform = compile_features(spec, with_weight(spec, udfs.declared.schema))
    where = compile_where(spec, udfs.declared.schema, stored=schema)
    fault = next(_group_by_faults(spec, source), None)
    if fault is not None:
        raise fault
    sampler = next(raising(bind_sampling(spec, udfs.declared.schema)), None)
    used = udfs.declared.sources({*transform.columns, *_deciding_columns(where, sampler)})
    columns = source.select({*used, *spec.source.parquet.group_by})
    return _Compiled(source, columns, transform, where, sampler, udfs)


def _deciding_columns(where: Filter | None, sampler: Sampler | None) -> tuple[str, ...]:
    return (*(where.columns if where else ()), *(sampler.columns if sampler else ()))


def _group_by_faults(spec: dataset_pb2.DatasetSpec, source: RowSchema) -> Iterator[DatasetError]:
    schema = source.schema
    in_lists = {column.name for column in source.columns if column.in_lists}
    for i, name in enumerate(spec.source.parquet.group_by):
        field = f"dataset.source.parquet.group_by[{i}]"
        if schema.get_field_index(name) < 0:
            yield DatasetError(
                "COLUMN_MISSING",
                f"group_by names column {name!r}, which the source does not have; "
                + suggest(name, schema.names),
                field=field,
            )
            continue
        kind = schema.field(name).type
        if not _is_comparable(kind):
            yield DatasetError(
                "TYPE_UNFIT",
                f"group_by column {name!r} is {kind}; group by numbers, booleans, strings, binary, "
                "dates or times (no float16)",
                field=field,
            )
        if name in in_lists:
            yield DatasetError(
                "TYPE_UNFIT",
                f"group_by column {name!r} lies in lists with one element a row; a group is made "
                "of whole Parquet rows, so group by columns that hold one value a Parquet row, or "
                "by none, which keeps the rows of each Parquet row together",
                field=field,
            )


def _is_comparable(kind: pa.DataType) -> bool:
    """Whether adjacent values of a column can be compared, for groups."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    is_float = pa.types.is_floating(kind) and not pa.types.is_float16(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_fixed = pa.types.is_fixed_size_binary(kind) or pa.types.is_boolean(kind)
    return is_number or is_float or is_text or is_binary or is_fixed or pa.types.is_temporal(kind)
