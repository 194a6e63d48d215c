"""Features: columns selected, checked and compiled once, then applied to every Frame."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import DatasetError, ServerError, raising
from preprocessor_server.frame import Column, Frame, Runs
from preprocessor_server.stage_clock import count_parts
from preprocessor_server.transform.blocks import (
    KINDS,
    Block,
    Body,
    Output,
    block_name,
    blocks_of,
    body,
    kind_of,
)
from preprocessor_server.transform.column_type import ColumnType, Family, column_type
from preprocessor_server.transform.deliver import deliver, deliver_classes
from preprocessor_server.transform.derive import (
    Derivation,
    DerivedColumn,
    bind_derived,
    derive,
    needed,
)
from preprocessor_server.transform.derive.levels import Inverse
from preprocessor_server.transform.fuse import fuse_ids
from preprocessor_server.transform.invalid import invalid, shorten, suggest
from preprocessor_server.transform.ops import compile_op, null_typed, unfit
from preprocessor_server.transform.ops.base import ColumnOp, UnfitError
from preprocessor_server.transform.ops.listed import ReadListed, read_no_file
from preprocessor_server.transform.ops.one_hot import counted
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.tables import bind_tables, ids_below
from preprocessor_server.transform.validate import op_title
from preprocessor_server.transform.weights import bind_weights, weights_of_several, with_weights


class FeatureSize:
    """What features take up in memory, as a share of what is decoded for them.

    As large as what is decoded until some were made; then the largest share seen.
    """

    # One window may be unlike the others.
    LEAST = 0.25

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._largest: float | None = None

    @property
    def share(self) -> float:
        """The share to count with."""
        return 1.0 if self._largest is None else max(self._largest, self.LEAST)

    def note(self, share: float) -> None:
        """Takes a share that was seen."""
        with self._lock:
            self._largest = max(self._largest or 0.0, share)


@dataclass(frozen=True, slots=True)
class Transform:
    """The features of a dataset, bound to a source schema; safe from any thread.

    outputs are in the order of the dataset, blocks in that of a batch; derived are the derived
    columns they need, in order, of all_derived; columns are the source columns that both need, in
    the order of the source schema. What is computed depends on nothing else; tables and size are
    for whoever asks: tables say what the ids are looked up in, and size is for estimates of memory.
    """

    outputs: tuple[Output, ...]
    blocks: tuple[Block, ...]
    columns: tuple[str, ...]
    derived: tuple[DerivedColumn, ...] = ()
    all_derived: tuple[DerivedColumn, ...] = ()
    tables: tuple[batch_pb2.EmbeddingTable, ...] = ()
    size: FeatureSize = dataclass_field(default_factory=FeatureSize, compare=False)

    @property
    def class_bytes(self) -> int:
        """What features of classes (OneHot) take up a row, whatever their columns do."""
        wide = {b.name for b in self.blocks if b.dtype == dataset_pb2.SCALAR_TYPE_FLOAT64}
        return sum(
            (8 if output.block in wide else 4) * len(output.classes) for output in self.outputs
        )

    def schema(self, encoding_version: int) -> batch_pb2.BatchSchema:
        """The blocks of every batch, each with its features in the order of the dataset."""
        schema = batch_pb2.BatchSchema(encoding_version=encoding_version, tables=self.tables)
        for block in self.blocks:
            schema.blocks.add(
                name=block.name,
                kind=KINDS[block.kind].block_kind,
                dtype=block.dtype,
                features=[
                    name
                    for output in self.outputs
                    if output.block == block.name
                    for name in output.features
                ],
                weights_dtype=dataset_pb2.SCALAR_TYPE_FLOAT32 if block.is_weighted else None,
            )
        return schema

    def apply(self, frame: Frame) -> Frame:
        """The features of the frame's rows, by name.

        Dense and label features are Flat float64 in blocks of it, else Flat float32; sparse ones
        Flat, OptionalIds or Jagged of Flat, int32 in blocks of it, else int64 or int32, with
        weights always Jagged; meta columns Flat int64. None has nulls. What is kept once per run is
        worked on once per run and stays so; run structures without features are left out. Raises
        DataError (NULL_VALUE, VALUE_OUT_OF_RANGE, LISTS_UNEVEN) that names feature, or derived
        column, and row.
        """
        frame = derive(self.derived, frame)
        by_row: dict[str, Column] = {}
        by_run: dict[int, tuple[Inverse, dict[str, Column]]] = {
            id(runs.inverse): (runs.inverse, {}) for runs in frame.runs
        }
        took_ns: dict[str, int] = {}
        before_ns = time.perf_counter_ns()
        for output in self.outputs:
            column, inverse = _made(output, frame)
            made = [column] if output.spread is None else output.spread(column)
            level = by_row
            if inverse is not None:
                _, level = by_run.setdefault(id(inverse), (inverse, {}))
            level.update(zip(output.features, made, strict=True))
            now_ns = time.perf_counter_ns()
            took_ns[output.name], before_ns = now_ns - before_ns, now_ns
        count_parts("transform", took_ns)
        runs = tuple(Runs(inverse, columns) for inverse, columns in by_run.values() if columns)
        return Frame(frame.row_count, by_row, runs)


def _made(output: Output, frame: Frame) -> tuple[Column, Inverse | None]:
    """A feature of a frame's rows or runs, and the inverse index that expands it."""
    if output.weights is not None:
        return with_weights(output, frame)
    column, inverse = frame.column(output.column)
    place = Place(output.place, inverse)
    for step in output.steps:
        column = step(column, place)
    return column, inverse


