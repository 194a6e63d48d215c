"""What every operation does to every kind of value, on rows and on runs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError
from preprocessor_server.frame import Column, Flat, Frame, Jagged, Runs, as_lists
from preprocessor_server.transform import arrow_to_column, compile_features, validate_spec
from preprocessor_server.transform.features import FeatureSize

NAN, INF = math.nan, math.inf
HASH = {"hashBucket": {"numBuckets": "4294967296", "seed": 5}}


def tail(count: int) -> dict[str, Any]:
    return {"tail": {"count": count}}


def fill(**value: Any) -> dict[str, Any]:
    return {"fillNull": {"value": value}}


def cast(to: str) -> dict[str, Any]:
    return {"cast": {"to": f"SCALAR_TYPE_{to}"}}


def compiled(kind: str, arrow: pa.DataType, ops: tuple[dict[str, Any], ...]) -> Any:
    message = {
        "source": {"parquet": {"paths": ["x"]}},
        "features": [{kind: {"columns": ["x"], "ops": list(ops)}}],
    }
    spec = json_format.ParseDict(message, dataset_pb2.DatasetSpec())
    validate_spec(spec)
    return compile_features(spec, pa.schema({"x": arrow}))


def read(column: Column) -> list[Any]:
    """Numbers, or lists of ids: a sparse feature with one id a row may be Flat."""
    if isinstance(column, Flat) and column.values.dtype.kind == "i":
        column = as_lists(column)
    if isinstance(column, Jagged):
        assert isinstance(column.values, Flat)
        assert column.values.valid is None
        assert column.values.values.dtype in {np.dtype(np.int32), np.dtype(np.int64)}
        values = column.values.values.tolist()
        bounds = column.offsets.tolist()
        assert bounds[-1] == len(values)
        return [values[a:b] for a, b in itertools.pairwise(bounds)]
    assert isinstance(column, Flat)
    assert column.valid is None
    assert column.values.dtype == np.float32
    return list(column.values.tolist())


def run(kind: str, array: pa.Array, *ops: dict[str, Any]) -> list[Any]:
    """The feature made of an array: once as rows, once as runs; both must agree."""
    transform = compiled(kind, array.type, ops)
    rows = transform.apply(Frame(len(array), {"x": arrow_to_column(array)}))
    # Every run twice, in another order; and one more run to which no row refers.
    inverse = np.repeat(np.arange(len(array))[::-1], 2).astype(np.int32)
    runs = transform.apply(Frame(len(inverse), {}, (Runs(inverse, {"x": arrow_to_column(array)}),)))
    if len(array):
        assert runs.columns == {}
        assert runs.runs[0].inverse is inverse
    result = read(rows.columns["x"])
    expanded = read(runs.expanded().columns["x"])
    assert repr(expanded) == repr([result[i] for i in inverse])
    return result


def failure(kind: str, array: pa.Array, *ops: dict[str, Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        run(kind, array, *ops)
    return caught.value


def ids(*values: int | str) -> list[int]:
    """HASH of values, by plain Python."""
    return [_hash(value) for value in values]


def _hash(value: int | str) -> int:
    if isinstance(value, str):
        return int(xxhash.xxh64_intdigest(value.encode(), 5)) >> 32
    z = (value + 6 * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 32


@pytest.mark.parametrize("kind", ["dense", "label"])
def test_numbers_become_float32(kind: str) -> None:
    assert run(kind, pa.array([1.5, -0.0, INF, 1e300])) == [1.5, 0.0, INF, INF]
    assert math.copysign(1, run(kind, pa.array([-0.0]))[0]) == -1
    assert math.isnan(run(kind, pa.array([NAN]))[0])
    assert run(kind, pa.array([True, False])) == [1, 0]
    assert run(kind, pa.array([2**24 + 1, 2**63 - 1])) == [2.0**24, 2.0**63]
    assert run(kind, pa.array([2**64 - 1], pa.uint64())) == [2.0**64]
    assert run(kind, pa.array([np.float16(0.1)], pa.float16())) == [float(np.float16(0.1))]
    assert run(kind, pa.array([], pa.int8())) == []


def test_a_null_in_a_dense_feature_is_refused() -> None:
    error = failure("dense", pa.array([1.0, None, 2.0, None]))
    assert error.reason == "NULL_VALUE"
    assert error.message == (
        "feature 'x' (features[0]): 2 nulls reach a dense feature, first at row 1 of the split; "
        "add FillNull"
    )
    assert "reach a label" in failure("label", pa.nulls(2)).message


def test_a_null_element_of_a_sparse_feature_is_refused() -> None:
    lists = pa.array([[], [1], None, [2, None, None], [None]], pa.list_(pa.int64()))
    error = failure("sparse", lists)
    assert error.reason == "NULL_VALUE"
    assert "3 null elements reach a sparse feature, first at row 3 of the split" in error.message


def test_errors_of_runs_count_rows() -> None:
    column = arrow_to_column(pa.array([5, None, None]))
    inverse = np.array([0, 0, 1, 1, 1, 0], np.int32)
    transform = compiled("dense", pa.int64(), ())
    with pytest.raises(DataError, match="3 nulls reach a dense feature, first at row 2 of"):
        transform.apply(Frame(6, {}, (Runs(inverse, {"x": column}),)))


def test_runs_that_no_row_refers_to_may_hold_anything() -> None:
    inverse = np.array([1, 1], np.int32)
    for kind, array, ops in (
        ("dense", pa.array([None, 2.0]), ()),
        ("dense", pa.array(["x", "2"]), (cast("INT32"),)),
        ("sparse", pa.array([[None], [2]]), ()),
        ("sparse", pa.array([2**63, 2], pa.uint64()), ()),
    ):
        frame = Frame(2, {}, (Runs(inverse, {"x": arrow_to_column(array)}),))
        result = compiled(kind, array.type, ops).apply(frame).expanded().columns["x"]
        assert read(result) == ([2, 2] if kind == "dense" else [[2], [2]])


def test_run_structures_without_features_are_left_out() -> None:
    column = Flat(np.arange(2))
    inverse = np.array([0, 1, 1], np.int32)
    frame = Frame(
        3, {"y": Flat(np.arange(3))}, (Runs(inverse, {"z": column}), Runs(inverse, {"x": column}))
    )
    result = compiled("dense", pa.int64(), ()).apply(frame)
    assert [list(runs.columns) for runs in result.runs] == [["x"]]
    assert result.columns == {}


def test_sparse_features_are_lists() -> None:
    assert run("sparse", pa.array([3, None, 2**40])) == [[3], [], [2**40]]
    assert run("sparse", pa.array([True, None, False])) == [[1], [], [0]]
    assert run("sparse", pa.array([[1, 2], None, [], [3]])) == [[1, 2], [], [], [3]]
    assert run("sparse", pa.nulls(2)) == [[], []]
    assert run("sparse", pa.array([2**63 - 1, None], pa.uint64())) == [[2**63 - 1], []]
    assert run("sparse", pa.array([[1, 2], None], pa.list_(pa.int8(), 2))) == [[1, 2], []]


def test_ids_beyond_int64_are_refused_unless_hashed() -> None:
    array = pa.array([1, 2**63, None], pa.uint64())
    error = failure("sparse", array)
    assert error.reason == "VALUE_OUT_OF_RANGE"
    assert "1 ids are above 2^63 - 1, first at row 1" in error.message
    assert run("sparse", array, HASH) == [ids(1), ids(2**63), []]


def test_fill_null_replaces_nulls_and_nothing_else() -> None:
    assert run("dense", pa.array([None, 2.0]), fill(number=0.5)) == [0.5, 2]
    assert math.isnan(run("dense", pa.array([NAN, None]), fill(integer=0))[0])
    assert run("dense", pa.array([None, True]), fill(integer=0)) == [0, 1]
    assert run("dense", pa.nulls(1), fill(number=0.1)) == [float(np.float32(0.1))]
    lists = pa.array([[None, 1], None, []], pa.list_(pa.int64()))
    assert run("sparse", lists, fill(integer=7)) == [[7, 1], [], []]
    assert run("sparse", pa.array(["a", None]), fill(text="ü"), HASH) == [ids("a"), ids("ü")]
    words = pa.array([["a", None], None])
    assert run("sparse", words, fill(text="b"), HASH) == [ids("a", "b"), []]


def test_log1p() -> None:
    special = pa.array([-1.0, -2.0, INF, -0.0, 1.0], pa.float32())
    result = run("dense", special, {"log1p": {}})
    assert result[0] == -INF
    assert math.isnan(result[1])
    assert result[2:] == [INF, 0, float(np.float32(math.log(2)))]
    assert run("dense", pa.array([0, 1]), {"log1p": {}}) == [0, float(np.float32(math.log(2)))]
    assert run("dense", pa.array([None, 0.0]), {"log1p": {}}, fill(number=9)) == [9, 0]


def test_clip() -> None:
    values = pa.array([-5.0, NAN, INF, -INF, 0.5])
    result = run("dense", values, {"clip": {"min": {"integer": 0}, "max": {"number": 1.5}}})
    assert math.isnan(result[1])
    assert [result[0], *result[2:]] == [0, 1.5, 0, 0.5]
    kept = run("dense", pa.array([-0.0]), {"clip": {"min": {"number": 0.0}}})
    assert math.copysign(1, kept[0]) == -1
    unsigned = pa.array([0, 2**64 - 1, None], pa.uint64())
    assert run("sparse", unsigned, {"clip": {"max": {"integer": 9}}}) == [[0], [9], []]
    assert run("sparse", pa.array([[-5, 5]]), {"clip": {"min": {"integer": 0}}}) == [[0, 5]]


def test_cast() -> None:
    assert run("sparse", pa.array(["12", None]), cast("INT64")) == [[12], []]
    assert run("dense", pa.array(["1e-1"]), cast("FLOAT32")) == [float(np.float32(0.1))]
    assert run("sparse", pa.array([[1.0], None]), cast("INT32")) == [[1], []]
    assert run("dense", pa.array([5, None], pa.duration("s")), cast("INT64"), fill(integer=0)) == [
        5,
        0,
    ]
    assert run("dense", pa.nulls(1), cast("INT32"), fill(integer=3)) == [3]
    error = failure("dense", pa.array([1.0, 0.5, NAN, 3e9, None]), cast("INT32"))
    assert error.reason == "VALUE_OUT_OF_RANGE"
    assert "3 values are no int32" in error.message
    assert "first at row 1 of the split" in error.message


def test_hash_bucket() -> None:
    assert run("sparse", pa.array([-1, None, 7], pa.int8()), HASH) == [ids(-1), [], ids(7)]
    assert run("sparse", pa.array([True]), HASH) == [ids(1)]
    assert run("sparse", pa.array([["a", ""], None, ["ü"]]), HASH) == [ids("a", ""), [], ids("ü")]
    assert run("sparse", pa.array([b"abc"], pa.binary(3)), HASH) == [ids("abc")]
    assert run("sparse", pa.array(["a", None, "a"]).dictionary_encode(), HASH) == [
        ids("a"),
        [],
        ids("a"),
    ]
    assert "null elements" in failure("sparse", pa.array([["a", None]]), HASH).message


@given(st.lists(st.none() | st.lists(st.integers(0, 99), max_size=5)), st.integers(1, 6))
def test_tail_keeps_the_ends(lists: list[list[int] | None], count: int) -> None:
    kept = [(values or [])[-count:] for values in lists]
    assert run("sparse", pa.array(lists, pa.list_(pa.int64())), tail(count)) == kept
    words = [None if values is None else list(map(str, values)) for values in lists]
    array = pa.array(words, pa.list_(pa.string()))
    hashed = [ids(*map(str, values)) for values in kept]
    assert run("sparse", array, tail(count), HASH) == hashed
    assert run("sparse", array, HASH, tail(count)) == hashed
    assert run("sparse", array, tail(count), cast("INT64")) == kept


def test_tail_drops_null_elements_with_their_place() -> None:
    lists = pa.array([[None, 1, None, 2], [None]], pa.list_(pa.int64()))
    assert run("sparse", lists, tail(1), fill(integer=9)) == [[2], [9]]
    assert run("sparse", lists, tail(2), fill(integer=9)) == [[9, 2], [9]]
    words = pa.array([[None, "a"], ["b"]])
    assert run("sparse", words, tail(1), HASH) == [ids("a"), ids("b")]


def aggregate(by: str) -> dict[str, Any]:
    return {"listAggregate": {"by": f"AGGREGATION_{by}"}}


def test_lists_become_numbers() -> None:
    lists = pa.array([[1, 2, None], None, [5], []], pa.list_(pa.int64()))
    assert run("dense", lists, {"listLength": {}}) == [3, 0, 1, 0]
    assert run("label", lists, aggregate("COUNT")) == [2, 0, 1, 0]
    assert run("dense", lists, aggregate("MEAN"), fill(number=-1)) == [1.5, -1, 5, -1]
    assert run("sparse", lists, aggregate("LAST")) == [[2], [], [5], []]
    assert run("sparse", lists, {"listLength": {}}) == [[3], [0], [1], [0]]
    words = pa.array([["a", "b"], None, [None]])
    assert run("sparse", words, aggregate("FIRST"), HASH) == [ids("a"), [], []]
    error = failure("dense", lists, aggregate("MAX"))
    assert "2 nulls reach a dense feature, first at row 1 of the split" in error.message


def test_sequences_become_ids() -> None:
    lists = pa.array([[3, 1, 3, 2], None, [7]], pa.list_(pa.int32()))
    assert run("sparse", lists, {"deduplicate": {}}, {"sort": {}}) == [[1, 2, 3], [], [7]]
    assert run("sparse", lists, tail(2), HASH) == [ids(3, 2), [], ids(7)]
    assert run("sparse", lists, {"head": {"count": 2}}, HASH) == [ids(3, 1), [], ids(7)]
    padding = {"pad": {"length": 2, "value": {"integer": 0}}}
    assert run("sparse", lists, {"slice": {"start": -2}}, padding) == [[3, 2], [0, 0], [7, 0]]
    mapped = {"mapId": {"keys": ["3"], "values": ["30"]}}
    error = failure("sparse", lists, mapped)
    assert "3 null elements reach a sparse feature, first at row 0" in error.message
    assert run("sparse", lists, mapped, fill(integer=0)) == [[30, 0, 30, 0], [], [0]]
    words = pa.array([["b", "c"], None, ["a"]]).cast(pa.list_(pa.dictionary(pa.int32(), "string")))
    listed = {"vocabulary": {"strings": ["a", "b"], "numOovBuckets": "1"}}
    assert run("sparse", words, listed) == [[1, 2], [], [0]]


def test_operations_run_in_order() -> None:
    array = pa.array([None, -3.0])
    assert run("dense", array, fill(number=-8), {"clip": {"min": {"integer": 0}}}) == [0, 0]
    assert run("dense", array, {"clip": {"min": {"integer": 0}}}, fill(number=-8)) == [-8, 0]


@pytest.mark.parametrize("ops", [(), (fill(text="none"),), (tail(2),), (tail(1), fill(text="b"))])
@pytest.mark.parametrize("hashed", [HASH, {"hashBucket": {"numBuckets": "1000"}}])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_binary()], ids=str)
@given(data=st.data())
def test_dictionaries_become_what_their_strings_do(
    ops: tuple[dict[str, Any], ...], hashed: dict[str, Any], kind: pa.DataType, data: st.DataObject
) -> None:
    value = st.sampled_from(["a", "b", "", "12345678"])
    if any("tail" in op for op in ops):
        values = data.draw(st.lists(st.none() | st.lists(value, max_size=3), max_size=6))
        strings, coded = pa.list_(kind), pa.list_(pa.dictionary(pa.int32(), kind))
        array = pa.array(values, strings)
        assert run("sparse", array.cast(coded), *ops, hashed) == run("sparse", array, *ops, hashed)
        return
    array = pa.array(data.draw(st.lists(st.none() | value, max_size=6)), kind)
    coded = array.dictionary_encode()
    start = data.draw(st.integers(0, len(array)))
    for plain, other in ((array, coded), (array[start:], coded[start:])):
        assert run("sparse", other, *ops, hashed) == run("sparse", plain, *ops, hashed)


def test_numbers_that_dictionaries_spell() -> None:
    array = pa.array(["1.5", None, "2", "1.5"]).dictionary_encode()
    assert run("dense", array, cast("FLOAT64"), fill(number=0)) == [1.5, 0, 2, 1.5]
    error = failure("dense", pa.array(["x", "1"]).dictionary_encode(), cast("INT32"))
    assert "first at row 0" in str(error)


def test_codes_outside_a_dictionary_are_refused() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 2]), pa.array(["a", "b"]), safe=False)
    with pytest.raises(IndexError):
        run("sparse", array, HASH)


def test_the_size_of_features_is_learned() -> None:
    size = FeatureSize()
    assert size.share == 1.0
    size.note(0.3)
    assert size.share == 0.3
    size.note(0.2)
    size.note(0.4)
    assert size.share == 0.4
    small = FeatureSize()
    small.note(0.01)
    assert small.share == FeatureSize.LEAST
