"""What is still to be fitted in a dataset, and the values that it is fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.catalog import Binding
from preprocessor_server.errors import DatasetError, raising
from preprocessor_server.transform import Transform, compile_features
from preprocessor_server.transform.blocks import Output, body
from preprocessor_server.transform.column_type import ColumnType, Family, column_type
from preprocessor_server.transform.derive import bind_derived
from preprocessor_server.transform.features import select_columns, transform_of
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.ops import compile_op, unfit
from preprocessor_server.transform.ops.base import ColumnOp, UnfitError
from preprocessor_server.transform.ops.fit import UnfittedError, is_unfitted
from preprocessor_server.transform.ops.listed import ReadListed
from preprocessor_server.transform.validate import find_faults, op_title


class Target(NamedTuple):
    """An operation to be fitted: its place in a dataset, its column, and the type it is given.

    feature is the number of its feature where each column has one of its own, number that of the
    feature as it was given, for people. table is the embedding table that its feature names, empty
    for none.
    """

    feature: int
    number: int
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
            f"(features[{self.number}].ops[{self.op_index}])"
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
        # What a server would refuse once everything is fitted: before any row is read.
        compile_features(spec, schema, read)
        derivation = bind_derived(spec, schema)
        self.spec, numbers = _one_column_each(spec, derivation.schema)
        found = list(_inputs(self.spec, numbers, derivation.schema, read))
        self.targets = tuple(target for target, _ in found)
        _check_shared(self.spec, numbers, self.targets, derivation.schema)
        return transform_of(tuple(output for _, output in found), derivation, schema)


def _validate(spec: dataset_pb2.DatasetSpec) -> None:
    """As validate_spec, but for what is still to be fitted, of which the bounds are checked."""
    for fault in find_faults(spec):
        if not isinstance(fault, UnfittedError):
            raise fault


def _one_column_each(
    spec: dataset_pb2.DatasetSpec, schema: pa.Schema
) -> tuple[dataset_pb2.DatasetSpec, list[int]]:
    """The dataset with a feature for each column where something is to be fitted.

    And the number that each of its features has in the dataset as it was given.
    """
    result, numbers = dataset_pb2.DatasetSpec(), []
    result.CopyFrom(spec)
    del result.features[:]
    for i, feature in enumerate(spec.features):
        if not any(map(is_unfitted, body(feature).ops)):
            result.features.append(feature)
            numbers.append(i)
            continue
        path = f"dataset.features[{i}]"
        for name, _ in raising(select_columns(body(feature), path, schema)):
            body(result.features.add(**_as_fields(feature))).columns[:] = [name]
            numbers.append(i)
    return result, numbers


def _as_fields(feature: dataset_pb2.Feature) -> dict[str, dataset_pb2.DenseFeature]:
    kind = feature.WhichOneof("kind")
    assert kind is not None
    return {kind: getattr(feature, kind)}


def _inputs(
    spec: dataset_pb2.DatasetSpec, numbers: Sequence[int], schema: pa.Schema, read: ReadListed
) -> Iterator[tuple[Target, Output]]:
    """The first operation to be fitted of each feature, and the steps from its column to it.

    numbers are those of the features in the dataset as it was given.
    """
    for i, feature in enumerate(spec.features):
        ops = body(feature).ops
        index = next((k for k, op in enumerate(ops) if is_unfitted(op)), None)
        if index is None:
            continue
        path = f"dataset.features[{numbers[i]}]"
        [name] = body(feature).columns
        kind = column_type(schema.field(name).type)
        assert kind is not None
        if kind.family is Family.NULL:
            error = UnfitError("there is nothing to fit in it; leave the operation out")
            raise unfit(error, f"{shorten(path)}", path, name, kind)
        steps: list[ColumnOp] = []
        for k, op in enumerate(ops[:index]):
            step, kind = compile_op(op, kind, f"{path}.ops[{k}]", read)
            steps.append(step)
        place = f"feature {name!r} ({shorten(path)})"
        yield (
            Target(i, numbers[i], index, name, ops[index], kind, _table(feature.sparse, name)),
            Output(name, "dense", "", name, place, i, tuple(steps)),
        )


def _table(hint: dataset_pb2.SparseFeature, column: str) -> str:
    """The embedding table that a column's feature is looked up in, "" for none."""
    return hint.table or (column if hint.num_embeddings or hint.embedding_dim else "")


def _check_shared(
    spec: dataset_pb2.DatasetSpec,
    numbers: Sequence[int],
    targets: Sequence[Target],
    schema: pa.Schema,
) -> None:
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
            raise _not_shared(one, target.number, target.column, "differ in options or type")
    here = {target.feature for target in targets if target.op.HasField("fit_vocabulary")}
    for i, feature in enumerate(spec.features):
        hint, path = feature.sparse, f"dataset.features[{numbers[i]}]"
        later = any(op.HasField("fit_vocabulary") for op in hint.ops)
        listed = any(op.HasField("vocabulary") for op in hint.ops)
        if i in here or not (later or listed):
            continue
        for column, _ in raising(select_columns(hint, path, schema)):
            found = first.get(_table(hint, column))
            if found is None:
                continue
            if later:
                raise _not_shared(
                    found, numbers[i], column, "come after other operations to be fitted"
                )
            raise invalid(
                f"{path}.table",
                f"columns {found.column!r} and {column!r} share table {found.table!r}, but the "
                f"vocabulary of {found.column!r} is still to be fitted, and that of {column!r} is "
                "given: one row of the table would stand for a value of each; make both "
                "FitVocabulary, or both the same Vocabulary, or give each feature a table of its "
                "own",
            )


def _not_shared(one: Target, feature: int, column: str, why: str) -> DatasetError:
    return invalid(
        f"dataset.features[{feature}].table",
        f"columns {one.column!r} and {column!r} share table {one.table!r}, so they get one "
        f"vocabulary, but their FitVocabulary {why}; make them alike, or give each feature a table "
        "of its own",
    )