def compile_features(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema, read: ReadListed = read_no_file
) -> Transform:
    """Binds features and derived columns, which validate_spec has let through, to a source schema.

    read reads the files that operations name. Raises DatasetError: FEATURE_UNMATCHED for a name or
    glob that matches no column, DATASET_INVALID for a column selected twice and for what
    bind_derived says, TYPE_UNFIT for an operation, a feature or a derived column that does not fit
    its column; ServerError as read does.
    """
    derivation = bind_derived(spec, schema)
    for fault in derivation.faults:
        raise fault
    outputs = tuple(raising(_bind_outputs(spec, derivation, {}, read)))
    tables = tuple(raising(bind_tables(spec, outputs, read)))
    return transform_of(outputs, derivation, schema, blocks_of(spec), tables)


def transform_of(
    outputs: tuple[Output, ...],
    derivation: Derivation,
    schema: pa.Schema,
    blocks: tuple[Block, ...] = (),
    tables: tuple[batch_pb2.EmbeddingTable, ...] = (),
) -> Transform:
    """What makes outputs of a source schema's columns, and of the derived ones that they need."""
    used = {column for output in outputs for column in output.columns}
    derived = needed(derivation.columns, used)
    used.update(*(column.inputs for column in derived))
    columns = tuple(name for name in schema.names if name in used)
    return Transform(outputs, blocks, columns, derived, derivation.columns, tables)


def bind_features(
    spec: dataset_pb2.DatasetSpec,
    schema: pa.Schema,
    unsound: Mapping[int, int],
    read: ReadListed = read_no_file,
) -> Iterator[Output | ServerError]:
    """What compile_features refuses about derived columns; every feature of every column, likewise.

    unsound has, for features with an operation that validate_spec refuses, the first such
    operation: what comes after it cannot be judged. Features without a kind are left out, and so
    are those of derived columns at fault.
    """
    derivation = bind_derived(spec, schema)
    yield from derivation.faults
    yield from _bind_outputs(spec, derivation, unsound, read)


def _bind_outputs(
    spec: dataset_pb2.DatasetSpec,
    derivation: Derivation,
    unsound: Mapping[int, int],
    read: ReadListed,
) -> Iterator[Output | ServerError]:
    schema = derivation.schema
    taken: dict[str, str] = {}
    # Which column makes each feature.
    named: dict[str, str] = {}
    found: list[Output] = []
    blocks = {block.name: block for block in blocks_of(spec)}
    for index, feature in enumerate(spec.features):
        path = f"dataset.features[{index}]"
        if feature.WhichOneof("kind") is None:
            continue
        for selected in select_columns(body(feature), path, schema):
            if isinstance(selected, DatasetError):
                yield selected
                continue
            name, field = selected
            if name in taken:
                yield invalid(
                    field,
                    f"column {name!r} is selected by {taken[name]} already; a column "
                    "makes one feature, so leave it out of one of them (globs count too)",
                )
                continue
            taken[name] = f"feature {name!r} ({shorten(path)})"
            if not derivation.unsound.isdisjoint({name, feature.sparse.weights}):
                continue
            try:
                block = blocks[block_name(feature)]
                end = unsound.get(index)
                output = _compile(feature, index, block, name, field, schema, end, read)
            except ServerError as error:
                yield error
                continue
            if output is None:
                continue
            clash = next((each for each in output.features if each in named), None)
            if clash is not None:
                yield invalid(
                    field,
                    f"column {name!r} makes a feature {clash!r}, and so does column "
                    f"{named[clash]!r}, since OneHot adds numbers to names; use a derived column "
                    "of another name in place of one of them",
                )
                continue
            named.update(dict.fromkeys(output.features, name))
            found.append(output)
            yield output
    yield from (
        fault for fault in bind_tables(spec, found, read) if isinstance(fault, DatasetError)
    )


