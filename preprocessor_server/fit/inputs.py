"""What is still to be fitted in a dataset, and the values that it is fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.catalog import Binding
from preprocessor_server.errors import DatasetError, raising
from preprocessor_server.transform import Transform, compile_features, validate_spec
from preprocessor_server.transform.blocks import Output, body
from preprocessor_server.transform.column_type import (
    BYTES,
    NUMBERS,
    ColumnType,
    Family,
    column_type,
)
from preprocessor_server.transform.derive import bind_derived
from preprocessor_server.transform.features import select_columns, transform_of
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.ops import compile_op, unfit
from preprocessor_server.transform.ops.base import CAST_FIRST, ColumnOp, UnfitError
from preprocessor_server.transform.ops.fit import check_bounds, is_unfitted
from preprocessor_server.transform.ops.listed import ReadListed
from preprocessor_server.transform.validate import op_title


class Target(NamedTuple):
    """An operation to be fitted: its place in a dataset, its column, and the type it is given.

    table is the embedding table that its feature names, empty for none.
    """

    feature: int
    op_index: int
    column: str
    op: dataset_pb2.Op
    type: ColumnType
    table: str

    @property
    def title(self) -> str:
        """The target, for people."""
        return (
            f"{op_title(self.op)} of column {self.column!r} "
            f"(features[{self.feature}].ops[{self.op_index}])"
        )

    def replace(self, spec: dataset_pb2.DatasetSpec, op: dataset_pb2.Op) -> None:
        """Puts a fitted operation in its place."""
        body(spec.features[self.feature]).ops[self.op_index].CopyFrom(op)


class Inputs:
    """Binds a dataset with operations to be fitted so that its rows become what they are given.

    Once bound, spec is the dataset with a feature of its own for each column to be fitted, and
    targets are the first operation to be fitted of each; a frame has their inputs by column.
    """

    def __init__(self) -> None:
        self.spec = dataset_pb2.DatasetSpec()
        self.targets: tuple[Target, ...] = ()

    @property
    def binding(self) -> Binding:
        """What a catalog needs."""
        return Binding(_validate, self._bind)

    def _bind(
        self, spec: dataset_pb2.DatasetSpec, schema: pa.Schema, read: ReadListed
    ) -> Transform:
        derivation = bind_derived(spec, schema)
        for fault in derivation.faults:
            raise fault
        self.spec = _one_column_each(spec, derivation.schema)
        _check_as_fitted(self.spec, derivation.schema, schema, read)
        found = list(_inputs(self.spec, derivation.schema, read))
        self.targets = tuple(target for target, _ in found)
        _check_shared(self.spec, self.targets)
        return transform_of(tuple(output for _, output in found), derivation, schema)


def _validate(spec: dataset_pb2.DatasetSpec) -> None:
    """As validate_spec, but for what is still to be fitted, of which the bounds are checked."""
    stand_in = dataset_pb2.DatasetSpec()
    stand_in.CopyFrom(spec)
    for i, feature in enumerate(stand_in.features):
        if feature.WhichOneof("kind") is None:
            continue
        for k, op in enumerate(body(feature).ops):
            if is_unfitted(op):
                check_bounds(op, f"dataset.features[{i}].ops[{k}]")
                op.log1p.SetInParent()
    validate_spec(stand_in)


def _one_column_each(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> dataset_pb2.DatasetSpec:
    """The dataset with a feature for each column where something is to be fitted."""
    result = dataset_pb2.DatasetSpec()
    result.CopyFrom(spec)
    del result.features[:]
    for i, feature in enumerate(spec.features):
        if not any(map(is_unfitted, body(feature).ops)):
            result.features.append(feature)
            continue
        path = f"dataset.features[{i}]"
        for name, _ in raising(select_columns(body(feature), path, schema)):
            body(result.features.add(**_as_fields(feature))).columns[:] = [name]
    return result


def _as_fields(feature: dataset_pb2.Feature) -> dict[str, dataset_pb2.DenseFeature]:
    kind = feature.WhichOneof("kind")
    assert kind is not None
    return {kind: getattr(feature, kind)}


def _inputs(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema, read: ReadListed
) -> Iterator[tuple[Target, Output]]:
    """The first operation to be fitted of each feature, and the steps from its column to it."""
    for i, feature in enumerate(spec.features):
        ops = body(feature).ops
        index = next((k for k, op in enumerate(ops) if is_unfitted(op)), None)
        if index is None:
            continue
        path = f"dataset.features[{i}]"
        [name] = body(feature).columns
        kind = column_type(schema.field(name).type)
        if kind is None or kind.family is Family.NULL:
            kind = kind or ColumnType(Family.NULL, None, False, str(schema.field(name).type))
            error = UnfitError("there is nothing to fit in it; leave the operation out")
            raise unfit(error, f"{shorten(path)}", path, name, kind)
        steps: list[ColumnOp] = []
        for k, op in enumerate(ops[: index + 1]):
            at = f"{path}.ops[{k}]"
            try:
                if k == index:
                    _check_type(op, kind)
                    break
                step, kind = compile_op(op, kind, at, read)
            except UnfitError as error:
                raise unfit(error, f"{shorten(at)} {op_title(op)}", at, name, kind) from error
            steps.append(step)
        place = f"feature {name!r} ({shorten(path)})"
        yield (
            Target(i, index, name, ops[index], kind, feature.sparse.table),
            Output(name, "dense", "", name, place, i, tuple(steps)),
        )


def _check_type(op: dataset_pb2.Op, column: ColumnType) -> None:
    """Raises UnfitError for a column that an operation cannot be fitted to."""
    title = op_title(op)
    if op.HasField("fit_vocabulary"):
        if column.family not in {Family.INTEGER, *BYTES}:
            raise UnfitError(
                f"{title} takes integers, strings and binary; put a Cast to int64 before it"
            )
        return
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"{title} takes numbers; {CAST_FIRST}")
    is_mean = op.fit_fill_null.by == dataset_pb2.FILLING_MEAN
    if is_mean and column.family is Family.INTEGER:
        raise UnfitError(
            "the mean of integers is no integer; fill with FILLING_MEDIAN, or put a Cast to "
            "float32 before it"
        )


def _check_as_fitted(
    spec: dataset_pb2.DatasetSpec, columns: pa.Schema, schema: pa.Schema, read: ReadListed
) -> None:
    """Raises what a server would refuse once everything is fitted: before any row is read.

    columns is the schema with the derived columns.
    """
    fitted = dataset_pb2.DatasetSpec()
    fitted.CopyFrom(spec)
    while targets := [target for target, _ in _inputs(fitted, columns, read)]:
        for target in targets:
            target.replace(fitted, _stand_in(target))
    compile_features(fitted, schema, read)


def _check_shared(spec: dataset_pb2.DatasetSpec, targets: Sequence[Target]) -> None:
    """Raises DatasetError for features of one table that cannot have one vocabulary.

    Ids of a vocabulary of their own would mean other values in the same row of the table.
    """
    first: dict[str, Target] = {}
    for target in targets:
        if not target.table or not target.op.HasField("fit_vocabulary"):
            continue
        one = first.setdefault(target.table, target)
        kinds = [each.type.family is Family.INTEGER for each in (one, target)]
        if one.op != target.op or kinds[0] != kinds[1]:
            raise _not_shared(one, target.feature, target.column, "differ in options or type")
    here = {target.feature for target in targets if target.op.HasField("fit_vocabulary")}
    for i, feature in enumerate(spec.features):
        found = first.get(feature.sparse.table)
        later = i not in here and any(op.HasField("fit_vocabulary") for op in feature.sparse.ops)
        if found is not None and later:
            [column] = feature.sparse.columns
            raise _not_shared(found, i, column, "come after other operations to be fitted")


def _not_shared(one: Target, feature: int, column: str, why: str) -> DatasetError:
    return invalid(
        f"dataset.features[{feature}].table",
        f"columns {one.column!r} and {column!r} share table {one.table!r}, so they get one "
        f"vocabulary, but their FitVocabulary {why}; make them alike, or give each feature a table "
        "of its own",
    )


def _stand_in(target: Target) -> dataset_pb2.Op:
    """What an operation may become."""
    dtype = target.type.dtype
    match target.op.WhichOneof("op"):
        case "fit_fill_null":
            assert dtype is not None
            return fill_null(dtype.type(0))
        case "fit_normalize":
            return dataset_pb2.Op(normalize=dataset_pb2.Normalize(std=1))
        case "fit_min_max":
            return dataset_pb2.Op(min_max=dataset_pb2.MinMax(max=1))
        case "fit_bucketize":
            return dataset_pb2.Op(bucketize=dataset_pb2.Bucketize(boundaries=[0]))
        case _:
            listed = dataset_pb2.Vocabulary(integers=[0])
            if target.type.family in BYTES:
                listed = dataset_pb2.Vocabulary(strings=[""])
            return dataset_pb2.Op(vocabulary=listed)


def fill_null(value: np.generic) -> dataset_pb2.Op:
    """A FillNull of a number of a column's dtype."""
    scalar = dataset_pb2.Scalar()
    if value.dtype.kind == "f":
        scalar.number = float(value)
    else:
        scalar.integer = int(value)
    return dataset_pb2.Op(fill_null=dataset_pb2.FillNull(value=scalar))
