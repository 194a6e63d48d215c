"""Operations done in one pass give the values that they give one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Column, Flat, Jagged
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.column_type import column_type
from preprocessor_server.transform.fuse import fuse_ids
from preprocessor_server.transform.ops import compile_op
from preprocessor_server.transform.ops.base import ColumnOp
from preprocessor_server.transform.place import Place

NARROW = 2**31
PLACE = Place("feature 'x'", None)
TYPES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=40),
    pa.binary(): st.binary(max_size=40),
    **{
        integer: st.integers(int(np.iinfo(str(integer)).min), int(np.iinfo(str(integer)).max))
        for integer in (
            *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
            *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        )
    },
}


def parsed(ops: Sequence[dict[str, Any]]) -> list[dataset_pb2.Op]:
    return [json_format.ParseDict(op, dataset_pb2.Op()) for op in ops]


def hashed(num_buckets: int, seed: int) -> dict[str, Any]:
    return {"hashBucket": {"numBuckets": str(num_buckets), "seed": str(seed)}}


def both(array: pa.Array, ops: Sequence[dict[str, Any]]) -> tuple[Column, Column, int]:
    """What the operations make of an array apart and fused, and how many steps those are."""
    messages = parsed(ops)
    column = column_type(array.type)
    assert column is not None
    given_types, steps = [], []
    for op in messages:
        given_types.append(column)
        step, column = compile_op(op, column)
        steps.append(step)
    fused = fuse_ids(messages, given_types, steps)
    return _run(steps, array), _run(fused, array), len(fused)


def _run(steps: Sequence[ColumnOp], array: pa.Array) -> Column:
    column = arrow_to_column(array)
    for step in steps:
        column = step(column, PLACE)
    return column


def read(column: Column) -> list[Any]:
    """Ids, None for nulls; lists of them."""
    if isinstance(column, Jagged):
        elements = read(column.values)
        bounds = column.offsets.tolist()
        assert bounds[-1] == len(elements)
        return [elements[a:b] for a, b in itertools.pairwise(bounds)]
    assert isinstance(column, Flat)
    values: list[Any] = column.values.tolist()
    if column.valid is None:
        return values
    return [v if valid else None for v, valid in zip(values, column.valid, strict=True)]


def dtype(column: Column) -> np.dtype[Any]:
    flat = column.values if isinstance(column, Jagged) else column
    assert isinstance(flat, Flat)
    return flat.values.dtype


def fill(arrow: pa.DataType) -> dict[str, Any]:
    value = {"integer": 1} if arrow not in (pa.string(), pa.binary()) else {"text": "?"}
    return {"fillNull": {"value": value}}


ORDERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], list[dict[str, Any]]]] = {
    "nothing before": lambda _tail, _fill: [],
    "tail": lambda tail, _fill: [tail],
    "fill, tail": lambda tail, fill: [fill, tail],
    "tail, fill": lambda tail, fill: [tail, fill],
    "tail, tail": lambda tail, _fill: [tail, tail],
}


@pytest.mark.parametrize("arrow", TYPES, ids=str)
@given(data=st.data())
def test_fused_steps_give_the_values_of_the_steps(arrow: pa.DataType, data: st.DataObject) -> None:
    value = st.none() | TYPES[arrow]
    is_list = data.draw(st.booleans())
    row = st.none() | st.lists(value, max_size=6) if is_list else value
    array = pa.array(data.draw(st.lists(row, max_size=8)), pa.list_(arrow) if is_list else arrow)
    order = data.draw(st.sampled_from([*ORDERS] if is_list else ["nothing before"]))
    before = ORDERS[order]({"tail": {"count": data.draw(st.integers(1, 5))}}, fill(arrow))
    buckets = data.draw(
        st.integers(1, 2**32) | st.sampled_from([1, NARROW - 1, NARROW, NARROW + 1, 2**32])
    )
    apart, fused, count = both(
        array, [*before, hashed(buckets, data.draw(st.integers(0, 2**64 - 1)))]
    )
    assert read(fused) == read(apart)
    assert dtype(fused) == (np.int32 if buckets <= NARROW else np.int64)
    if buckets <= NARROW and order.endswith("tail") and arrow not in (pa.string(), pa.binary()):
        assert count == len(before)
    else:
        assert count == len(before) + 1


def test_the_largest_bucket_that_int32_holds() -> None:
    array = pa.array(range(100_000))
    for buckets, narrow in ((NARROW, True), (2**32, False)):
        apart, fused, _ = both(array, [hashed(buckets, 0)])
        assert (dtype(fused) == np.int32) == narrow
        assert read(fused) == read(apart)
        assert 0 <= min(read(fused)) < buckets // 1000
        assert buckets - buckets // 1000 < max(read(fused)) < buckets


def test_other_steps_are_left_alone() -> None:
    array = pa.array([[1, 2, 3]])
    tail = {"tail": {"count": 2}}
    for ops in ([], [tail], [hashed(9, 0), tail]):
        apart, fused, count = both(array, ops)
        assert read(fused) == read(apart)
        assert count == len(ops)
