"""Lists of rows laid end to end hold the rows that they held, however Arrow has them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor_server.errors import DataError
from preprocessor_server.source.nesting import RowColumn, RowSchema
from preprocessor_server.source.split_table import flatten, split_table

Element = dict[str, Any] | None
TYPE = pa.struct(
    {
        "n": pa.int64(),
        "words": pa.list_(pa.string()),
        "city": pa.dictionary(pa.int8(), pa.string()),
    }
)
element = st.none() | st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-5, 5),
        "words": st.none() | st.lists(st.text("ab", max_size=2), max_size=2),
        "city": st.none() | st.sampled_from(["x", "y"]),
    }
)
lists = st.lists(st.none() | st.lists(element, max_size=4), max_size=8)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[pa.ChunkedArray, list[list[Element] | None]]:
    """Lists of structs in slices of chunks, and the same as Python has them."""
    make = draw(st.sampled_from([pa.list_, pa.large_list]))
    chunks, whole = [], []
    for _ in range(draw(st.integers(0, 3))):
        values = draw(lists)
        array = pa.array(values, make(TYPE))
        first = draw(st.integers(0, len(values)))
        count = draw(st.integers(0, len(values) - first))
        chunks.append(array.slice(first, count))
        whole += values[first : first + count]
    return pa.chunked_array(chunks, make(TYPE)), whole


def schema(fields: tuple[str, ...]) -> RowSchema:
    columns = [
        RowColumn(name, TYPE.field(name).type, "rows", in_lists=True, field=name) for name in fields
    ]
    return RowSchema((RowColumn("k", pa.int64(), "k"), *columns), grouped=True)


@given(case=chunked())
def test_structs_in_lists_become_columns(
    case: tuple[pa.ChunkedArray, list[list[Element] | None]],
) -> None:
    array, whole = case
    table = pa.table({"k": pa.array(range(len(array)), pa.int64()), "rows": array})
    result = split_table(table, schema(("n", "words", "city")), "here", 0)
    held = [part or [] for part in whole]
    expected = [
        {"k": k, **(row or dict.fromkeys(("n", "words", "city")))}
        for k, part in enumerate(held)
        for row in part
    ]
    assert result.lengths is not None
    assert result.lengths.tolist() == [len(part) for part in held]
    assert result.parquet_row_count == len(whole)
    assert result.at_rows(["k", "n", "words", "city"]).to_pylist() == expected


def test_null_lists_that_stand_for_elements_hold_none() -> None:
    values = pa.array([1, 2, 3, 4, 5])
    mask = pa.array([False, True, False])
    array = pa.ListArray.from_arrays(pa.array([0, 2, 4, 5], pa.int32()), values, mask=mask)
    elements, lengths = flatten(pa.chunked_array([array.slice(1), array]))
    assert elements.to_pylist() == [5, 1, 2, 5]
    assert lengths.tolist() == [0, 1, 2, 0, 1]


def test_lists_of_fixed_size() -> None:
    array = pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int8(), 2))
    elements, lengths = flatten(pa.chunked_array([array.slice(1, 2), array.slice(3)]))
    assert elements.to_pylist() == [3, 4, 5, 6]
    assert lengths.tolist() == [0, 2, 2]
    none, lengths = flatten(pa.chunked_array([], pa.list_(pa.int8(), 2)))
    assert (len(none), len(lengths), none.type) == (0, 0, pa.int8())


def test_elements_are_not_copied() -> None:
    values = pa.array(np.arange(10))
    array = pa.ListArray.from_arrays(pa.array([0, 4, 4, 10], pa.int32()), values)
    elements, _ = flatten(pa.chunked_array([array.slice(1)]))
    assert elements.chunk(0).buffers()[1].address == values.buffers()[1].address


def test_lists_that_have_their_offsets_in_common() -> None:
    offsets = pa.array([1, 3, 3, 6], pa.int32())
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array(np.arange(7) + k))
        for name, k in (("a", 0), ("b", 10))
    }
    rows = RowSchema(
        tuple(RowColumn(name, pa.int64(), name, in_lists=True) for name in "ab"), grouped=True
    )
    result = split_table(pa.table(columns), rows, "x", 0)
    assert result.rows.to_pydict() == {"a": [1, 2, 3, 4, 5], "b": [11, 12, 13, 14, 15]}
    result = split_table(pa.table(columns).slice(1), rows, "x", 1)
    assert result.rows.to_pydict() == {"a": [3, 4, 5], "b": [13, 14, 15]}
    assert result.lengths is not None
    assert result.lengths.tolist() == [0, 3]
    shifted = pa.table({"a": columns["a"].slice(0, 2), "b": columns["b"].slice(1)})
    with pytest.raises(DataError, match=r"row 0: column 'a' holds a list of 2 .* 'b' one of 0"):
        split_table(shifted, rows, "x", 0)
    # Arrow lets a null list stand for a range that is not empty.
    mask, elements = pa.array([False, False, True]), columns["b"].values
    columns["b"] = pa.ListArray.from_arrays(offsets, elements, mask=mask)
    with pytest.raises(DataError, match=r"row 2: column 'a' holds a list of 3 .* 'b' one of 0"):
        split_table(pa.table(columns), rows, "x", 0)


def test_uneven_lists_are_refused_by_row_and_columns() -> None:
    table = pa.table({"a": [[1], [1, 2], []], "b": [[1], [1], []], "c": [[1], [1, 2], []]})
    columns = RowSchema(
        tuple(RowColumn(name, pa.int64(), name, in_lists=True) for name in "abc"), grouped=True
    )
    with pytest.raises(DataError) as caught:
        split_table(table, columns, "file 'x', row group 3", 40)
    assert caught.value.reason == "ROWS_UNEVEN"
    assert caught.value.message.startswith(
        "file 'x', row group 3, Parquet row 41: column 'a' holds a list of 2 elements, column 'b' "
        "one of 1; "
    )
    with pytest.raises(DataError, match=r"column 'a' holds a list of 0 .* column 'b' one of 1"):
        split_table(pa.table({"a": [[], None], "b": [[1], []], "c": [[], []]}), columns, "x", 0)
    even = pa.table({"a": [None, []], "b": [[], None], "c": [[], []]})
    assert split_table(even, columns, "x", 0).rows.num_rows == 0
