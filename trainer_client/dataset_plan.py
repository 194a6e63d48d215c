"""What servers do for a dataset: what they read, how often they work, and what comes out."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from itertools import groupby

from headrace.v1 import batch_pb2, dataset_pb2, preprocessor_service_pb2
from trainer_client.dataset import Dataset
from trainer_client.derive import Derived
from trainer_client.features import Feature, Sparse
from trainer_client.ops import OneHot
from trainer_client.sampling import Sampling
from trainer_client.transport.asking import connected

# How often a feature's operations work on a value of its column.
PER_PARQUET_ROW = "once a Parquet row"
PER_RUN = "once a row, or run of equal values"
NEVER = "never: no feature needs it"

_DTYPE_PREFIX = "SCALAR_TYPE_"


@dataclass(frozen=True, slots=True)
class PlannedFeature:
    """A feature: its column's Arrow type, what is done to it, and how often.

    block is the name of the output block it lies in; column that of its column, which has another
    name where a OneHot makes several features of it; weights that of the column of the ids'
    weights, "" for none.
    """

    name: str
    type: str
    ops: tuple[str, ...]
    work: str
    block: str
    column: str
    weights: str = ""


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A derived column: its Arrow type, what it is made of, and how often, or NEVER."""

    name: str
    type: str
    made_of: str
    work: str


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """An output block: its name, the dtype of its values and what a batch of B rows has of it."""

    name: str
    dtype: str
    shape: str


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """A table that sparse features are looked up in: every id is below num_embeddings.

    embedding_dim is 0 where the dataset leaves it to the trainer.
    """

    name: str
    features: tuple[str, ...]
    num_embeddings: int
    embedding_dim: int


@dataclass(frozen=True, slots=True, repr=False)
class DatasetPlan:
    """How a dataset is read and made into batches. repr() draws it.

    columns are those that are read, of column_count; other_columns those among them that no feature
    needs. derived are in the order in which they are made. row_count is None where only reading the
    rows tells. skipped_row_groups of the row groups are not read: the statistics of the files prove
    that no row of theirs passes.
    """

    columns: tuple[str, ...]
    column_count: int
    other_columns: tuple[str, ...]
    where: str
    sample: Sampling | None
    derived: tuple[PlannedColumn, ...]
    features: tuple[PlannedFeature, ...]
    blocks: tuple[PlannedBlock, ...]
    file_count: int
    row_group_count: int
    decoded_bytes: int
    unfiltered_row_count: int
    row_count: int | None
    skipped_row_groups: int
    tables: tuple[EmbeddingTable, ...] = ()
    distinct_by: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The plan, from files to batches."""
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        """The same, for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _lines(self) -> Iterator[str]:
        yield (
            f"read       {len(self.columns)} of {self.column_count} columns, "
            f"{self.unfiltered_row_count:,} rows in {self.row_group_count:,} row groups of "
            f"{self.file_count:,} files; {self.decoded_bytes:,} bytes decoded (an estimate)"
        )
        yield f"pushdown   columns: no other is read; row groups: {self._skipped()}; pages: none"
        if self.where:
            kept = "an unknown number" if self.row_count is None else f"{self.row_count:,}"
            yield f"filter     {self.where}"
            yield f"           on every row of the row groups that are read; keeps {kept}"
        else:
            yield "filter     none"
        if self.sample is not None:
            yield f"sampling   {self._sampled(self.sample)}"
        if self.distinct_by:
            keys = ", ".join(self.distinct_by)
            yield f"distinct   the first row of each {keys} in a row group, or part of one if cut"
        if self.other_columns:
            others = ", ".join(self.other_columns)
            yield f"           read for filter, sampling, distinct_by or group_by alone: {others}"
        rows = [(each.name, each.type, each.made_of, each.work) for each in self.derived]
        for index, row in enumerate(_padded(rows)):
            yield f"{'' if index else 'derive':<11}{row}"
        for block in self.blocks:
            yield f"block      {block.name}: {block.dtype} {block.shape}"
            yield from self._feature_lines(block)
        for table in self.tables:
            size = f"{table.num_embeddings:,} x {table.embedding_dim or 'any'}"
            yield f"table      {table.name}: {size}, of {', '.join(table.features)}"

    def _skipped(self) -> str:
        if not self.skipped_row_groups:
            return "none is skipped"
        return (
            f"{self.skipped_row_groups:,} of {self.row_group_count:,} are skipped, as their "
            "statistics prove that no row passes"
        )

    @staticmethod
    def _sampled(sample: Sampling) -> str:
        of = f"rows where {sample.when}" if sample.when else "all rows"
        weight = f"; weight in {sample.weight}" if sample.weight else ""
        return f"keeps {sample.rate:.6g} of {of}, by {sample.key} (seed {sample.seed}){weight}"

    def _feature_lines(self, block: PlannedBlock) -> Iterator[str]:
        members = [feature for feature in self.features if feature.block == block.name]
        rows = []
        for _, group in groupby(members, key=lambda feature: feature.column):
            first, *more = group
            name = f"{first.name} … {more[-1].name}" if more else first.name
            rows.append((name, first.type, _done(first), first.work))
        yield from (f"           {row}" for row in _padded(rows))


