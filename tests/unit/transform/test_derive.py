"""Derived columns against plain Python, on rows and on runs of every kind."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.frame import Frame
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.derive import bind_derived, derive
from tests.fakes.levels import Drawn, Kind, by_row, frames, made
from tests.fakes.one_op import read
from trainer_client.derive import Cross, Derived

SEED = (1 << 64) - 3
INTEGERS = st.integers(-3, 3) | st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, -2.5, math.nan, math.inf, -math.inf])
TEXTS = st.text("aü", max_size=3)
NULLS = Kind(pa.null(), st.none())
FEW = settings(max_examples=60, deadline=None)


def lists(arrow: pa.DataType, value: st.SearchStrategy[Any]) -> Kind:
    return Kind(pa.list_(arrow), value)


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def crossed(values: Any, num_buckets: int, seed: int) -> int | None:
    """The bucket of values together, None if one is None."""
    golden = 0x9E3779B97F4A7C15
    state = mix((seed + golden) % 2**64)
    for value in values:
        if value is None:
            return None
        hashed = isinstance(value, bytes)
        word = xxhash.xxh64_intdigest(value, seed) >> 32 if hashed else int(value) % 2**64
        state = mix(((state ^ word) + golden) % 2**64)
    return ((state >> 32) * num_buckets) >> 32


def zipped(row: tuple[Any, ...]) -> Any:
    """The values of a row element by element, single ones beside each element of the lists."""
    sizes = {len(value) for value in row if isinstance(value, list)}
    if not sizes:
        return tuple(row)
    (size,) = sizes
    wide = [value if isinstance(value, list) else [value] * size for value in row]
    return list(zip(*wide, strict=True))


def element_by_element(row: tuple[Any, ...], function: Any) -> Any:
    values = zipped(row)
    return [function(each) for each in values] if isinstance(values, list) else function(values)


@FEW
@given(
    frames(
        {
            "a": Kind(pa.int64(), INTEGERS),
            "b": Kind(pa.string(), TEXTS),
            "c": Kind(pa.dictionary(pa.int32(), pa.string()), TEXTS),
            "d": Kind(pa.bool_(), st.booleans()),
            "e": NULLS,
        }
    ),
    st.sampled_from([("a", "b"), ("b", "a", "c"), ("d", "d"), ("a", "b", "c", "d"), ("a", "e")]),
)
def test_cross_of_single_values(drawn: Drawn, names: tuple[str, ...]) -> None:
    expected = [crossed(row, 1000, SEED) for row in by_row(drawn, *names)]
    assert made(drawn, Cross("x", names, 1000, SEED)) == expected


@FEW
@given(
    frames(
        {
            "a": lists(pa.int32(), st.integers(-9, 9)),
            "b": lists(pa.large_binary(), st.binary(max_size=3)),
            "c": lists(pa.bool_(), st.booleans()),
            "f": Kind(pa.string(), TEXTS),
            "g": Kind(pa.uint8(), st.integers(0, 255)),
        }
    ),
    st.sampled_from([("a", "b"), ("f", "a"), ("c", "g", "b", "f"), ("a", "a"), ("b", "c")]),
)
def test_cross_of_lists(drawn: Drawn, names: tuple[str, ...]) -> None:
    expected = [
        element_by_element(row, lambda values: crossed(values, 1 << 32, 7))
        for row in by_row(drawn, *names)
    ]
    assert made(drawn, Cross("x", names, 1 << 32, 7)) == expected


def frame(**columns: Any) -> tuple[Frame, pa.Schema]:
    arrays = {name: pa.array(values) for name, values in columns.items()}
    count = len(next(iter(arrays.values())))
    held = {name: arrow_to_column(array) for name, array in arrays.items()}
    schema = pa.schema([(name, array.type) for name, array in arrays.items()])
    return Frame(count, held), schema


def values(column: Derived, **columns: Any) -> list[Any]:
    source, schema = frame(**columns)
    bound = bind_derived(dataset_pb2.DatasetSpec(derive=[column.to_proto()]), schema)
    assert bound.faults == ()
    return read(derive(bound.columns, source).columns[column.name])
