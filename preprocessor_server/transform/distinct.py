"""Rows that differ: of those that are equal in some columns, the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.frame import Bytes, Flat, Indices, Jagged, Mask
from preprocessor_server.transform.column_type import Family
from preprocessor_server.transform.from_arrow import arrow_to_column, bytes_to_arrow
from preprocessor_server.transform.invalid import invalid
from preprocessor_server.transform.key import key_faults

_WANTED = (
    "rows are told apart by columns of one value a row: numbers, booleans, strings, binary, "
    "decimals or times"
)


def distinct_faults(spec: dataset_pb2.DatasetSpec, schema: pa.Schema) -> Iterator[DatasetError]:
    """All that keeps rows with the columns of a schema from being told apart as a dataset says.

    Errors are DATASET_INVALID for a column that there is not, TYPE_UNFIT for one of lists.
    """
    derived = {each.name for each in spec.derive} - set(schema.names)
    for index, name in enumerate(spec.distinct_by):
        field = f"dataset.distinct_by[{index}]"
        if name in derived:
            yield invalid(
                field,
                f"column {name!r} is derived, which is done after rows are chosen; name the "
                "columns that it is made of, or make it by a UDF, which comes before",
            )
        else:
            yield from key_faults(field, name, schema, frozenset(Family), _WANTED)


def number_values(values: pa.ChunkedArray) -> Indices:
    """For each value a number from 0 to len(values) - 1, int64 [n], the same for equal ones.

    Nulls equal each other, NaNs too, and -0.0 equals 0.0. values are of a type that
    distinct_faults() lets pass.
    """
    match arrow_to_column(values):
        case Flat(numbers, valid):
            if numbers.dtype.kind == "f":
                numbers = _float_words(numbers)
            array = pa.array(numbers, mask=None if valid is None else ~valid)
        case Bytes() as strings:
            array = bytes_to_arrow(strings)
        case Jagged():
            raise TypeError(f"values of {values.type} are not numbered")
        case opaque:
            array = opaque.array
            if pa.types.is_dictionary(array.type):
                # It may hold a value twice.
                distinct = array.dictionary.cast(pa.large_binary()).dictionary_encode()
                array = distinct.indices.take(array.indices)
            elif pa.types.is_decimal(array.type) and array.type.bit_width < 128:
                array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    numbered: Indices = array.dictionary_encode("encode").indices.to_numpy().astype(np.int64)
    return numbered


def find_firsts(columns: Sequence[Indices]) -> Mask:
    """Which rows are the first with the numbers that they have in all columns, bool [n].

    columns are those of number_values(), of n rows, at least one.
    """
    numbers = reduce(_number_pairs, columns)
    rows = np.arange(len(numbers))
    firsts = np.zeros(numbers.max(initial=-1) + 1, np.int64)
    # Of several rows with one number the last that is written stays: the first of them.
    firsts[numbers[::-1]] = rows[::-1]
    first: Mask = firsts[numbers] == rows
    return first


def _number_pairs(left: Indices, right: Indices) -> Indices:
    """The same numbers for equal pairs; Arrow numbers with 31 bits, so their products fit."""
    return number_values(pa.chunked_array([left * (right.max(initial=0) + 1) + right]))


def _float_words(
    values: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The bits of values, in which equal ones are equal."""
    # Adding 0.0 makes -0.0 one.
    same = values + values.dtype.type(0)
    same[np.isnan(same)] = np.nan
    return same.view(np.dtype(f"u{values.dtype.itemsize}"))
