"""One value of each list.

Sums are taken from left to right, and a NaN or a zero always comes out as the same one: numpy's own
reductions would leave both to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Column, Flat, Indices, Jagged, Mask, Opaque, Scalars
from preprocessor_server.kernels import sum_integers, sum_lists
from preprocessor_server.transform.column_type import NUMBERS, ColumnType, Family
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.base import CAST_FIRST, ColumnOp, Rule, UnfitError
from preprocessor_server.transform.ops.lists import elements_of, take_lists_only
from preprocessor_server.transform.place import Place

Numbers: TypeAlias = npt.NDArray[Any]
Aggregate: TypeAlias = Callable[[Indices, Scalars, Place], Scalars]

_INT64 = np.dtype(np.int64)
_FLOAT64 = np.dtype(np.float64)


def _list_aggregate(
    op: dataset_pb2.ListAggregate, column: ColumnType
) -> tuple[ColumnOp, ColumnType]:
    take_lists_only(column, "ListAggregate")
    if op.by in _OF_ANYTHING:
        aggregate = _OF_ANYTHING[op.by]
    else:
        if column.dtype is None or column.family not in NUMBERS:
            raise UnfitError(
                "ListAggregate takes lists of numbers for all but count, first and last; "
                f"{CAST_FIRST}"
            )
        aggregate = _OF_NUMBERS[op.by]

    def run(lists: Column, place: Place) -> Column:
        assert isinstance(lists, Jagged)
        # Signalling NaN, which numpy would warn of.
        with np.errstate(invalid="ignore"):
            return aggregate(*_without_nulls(lists), place)

    return run, _result(op.by, column)


def _result(by: int, column: ColumnType) -> ColumnType:
    element = column.element()
    if by == dataset_pb2.AGGREGATION_COUNT:
        return element.of(_INT64)
    if by == dataset_pb2.AGGREGATION_MEAN:
        return element.of(_FLOAT64)
    if by == dataset_pb2.AGGREGATION_SUM:
        return element.of(_FLOAT64 if column.family is Family.FLOAT else _INT64)
    return element


def _without_nulls(lists: Jagged) -> tuple[Indices, Scalars]:
    """The lists without their null elements: offsets and elements."""
    values = lists.values
    if isinstance(values, Opaque):
        valid = values.array.is_valid().to_numpy(zero_copy_only=False)
        if values.array.null_count == 0:
            return lists.offsets, values
    elif values.valid is None:
        return lists.offsets, values
    else:
        valid = values.valid
    kept = np.flatnonzero(valid)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(valid)])
    taken = elements_of(values, kept)
    if not isinstance(taken, Opaque):
        taken = Flat(taken.values) if isinstance(taken, Flat) else Bytes(taken.offsets, taken.data)
    return before[lists.offsets], taken


def _count(offsets: Indices, _values: Scalars, _place: Place) -> Scalars:
    return Flat(np.diff(offsets))


def _first(offsets: Indices, values: Scalars, _place: Place) -> Scalars:
    return _elements(values, offsets[:-1], _some(offsets))


def _last(offsets: Indices, values: Scalars, _place: Place) -> Scalars:
    return _elements(values, offsets[1:] - 1, _some(offsets))


def _some(offsets: Indices) -> Mask:
    """Which lists have elements."""
    some: Mask = offsets[1:] > offsets[:-1]
    return some


def _elements(values: Scalars, elements: Indices, some: Mask) -> Scalars:
    """The values, none of them null, at the given places; null where some is false."""
    if some.all():
        return elements_of(values, elements)
    match values:
        case Opaque(array):
            return Opaque(array.take(pa.array(elements, mask=~some)))
        case Flat(numbers):
            taken = np.zeros(len(elements), numbers.dtype)
            taken[some] = numbers[elements[some]]
            return Flat(taken, some)
        case Bytes():
            taken_bytes = elements_of(values, elements[some])
            assert isinstance(taken_bytes, Bytes)
            before = np.concatenate([np.zeros(1, np.int64), np.cumsum(some)])
            return Bytes(taken_bytes.offsets[before], taken_bytes.data, some)


def _sum(offsets: Indices, values: Scalars, place: Place) -> Scalars:
    assert isinstance(values, Flat)
    numbers = values.values
    if numbers.dtype.kind == "f":
        return Flat(_one_nan(_left_to_right(offsets, numbers)))
    dtype = np.uint64 if numbers.dtype.kind == "u" else np.int64
    sums, bad = sum_integers(offsets, numbers.astype(dtype, copy=False))
    place.refuse(
        bad,
        "VALUE_OUT_OF_RANGE",
        "sums of lists are no int64",
        "put a Cast to float64 before it, or correct the data",
    )
    return Flat(sums)


def _mean(offsets: Indices, values: Scalars, _: Place) -> Scalars:
    assert isinstance(values, Flat)
    lengths = np.diff(offsets)
    sums = _left_to_right(offsets, values.values)
    return _known(_one_nan(sums / np.maximum(lengths, 1)), _some(offsets))


def _min(offsets: Indices, values: Scalars, _: Place) -> Scalars:
    return _extreme(np.minimum, offsets, values)


def _max(offsets: Indices, values: Scalars, _: Place) -> Scalars:
    return _extreme(np.maximum, offsets, values)


def _extreme(ufunc: np.ufunc, offsets: Indices, values: Scalars) -> Flat:
    assert isinstance(values, Flat)
    found = _reduce(ufunc, offsets, values.values)
    if found.dtype.kind == "f":
        # -0.0 and 0.0 are equal: either could be the one that is found.
        found = _one_nan(found + found.dtype.type(0))
    return _known(found, _some(offsets))


def _known(values: Numbers, some: Mask) -> Flat:
    return Flat(values, None if some.all() else some)


def _reduce(ufunc: np.ufunc, offsets: Indices, values: Numbers) -> Numbers:
    """What a ufunc makes of the elements of each list, 0 of none."""
    some = _some(offsets)
    found = np.zeros(len(some), values.dtype)
    if some.any():
        found[some] = ufunc.reduceat(values, offsets[:-1][some])
    return found


def _left_to_right(offsets: Indices, values: Numbers) -> npt.NDArray[np.float64]:
    """The sum of each list, added in order as float64, 0 of none."""
    return sum_lists(offsets, values.astype(_FLOAT64, copy=False))


def _one_nan(values: Numbers) -> Numbers:
    """The values with the same bits for every NaN, in place."""
    values[np.isnan(values)] = np.nan
    return values


def _check_list_aggregate(op: dataset_pb2.ListAggregate, path: str) -> None:
    if op.by not in dataset_pb2.Aggregation.values()[1:]:
        known = ", ".join(dataset_pb2.Aggregation.keys()[1:])
        raise invalid(f"{path}.by", f"ListAggregate by {op.by}; give one of {known}")


_OF_ANYTHING: dict[int, Aggregate] = {
    dataset_pb2.AGGREGATION_COUNT: _count,
    dataset_pb2.AGGREGATION_FIRST: _first,
    dataset_pb2.AGGREGATION_LAST: _last,
}
_OF_NUMBERS: dict[int, Aggregate] = {
    dataset_pb2.AGGREGATION_SUM: _sum,
    dataset_pb2.AGGREGATION_MEAN: _mean,
    dataset_pb2.AGGREGATION_MIN: _min,
    dataset_pb2.AGGREGATION_MAX: _max,
}

RULES = {"list_aggregate": Rule(_list_aggregate, _check_list_aggregate)}
