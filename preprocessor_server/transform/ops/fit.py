"""Operations whose constants are still to be found: checked, and refused until they are."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

import numpy as np

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Column
from preprocessor_server.transform.column_type import BYTES, NUMBERS, ColumnType, Family
from preprocessor_server.transform.invalid import invalid, shorten
from preprocessor_server.transform.ops import lookup, numbers, scaling
from preprocessor_server.transform.ops.base import CAST_FIRST, ColumnOp, Rule, UnfitError
from preprocessor_server.transform.ops.ids import MAX_BUCKETS
from preprocessor_server.transform.place import Place

MAX_FITTED_BUCKETS = 1 << 16
_FIT = (
    "run `preprocessor-server fit DATASET.yaml -o FOLDER`, and use the dataset.yaml that it writes"
)


class UnfittedError(DatasetError):
    """Fit the dataset: an operation is right, but for the constants that are still to be found."""


def is_unfitted(op: dataset_pb2.Op) -> bool:
    """Whether an operation stands for one whose constants are still to be found."""
    return op.WhichOneof("op") in RULES


def check_bounds(op: dataset_pb2.Op, path: str) -> None:
    """Raises DatasetError (DATASET_INVALID) for what keeps an operation from being fitted."""
    if op.HasField("fit_fill_null") and op.fit_fill_null.by not in {
        dataset_pb2.FILLING_MEAN,
        dataset_pb2.FILLING_MEDIAN,
    }:
        raise invalid(
            f"{path}.fit_fill_null.by",
            f"by is {op.fit_fill_null.by}; give FILLING_MEAN or FILLING_MEDIAN",
        )
    count = op.fit_bucketize.num_buckets
    if op.HasField("fit_bucketize") and not 2 <= count <= MAX_FITTED_BUCKETS:
        raise invalid(
            f"{path}.fit_bucketize.num_buckets",
            f"num_buckets is {count:,}; it lies between 2 and {MAX_FITTED_BUCKETS:,}",
        )
    if op.fit_vocabulary.num_oov_buckets > MAX_BUCKETS:
        raise invalid(
            f"{path}.fit_vocabulary.num_oov_buckets",
            f"num_oov_buckets is {op.fit_vocabulary.num_oov_buckets:,}; it is at most "
            f"{MAX_BUCKETS:,} (2^32)",
        )


def fill_null(value: np.generic) -> dataset_pb2.Op:
    """A FillNull of a number of a column's dtype."""
    scalar = dataset_pb2.Scalar()
    if value.dtype.kind == "f":
        scalar.number = float(value)
    else:
        scalar.integer = int(value)
    return dataset_pb2.Op(fill_null=dataset_pb2.FillNull(value=scalar))


def _refuse(message: Any, path: str) -> NoReturn:
    outer, _, name = path.rpartition(".")
    op = dataset_pb2.Op(**{name: message})
    check_bounds(op, outer)
    title = type(message).__name__
    raise UnfittedError(
        "DATASET_INVALID", f"{shorten(path)}: {title} has not been fitted; {_FIT}", field=path
    )


def _compile(name: str, message: Any, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    """What comes out once it is fitted: for who judges what comes after it. Nothing can run."""
    op = dataset_pb2.Op(**{name: message})
    _check_type(op, column)
    stand_in = _stand_in(op, column)
    kind = stand_in.WhichOneof("op")
    assert kind is not None
    _, fitted = _FITTED[kind].compile(getattr(stand_in, kind), column)
    return _not_fitted, fitted


def _not_fitted(_: Column, place: Place) -> NoReturn:
    raise AssertionError(f"{place.feature} has an operation that has not been fitted")


def _check_type(op: dataset_pb2.Op, column: ColumnType) -> None:
    """Raises UnfitError for a column that an operation cannot be fitted to."""
    name = op.WhichOneof("op")
    assert name is not None
    title = type(getattr(op, name)).__name__
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


def _stand_in(op: dataset_pb2.Op, column: ColumnType) -> dataset_pb2.Op:
    """What an operation may become."""
    match op.WhichOneof("op"):
        case "fit_fill_null":
            assert column.dtype is not None
            return fill_null(column.dtype.type(0))
        case "fit_normalize":
            return dataset_pb2.Op(normalize=dataset_pb2.Normalize(std=1))
        case "fit_min_max":
            return dataset_pb2.Op(min_max=dataset_pb2.MinMax(max=1))
        case "fit_bucketize":
            return dataset_pb2.Op(bucketize=dataset_pb2.Bucketize(boundaries=[0]))
        case _:
            listed = dataset_pb2.Vocabulary(integers=[0])
            if column.family in BYTES:
                listed = dataset_pb2.Vocabulary(strings=[""])
            return dataset_pb2.Op(vocabulary=listed)


_FITTED = {**numbers.RULES, **scaling.RULES, **lookup.RULES}
RULES = {
    name: Rule(partial(_compile, name), _refuse)
    for name in (
        "fit_fill_null",
        "fit_normalize",
        "fit_min_max",
        "fit_bucketize",
        "fit_vocabulary",
    )
}
