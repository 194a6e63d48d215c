"""Operations on columns made here, without a dataset: what they give, as Python values."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Bytes, Column, Flat, Jagged, Opaque
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import ColumnType, column_type
from preprocessor_server.transform.ops import compile_op
from preprocessor_server.transform.place import Place


def _integers(arrow: pa.DataType) -> st.SearchStrategy[int]:
    limits = np.iinfo(str(arrow))
    return st.integers(-3, 3).map(lambda v: max(v, int(limits.min))) | st.integers(
        int(limits.min), int(limits.max)
    )


_FEW_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf]
INTEGERS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    arrow: _integers(arrow)
    for arrow in (
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    )
}
FLOATS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float16(): st.sampled_from(_FEW_FLOATS).map(np.float16),
    pa.float32(): st.sampled_from(_FEW_FLOATS) | st.floats(width=32),
    pa.float64(): st.sampled_from(_FEW_FLOATS) | st.floats(),
}
STRINGS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text("aü", max_size=9),
    pa.large_binary(): st.binary(max_size=9),
    pa.dictionary(pa.int32(), pa.string()): st.text("ab", max_size=2),
}
WITH_WORDS = {**INTEGERS, **FLOATS, **STRINGS, pa.bool_(): st.booleans()}
ANYTHING = {
    **WITH_WORDS,
    pa.timestamp("us"): st.integers(-9, 9),
    pa.decimal128(9, 2): st.decimals(-9, 9, places=2),
}


def value_of(array: pa.Array) -> list[Any]:
    """The values of an array as read() gives them."""
    return [_plain(value) for value in array.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.encode() if isinstance(value, str) else value


def read(column: Column) -> list[Any]:
    """The values of a column, None for nulls; lists of them."""
    match column:
        case Jagged(offsets, values):
            elements, bounds = read(values), offsets.tolist()
            assert bounds[0] == 0
            assert bounds[-1] == len(elements)
            return [elements[a:b] for a, b in itertools.pairwise(bounds)]
        case Flat(values, valid):
            found: list[Any] = values.tolist()
        case Bytes(offsets, data, valid):
            raw = data.tobytes()
            found = [raw[a:b] for a, b in itertools.pairwise(offsets.tolist())]
        case Opaque(array):
            return value_of(array)
    if valid is None:
        return found
    return [value if known else None for value, known in zip(found, valid, strict=True)]


def compiled(op: dict[str, Any], arrow: pa.DataType) -> tuple[Any, ColumnType]:
    """The step of an operation on columns of a type, and the type that it gives."""
    column = column_type(arrow)
    assert column is not None
    return compile_op(json_format.ParseDict(op, dataset_pb2.Op()), column)


def apply(op: dict[str, Any], array: pa.Array) -> list[Any]:
    """What an operation makes of an array: of it whole, and of each row alone, which is the same.

    Its type is the one that was promised.
    """
    step, result = compiled(op, array.type)
    place = Place("feature 'x'", None)
    column = step(arrow_to_column(array), place)
    assert isinstance(column, Jagged) == result.is_list
    values = column.values if isinstance(column, Jagged) else column
    if isinstance(values, Flat):
        assert values.values.dtype == result.dtype
    whole = read(column)
    alone = [read(step(arrow_to_column(array.slice(i, 1)), place))[0] for i in range(len(array))]
    assert shown(alone) == shown(whole)
    return whole


def shown(values: Any) -> str:
    """Values so that NaN is equal to itself and -0.0 is not 0.0."""
    return repr(values)


def lists(arrow: pa.DataType, value: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    """Arrays of lists, with nulls of both kinds."""
    rows = st.lists(st.none() | st.lists(st.none() | value, max_size=7), max_size=6)
    dense = st.lists(st.lists(value, min_size=1, max_size=20), max_size=4)
    return (rows | dense).map(lambda values: pa.array(values, pa.list_(arrow)))


def scalars(arrow: pa.DataType, value: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    """Arrays of values, with nulls or without."""
    return st.lists(st.none() | value, max_size=12).map(lambda values: pa.array(values, arrow)) | (
        st.lists(value, max_size=12).map(lambda values: pa.array(values, arrow))
    )
