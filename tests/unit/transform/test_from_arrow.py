"""Arrow to columns, against Arrow's own to_pylist()."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.frame import Bytes, Column, Flat, Jagged, Opaque
from preprocessor_server.transform import arrow_to_column
from preprocessor_server.transform.from_arrow import bytes_to_arrow

SCALARS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.floats(width=16, allow_nan=False).map(np.float16),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.string_view(): st.text(max_size=20),
    pa.binary(): st.binary(max_size=5),
    pa.large_binary(): st.binary(max_size=5),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(10, 2): st.decimals(-1000, 1000, places=2),
    pa.timestamp("ms"): st.datetimes().map(lambda t: t.replace(microsecond=0)),
    pa.date32(): st.dates(),
    pa.null(): st.none(),
}
WRAPPED = ("plain", "dictionary", "list", "large_list", "fixed_size_list", "list of dictionary")


def read(column: Column) -> list[Any]:
    """The values of a column as Python has them; a null list reads as an empty one."""
    match column:
        case Flat(values, valid):
            return [
                value if valid is None or valid[row] else None
                for row, value in enumerate(values.tolist())
            ]
        case Bytes(offsets, data, valid):
            return [
                bytes(data[offsets[row] : offsets[row + 1]])
                if valid is None or valid[row]
                else None
                for row in range(len(column))
            ]
        case Opaque(array):
            return [expected(value) for value in array.to_pylist()]
        case Jagged(offsets, values):
            assert offsets[0] == 0
            assert offsets[-1] == len(values)
            elements = read(values)
            return [elements[offsets[row] : offsets[row + 1]] for row in range(len(column))]


def expected(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array | pa.ChunkedArray:
    scalar = draw(st.sampled_from(sorted(SCALARS, key=str)))
    wrapped = draw(st.sampled_from(WRAPPED))
    value = st.none() | SCALARS[scalar]
    if "list" in wrapped:
        least, most = (2, 2) if wrapped == "fixed_size_list" else (0, 4)
        value = st.none() | st.lists(value, min_size=least, max_size=most)
    types = {
        "plain": scalar,
        "dictionary": scalar,
        "list": pa.list_(scalar),
        "large_list": pa.large_list(scalar),
        "fixed_size_list": pa.list_(scalar, 2),
        "list of dictionary": pa.list_(scalar),
    }
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        array = pa.array(draw(st.lists(value, max_size=6)), types[wrapped])
        start = draw(st.integers(0, len(array)))
        array = array.slice(start, draw(st.integers(0, len(array) - start)))
        chunks.append(_wrap(array, wrapped, scalar))
    if len(chunks) == 1 and draw(st.booleans()):
        return chunks[0]
    empty = _wrap(pa.array([], types[wrapped]), wrapped, scalar)
    return pa.chunked_array(chunks, empty.type)


def _wrap(array: pa.Array, wrapped: str, scalar: pa.DataType) -> pa.Array:
    if pa.types.is_null(scalar) or scalar in (pa.string_view(), pa.float16()):
        return array
    if wrapped == "dictionary":
        return array.dictionary_encode()
    if wrapped == "list of dictionary" and scalar in (pa.string(), pa.binary()):
        return array.cast(pa.list_(pa.dictionary(pa.int32(), scalar)))
    return array


@given(arrays())
def test_columns_hold_what_arrow_holds(array: pa.Array | pa.ChunkedArray) -> None:
    column = arrow_to_column(array)
    values = [
        [expected(element) for element in value] if isinstance(value, list) else expected(value)
        for value in array.to_pylist()
    ]
    if isinstance(column, Jagged):
        values = [value or [] for value in values]
    assert len(column) == len(array)
    assert read(column) == values


@pytest.mark.parametrize("view", [pa.string_view(), pa.binary_view()])
def test_views_in_lists_of_one_length_of_which_some_are_null(view: pa.DataType) -> None:
    value = "b" if view == pa.string_view() else b"b"
    array = pa.array([None, [value, None]], pa.list_(view, 2))
    assert read(arrow_to_column(array)) == [[], [b"b", None]]


def test_numbers_are_not_copied() -> None:
    array = pa.array(range(1000), pa.int64())
    column = arrow_to_column(array.slice(10))
    assert isinstance(column, Flat)
    assert column.values.ctypes.data == array.buffers()[1].address + 80
    assert column.valid is None


def test_null_lists_that_hold_elements_become_empty() -> None:
    for kind in (pa.ListArray, pa.LargeListArray):
        lists = kind.from_arrays(
            [0, 2, 4, 5], pa.array([1, 2, 3, None, 5]), mask=pa.array([False, True, False])
        )
        assert read(arrow_to_column(lists)) == [[1, 2], [], [5]]
        assert read(arrow_to_column(lists.slice(1))) == [[], [5]]
    fixed = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))
    assert read(arrow_to_column(fixed)) == [[1, 2], [], [3, None]]


def test_nulls_inside_a_dictionary_are_nulls() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array(["a", None]))
    assert read(arrow_to_column(array)) == [b"a", None, None, b"a"]


def test_chunks_with_other_dictionaries_are_joined() -> None:
    chunks = [pa.array(values).dictionary_encode() for values in (["a", "b"], ["b", None, "c"])]
    assert read(arrow_to_column(pa.chunked_array(chunks))) == [b"a", b"b", b"b", None, b"c"]


def test_a_null_type_is_all_null() -> None:
    column = arrow_to_column(pa.nulls(3))
    assert isinstance(column, Flat)
    assert read(column) == [None, None, None]
    assert read(arrow_to_column(pa.array([[None], None, []], pa.list_(pa.null())))) == [
        [None],
        [],
        [],
    ]


def test_decimals_and_times_stay_arrow_arrays() -> None:
    array = pa.array([decimal.Decimal("1.5"), None], pa.decimal256(50, 3))
    assert read(arrow_to_column(array)) == [decimal.Decimal("1.5"), None]


@given(st.lists(st.none() | st.binary(max_size=5)))
def test_bytes_go_back_to_arrow(values: list[bytes | None]) -> None:
    column = arrow_to_column(pa.array([b"skipped", *values], pa.binary()).slice(1))
    assert isinstance(column, Bytes)
    assert bytes_to_arrow(column).to_pylist() == values


@pytest.mark.parametrize(
    "arrow", [pa.struct({"x": pa.int64()}), pa.list_(pa.list_(pa.int64())), pa.map_("u1", "u1")]
)
def test_other_types_are_refused(arrow: pa.DataType) -> None:
    with pytest.raises(TypeError, match="no column can be made of"):
        arrow_to_column(pa.nulls(1, arrow) if not pa.types.is_list(arrow) else pa.array([[[1]]]))
