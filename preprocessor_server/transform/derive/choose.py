"""Elements of a list chosen by those of another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Bytes, Column, Flat, Jagged, Mask, Scalars
from preprocessor_server.transform.column_type import BYTES, Family
from preprocessor_server.transform.derive.aligned import align
from preprocessor_server.transform.derive.base import (
    Compute,
    Input,
    Rule,
    UnfitInputError,
    check_named,
    list_of,
    named,
    take_lists_only,
)
from preprocessor_server.transform.from_arrow import bytes_to_arrow
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.ops.ids import of_bytes
from preprocessor_server.transform.ops.lists import (
    check_count,
    elements_of,
    keep_elements,
    offsets_of,
    positions,
)
from preprocessor_server.transform.ops.sequences import order_elements
from preprocessor_server.transform.ops.words import ordered_words
from preprocessor_server.transform.place import Place
from preprocessor_server.transform.scalar import as_number, exact_bytes, show

_EQUALITY = (dataset_pb2.COMPARISON_EQUAL, dataset_pb2.COMPARISON_NOT_EQUAL)
# Of a number and a constant; NaN is above every number.
_ORDER: dict[int, Callable[[Any, Any], Mask]] = {
    dataset_pb2.COMPARISON_LESS: lambda x, constant: x < constant,
    dataset_pb2.COMPARISON_LESS_EQUAL: lambda x, constant: x <= constant,
    dataset_pb2.COMPARISON_GREATER: lambda x, constant: ~(x <= constant),
    dataset_pb2.COMPARISON_GREATER_EQUAL: lambda x, constant: ~(x < constant),
}
# What holds for the values of a column, whether null or not: bool [n].
_Test = Callable[[Scalars], Flat]


def _mask(message: dataset_pb2.Mask, inputs: Sequence[Input]) -> tuple[Compute, pa.DataType]:
    kept, by = inputs
    result = _result(kept, by, "Mask")
    test = _test(message, by)
    names = [column.name for column in inputs]

    def run(columns: Sequence[Column], place: Place) -> Column:
        offsets, (values, conditions) = align(columns, names, place)
        assert offsets is not None
        found = test(conditions)
        holds = found.values if found.valid is None else found.values & found.valid
        return keep_elements(Jagged(offsets, values), holds)

    return run, result


def _test(message: dataset_pb2.Mask, by: Input) -> _Test:
    """The condition of a mask, on values of a column."""
    comparison, kind = message.comparison, by.type
    constants = [_constant(message, index, by) for index in range(len(message.values))]
    negated = comparison == dataset_pb2.COMPARISON_NOT_EQUAL
    if kind.family is Family.NULL:
        return lambda values: Flat(np.zeros(len(values), np.bool_))
    if kind.family in BYTES:
        wanted = pa.array(constants, pa.large_binary())

        def among(values: Bytes) -> Flat:
            found = pc.is_in(bytes_to_arrow(values), wanted).to_numpy(zero_copy_only=False)
            return Flat(found ^ negated, values.valid)

        return lambda values: of_bytes(values, among)
    numbers = np.array(constants, kind.dtype)
    if comparison in _ORDER:
        compare = _ORDER[comparison]
        return _of_numbers(lambda values: compare(values, numbers[0]))
    return _of_numbers(lambda values: np.isin(values, numbers, invert=negated))


def _of_numbers(test: Callable[[Any], Mask]) -> _Test:
    def run(values: Scalars) -> Flat:
        assert isinstance(values, Flat)
        # Signalling NaN, which numpy would warn of.
        with np.errstate(invalid="ignore"):
            return Flat(test(values.values), values.valid)

    return run


def _constant(message: dataset_pb2.Mask, index: int, by: Input) -> Any:
    scalar, kind = message.values[index], by.type
    constant: Any = None
    if kind.family in BYTES:
        if message.comparison not in _EQUALITY:
            raise UnfitInputError(
                by, "strings and binary are only compared for equality", "comparison"
            )
        constant = exact_bytes(scalar)
    elif kind.dtype is not None:
        constant = as_number(scalar, kind.dtype)
    elif kind.family is Family.NULL:
        return None
    if constant is None:
        wanted = "string" if kind.dtype is None else str(pa.from_numpy_dtype(kind.dtype))
        raise UnfitInputError(
            by, f"the value {show(scalar)} is no {wanted}; give one that is", f"values[{index}]"
        )
    return constant


def _top_k(message: dataset_pb2.TopK, inputs: Sequence[Input]) -> tuple[Compute, pa.DataType]:
    kept, by = inputs
    result = _result(kept, by, "TopK")
    count = message.count
    names = [column.name for column in inputs]

    def run(columns: Sequence[Column], place: Place) -> Column:
        offsets, (values, weights) = align(columns, names, place)
        assert offsets is not None
        words = ordered_words(weights, descending=True)
        order = order_elements(offsets, words.values, words.valid)
        chosen = order[positions(offsets) < count]
        lengths = np.minimum(np.diff(offsets), count)
        return Jagged(offsets_of(lengths), elements_of(values, chosen))

    return run, result


def _result(kept: Input, by: Input, kind: str) -> pa.DataType:
    """The type of lists that keep some elements of a column, by those of another."""
    take_lists_only(kept, kind)
    take_lists_only(by, kind)
    if by.type.dtype is None and by.type.family not in {Family.NULL, *BYTES}:
        raise UnfitInputError(
            by,
            f"{kind} goes by lists of numbers, booleans, strings and binary; of times, TimeSince "
            "makes numbers",
        )
    assert kept.type.arrow is not None
    return list_of(kept.type.arrow, is_list=True)


def _check_mask(message: dataset_pb2.Mask, path: str) -> Iterator[DatasetError]:
    yield from check_named(message, path, "column", "by")
    if message.comparison not in (*_EQUALITY, *_ORDER):
        known = ", ".join(dataset_pb2.Comparison.keys()[1:])
        yield invalid(
            f"{path}.comparison", f"the comparison is {message.comparison}; give one of {known}"
        )
    if not message.values:
        yield invalid(f"{path}.values", "Mask has no value to compare with; give at least one")
    elif len(message.values) > 1 and message.comparison in _ORDER:
        yield invalid(
            f"{path}.values",
            f"Mask has {len(message.values)} values; only COMPARISON_EQUAL and "
            "COMPARISON_NOT_EQUAL take several, so give one",
        )
    for index, value in enumerate(message.values):
        if value.WhichOneof("value") is None:
            yield invalid(f"{path}.values[{index}]", "an empty value; give one")
        elif math.isnan(value.number):
            yield invalid(f"{path}.values[{index}]", "the value is NaN; give a number")


def _check_top_k(message: dataset_pb2.TopK, path: str) -> Iterator[DatasetError]:
    yield from check_named(message, path, "column", "by")
    try:
        check_count(message, path)
    except DatasetError as error:
        yield error


RULES = {
    "mask": Rule(named("column", "by"), _mask, _check_mask),
    "top_k": Rule(named("column", "by"), _top_k, _check_top_k),
}
