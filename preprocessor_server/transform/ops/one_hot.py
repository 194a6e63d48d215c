"""The operation that makes several features of one column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Flat, Scalars
from preprocessor_server.transform.column_type import ColumnType
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import ColumnOp, Rule, on_values
from preprocessor_server.transform.ops.ids import integers_only
from preprocessor_server.transform.place import Place

# Features take four bytes a row each while a split is worked on, however few of them are 1.
MAX_CLASSES = 1024


def _one_hot(op: dataset_pb2.OneHot, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    """The classes of values: those that are null, or beyond num_classes in no row, are null."""
    integers_only(column, "OneHot")
    count = op.num_classes

    def run(values: Scalars, place: Place) -> Scalars:
        assert isinstance(values, Flat)
        numbers, valid = values.values, values.valid
        outside = (numbers < 0) | (numbers >= count)
        if valid is not None:
            outside &= valid
        if outside.any():
            place.refuse(
                outside,
                "VALUE_OUT_OF_RANGE",
                f"values are not from 0 to {count - 1}, which are the classes of OneHot",
                "put a Bucketize, a Vocabulary, a MapId or a Clip before it, or give it more "
                "num_classes",
            )
            valid = ~outside if valid is None else valid & ~outside
        return Flat(numbers.astype(np.int64, copy=False), valid)

    return on_values(run), column.of(np.dtype(np.int64))


def one_hot_faults(
    feature: dataset_pb2.Feature, ops: Sequence[dataset_pb2.Op], path: str
) -> Iterator[DatasetError]:
    """What is wrong with where a OneHot stands among the operations of a feature."""
    kind = feature.WhichOneof("kind")
    for index, op in enumerate(ops):
        if not op.HasField("one_hot"):
            continue
        field = f"{path}.ops[{index}].one_hot"
        if kind in {"sparse", "meta"}:
            yield invalid(
                field,
                f"OneHot makes dense and label features, and this is a {kind} feature; leave it "
                "out, or make the feature dense",
            )
        elif index < len(ops) - 1:
            yield invalid(
                field, "OneHot makes several features of a column; put it behind all operations"
            )


def counted(op: dataset_pb2.Op, below: int | None, path: str) -> dataset_pb2.Op:
    """A OneHot with its number of classes: it is given, or the operations before it tell.

    Those keep values below below, None for no such number. path is the operation's field. Raises
    DatasetError where neither is so, or where values may be beyond what is given.
    """
    count, field = op.one_hot.num_classes, f"{path}.one_hot.num_classes"
    if below is None and not count:
        raise invalid(
            field,
            "OneHot has no num_classes, and no operation before it bounds the values; give it, or "
            "put a Bucketize or a Vocabulary before it",
        )
    if below is not None and count and below > count:
        raise invalid(
            field,
            f"num_classes is {count:,}, and the operations before OneHot give values up to "
            f"{below - 1:,}; make it {below:,}, or leave it out",
        )
    found = dataset_pb2.OneHot(num_classes=count or below)
    _check_one_hot(found, f"{path}.one_hot")
    return dataset_pb2.Op(one_hot=found)


def _check_one_hot(op: dataset_pb2.OneHot, path: str) -> None:
    if op.num_classes > MAX_CLASSES:
        raise invalid(
            f"{path}.num_classes",
            f"{op.num_classes:,} classes are too many for OneHot, {MAX_CLASSES:,} the most; make "
            "it a sparse feature, which an embedding table looks up",
        )


RULES = {"one_hot": Rule(_one_hot, _check_one_hot)}