def fetch_plan(dataset: Dataset, target: str, timeout_s: float) -> DatasetPlan:
    """The plan of a dataset, from a fleet. Raises HeadraceError as a stream would."""
    message = dataset.to_proto()
    request = preprocessor_service_pb2.DescribeDatasetRequest(
        dataset=message, count_skipped_row_groups=True
    )
    with connected(target, timeout_s) as connection:
        found: preprocessor_service_pb2.DescribeDatasetResponse = connection.call(
            "DescribeDataset", request, what="describing the dataset"
        )
    types = {column.name: column.type for column in found.source_columns}
    if dataset.sample is not None and dataset.sample.weight:
        types[dataset.sample.weight] = "double"
    types.update((column.name, column.type) for column in found.made_columns)
    makers = dict(_makers(dataset, types))
    work = _work(dataset, found, types)
    features = []
    for block in found.output_schema.blocks:
        for name in block.features:
            column = _column_of(name, makers)
            maker = makers[column]
            ops, weights = tuple(map(repr, maker.ops)), ""
            often = work[column]
            if isinstance(maker, Sparse) and maker.weights:
                weights = maker.weights
                often = often if work[weights] == often else PER_RUN
            features.append(
                PlannedFeature(name, types[column], ops, often, block.name, column, weights)
            )
    needed = tuple(column.name for column in found.source_columns if column.needed)
    used = _inputs(dataset, {name for each in features for name in (each.column, each.weights)})
    made = {column.name: column.needed for column in found.made_columns}
    return DatasetPlan(
        columns=needed,
        column_count=len(found.source_columns),
        other_columns=tuple(name for name in needed if name not in used),
        where=dataset.where,
        sample=dataset.sample,
        derived=tuple(
            PlannedColumn(
                column.name,
                types[column.name],
                _made_of(column),
                work[column.name] if made[column.name] else NEVER,
            )
            for column in dataset.derive
        ),
        features=tuple(features),
        blocks=tuple(
            PlannedBlock(block.name, _dtype(block), _shape(block))
            for block in found.output_schema.blocks
        ),
        file_count=found.file_count,
        row_group_count=found.row_group_count,
        decoded_bytes=found.decoded_bytes,
        unfiltered_row_count=found.unfiltered_row_count,
        row_count=found.row_count if found.HasField("row_count") else None,
        skipped_row_groups=found.skipped_row_group_count,
        tables=tuple(
            EmbeddingTable(
                table.name, tuple(table.features), table.num_embeddings, table.embedding_dim
            )
            for table in found.output_schema.tables
        ),
        distinct_by=tuple(dataset.distinct_by),
    )


def _done(feature: PlannedFeature) -> str:
    """What is done to a column, for people."""
    done = " → ".join(feature.ops) or "as it is"
    return f"{done}, weights {feature.weights}" if feature.weights else done


def _makers(dataset: Dataset, names: Collection[str]) -> Iterator[tuple[str, Feature]]:
    """Which feature of the dataset makes something of a column; the server has checked that one."""
    for feature in dataset.features:
        for pattern in feature.columns:
            if pattern in names:
                yield pattern, feature
            else:
                yield from ((name, feature) for name in names if fnmatchcase(name, pattern))


def _column_of(feature: str, makers: Mapping[str, Feature]) -> str:
    """The column that a feature is made of; of those of a OneHot the name without its number."""
    maker = makers.get(feature)
    if maker is None or (maker.ops and isinstance(maker.ops[-1], OneHot)):
        return feature.rpartition("_")[0]
    return feature


def _work(
    dataset: Dataset,
    found: preprocessor_service_pb2.DescribeDatasetResponse,
    names: Collection[str],
) -> dict[str, str]:
    """How often operations work on each named column: of the source, of functions, or derived."""
    grouped = any(column.list_column for column in found.source_columns)
    once = {column.name for column in found.source_columns if grouped and not column.list_column}
    for derived in dataset.derive:
        if once.issuperset(derived.inputs):
            once.add(derived.name)
    return {name: PER_PARQUET_ROW if name in once else PER_RUN for name in names}


def _inputs(dataset: Dataset, names: set[str]) -> set[str]:
    """The columns that named ones are made of, through others too, and these."""
    for derived in reversed(dataset.derive):
        if derived.name in names:
            names.update(derived.inputs)
    for udf in reversed(dataset.udfs):
        if any(output in names for output, _ in udf.outputs):
            names.update(udf.inputs)
    return names


def _made_of(column: Derived) -> str:
    """A derived column as its builder is called, without its name and what is left out."""
    shown = [
        f"{field.name}={getattr(column, field.name)!r}"
        for field in fields(column)  # type: ignore[arg-type]
        if field.name != "name" and getattr(column, field.name) != field.default
    ]
    return f"{type(column).__name__}({', '.join(shown)})"


def _padded(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    """The rows of a table as lines, with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        parts = [f"{part:<{width}}" for part, width in zip(row, widths, strict=True)]
        yield "  ".join(parts).rstrip()


def _dtype(block: batch_pb2.BlockSchema) -> str:
    return dataset_pb2.ScalarType.Name(block.dtype).removeprefix(_DTYPE_PREFIX).lower()


def _shape(block: batch_pb2.BlockSchema) -> str:
    count = len(block.features)
    if block.kind == batch_pb2.BLOCK_KIND_SPARSE:
        weights = ", a float32 weight each" if block.weights_dtype else ""
        return f"values of lists{weights}, lengths int32 [{count}, B]"
    return f"[B, {count}]"
