"""Operations that bring numbers into another range, or into buckets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Flat, Scalars
from preprocessor_server.kernels import box_cox, count_reached, logit, shift_and_scale
from preprocessor_server.transform.column_type import NUMBERS, ColumnType, Family
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import (
    CAST_FIRST,
    ColumnOp,
    Rule,
    UnfitError,
    no_such_value,
    on_values,
)
from preprocessor_server.transform.place import Place

Numbers = npt.NDArray[Any]


def _to_floats(
    title: str, column: ColumnType, function: Callable[[Numbers], Numbers]
) -> tuple[ColumnOp, ColumnType]:
    """A function of numbers that gives float32 of float16 and float32, else float64."""
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"{title} takes numbers; {CAST_FIRST}")
    narrow = column.family is Family.FLOAT and column.dtype.itemsize <= 4

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        return Flat(function(values.values), values.valid)

    return on_values(run), column.of(np.dtype(np.float32 if narrow else np.float64))


def _logit(op: dataset_pb2.Logit, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    epsilon = op.epsilon
    return _to_floats("Logit", column, lambda values: logit(values, epsilon))


def _box_cox(op: dataset_pb2.BoxCox, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    lmbda = op.lmbda
    return _to_floats("BoxCox", column, lambda values: box_cox(values, lmbda))


def _normalize(op: dataset_pb2.Normalize, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    mean, std = op.mean, op.std
    return _to_floats("Normalize", column, lambda values: shift_and_scale(values, mean, std))


def _min_max(op: dataset_pb2.MinMax, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    least, width = op.min, op.max - op.min
    return _to_floats("MinMax", column, lambda values: shift_and_scale(values, least, width))


def _bucketize(op: dataset_pb2.Bucketize, column: ColumnType) -> tuple[ColumnOp, ColumnType]:
    if column.dtype is None or column.family not in NUMBERS:
        raise UnfitError(f"Bucketize takes numbers; {CAST_FIRST}")
    boundaries = _boundaries(op.boundaries, column, column.dtype)

    def run(values: Scalars, _: Place) -> Scalars:
        assert isinstance(values, Flat)
        numbers = values.values.astype(boundaries.dtype, copy=False)
        return Flat(count_reached(numbers, boundaries), values.valid)

    return on_values(run), column.of(np.dtype(np.int64))


def _boundaries(given: Any, column: ColumnType, dtype: np.dtype[Any]) -> Numbers:
    """The boundaries that numbers of a column can reach, in the dtype in which they are compared.

    Raises UnfitError for one beyond the range of a column of floats.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            rounded: Numbers = np.array(given, np.float64).astype(dtype)
        for number in np.array(given)[np.isinf(rounded)]:
            scalar = dataset_pb2.Scalar(number=number)
            raise UnfitError(no_such_value("the boundary", scalar, column))
        return rounded.astype(np.promote_types(dtype, np.float32))
    limits = np.iinfo(np.uint64 if dtype.kind == "u" else np.int64)
    # An integer reaches a number where it reaches the next integer.
    whole = [math.ceil(number) for number in given]
    reachable = [max(number, int(limits.min)) for number in whole if number <= limits.max]
    return np.array(reachable, limits.dtype)


def _finite(path: str, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise invalid(f"{path}.{name}", f"{name} is {value}; give a finite number")


def _check_logit(op: dataset_pb2.Logit, path: str) -> None:
    if not 0 <= op.epsilon < 0.5:
        raise invalid(
            f"{path}.epsilon",
            f"epsilon is {op.epsilon}; it is at least 0 and below 0.5, 1e-6 for example",
        )


def _check_box_cox(op: dataset_pb2.BoxCox, path: str) -> None:
    _finite(path, "lmbda", op.lmbda)


def _check_normalize(op: dataset_pb2.Normalize, path: str) -> None:
    _finite(path, "mean", op.mean)
    _finite(path, "std", op.std)
    if op.std <= 0:
        raise invalid(f"{path}.std", f"std is {op.std}; give a number above 0")


def _check_min_max(op: dataset_pb2.MinMax, path: str) -> None:
    _finite(path, "min", op.min)
    _finite(path, "max", op.max)
    if op.min >= op.max:
        raise invalid(path, f"min {op.min} is not below max {op.max}; give a range of some width")
    if not math.isfinite(op.max - op.min):
        raise invalid(path, f"max {op.max} - min {op.min} is no float64; give a narrower range")


def _check_bucketize(op: dataset_pb2.Bucketize, path: str) -> None:
    if not op.boundaries:
        raise invalid(f"{path}.boundaries", "Bucketize has no boundary; give at least one")
    for index, boundary in enumerate(op.boundaries):
        at = f"{path}.boundaries[{index}]"
        if not math.isfinite(boundary):
            raise invalid(at, f"the boundary is {boundary}; give finite numbers")
        if index and boundary <= op.boundaries[index - 1]:
            raise invalid(
                at,
                f"the boundary {boundary} is not above the one before, "
                f"{op.boundaries[index - 1]}; sort them, and give each once",
            )


RULES = {
    "logit": Rule(_logit, _check_logit),
    "box_cox": Rule(_box_cox, _check_box_cox),
    "normalize": Rule(_normalize, _check_normalize),
    "min_max": Rule(_min_max, _check_min_max),
    "bucketize": Rule(_bucketize, _check_bucketize),
}