def select_columns(
    part: Body,
    path: str,
    schema: pa.Schema,
) -> Iterator[tuple[str, str] | DatasetError]:
    """The columns that a feature selects, each with the field that names it."""
    times = Counter(schema.names)
    for index, pattern in enumerate(part.columns):
        field = f"{path}.columns[{index}]"
        if pattern in times:
            names = [pattern]
        else:
            names = [name for name in times if fnmatchcase(name, pattern)]
        if not names:
            yield DatasetError(
                "FEATURE_UNMATCHED",
                f"{shorten(field)}: {pattern!r} matches no column of the source; "
                + suggest(pattern, schema.names),
                field=field,
            )
        if len(names) > 1 and isinstance(part, dataset_pb2.SparseFeature) and part.weights:
            yield weights_of_several(names, part.weights, path)
            continue
        for name in names:
            if times[name] > 1:
                yield invalid(
                    field,
                    f"the source has {times[name]} columns called {name!r}; rename all but one",
                )
            else:
                yield name, field


def _compile(
    feature: dataset_pb2.Feature,
    number: int,
    block: Block,
    name: str,
    field: str,
    schema: pa.Schema,
    unsound: int | None,
    read: ReadListed,
) -> Output | None:
    """The feature of a column; None if it has an unsound operation and is right up to there."""
    kind, path = kind_of(feature), f"dataset.features[{number}]"
    arrow = schema.field(name).type
    column = column_type(arrow)
    if column is None:
        raise DatasetError(
            "TYPE_UNFIT",
            f"feature {name!r} ({shorten(path)}): column {name!r} is {arrow}, of which no feature "
            "can be made; write the part of it that is wanted as a column of its own or, if it "
            "holds a list with one struct a row, name it in the source's rows",
            field=field,
        )
    steps: list[ColumnOp] = []
    source = column
    if column.family is Family.NULL:
        step, column = null_typed(
            column, np.dtype(np.float64 if kind in {"dense", "label"} else np.int64)
        )
        steps.append(step)
    ops = body(feature).ops[:unsound]
    given: list[ColumnType] = []
    done: list[ColumnOp] = []
    class_count = 0
    for index, op in enumerate(ops):
        at = f"{path}.ops[{index}]"
        given.append(column)
        whole = op
        if op.HasField("one_hot"):
            whole = counted(op, ids_below(ops[:index], path, read), at)
            class_count = whole.one_hot.num_classes
        try:
            step, column = compile_op(whole, column, at, read)
        except UnfitError as error:
            raise unfit(error, f"{shorten(at)} {op_title(op)}", at, name, column) from error
        done.append(step)
    if unsound is not None:
        return None
    place = f"feature {name!r} ({shorten(path)})"
    steps += fuse_ids(ops, given, done) if kind == "sparse" else done
    output = Output(name, kind, block.name, name, place, number, tuple(steps))
    if class_count:
        classes = tuple(f"{name}_{each}" for each in range(class_count))
        spread = deliver_classes(class_count, block.dtype)
        return replace(output, classes=classes, spread=spread)
    try:
        last = deliver(kind, column, block.dtype)
    except UnfitError as error:
        raise unfit(error, f"{shorten(path)}, {kind}", field, name, column) from error
    weights = None
    if feature.sparse.weights:
        weights = bind_weights(feature.sparse, path, name, source, schema)
    return replace(output, steps=(*steps, last), weights=weights)
