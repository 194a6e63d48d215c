"""Features that OneHot makes of a column, of rows, runs and lists, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.frame import Flat, Frame, Runs
from preprocessor_server.transform import arrow_to_column, compile_features, validate_spec
from tests.fakes.columns import plain

INTEGERS = [pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()]
VOCABULARY: dict[str, Any] = {"vocabulary": {"strings": ["a", "b"], "numOovBuckets": 1}}


def one_hot(count: int = 0) -> dict[str, Any]:
    return {"oneHot": {"numClasses": count}}


def dense(*columns: str, ops: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"dense": {"columns": list(columns), "ops": ops, **more}}


def compiled(schema: pa.Schema, *features: dict[str, Any], **more: Any) -> Any:
    form = {"source": {"parquet": {"paths": ["x"]}}, "features": list(features), **more}
    spec = json_format.ParseDict(form, dataset_pb2.DatasetSpec())
    validate_spec(spec)
    return compile_features(spec, schema)


def refusal(schema: pa.Schema, *features: dict[str, Any]) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        compiled(schema, *features)
    return caught.value


def made(array: pa.Array, *ops: dict[str, Any]) -> list[list[float]]:
    """The rows of the features of column "x": of rows, and of runs, of which one is of no row."""
    transform = compiled(pa.schema({"x": array.type}), dense("x", ops=list(ops)))
    [block] = transform.schema(1).blocks
    column = arrow_to_column(array)
    rows = transform.apply(Frame(len(array), {"x": column}))
    inverse = np.repeat(np.arange(len(array) - 1), 2).astype(np.int32)
    runs = transform.apply(Frame(len(inverse), {}, (Runs(inverse, {"x": column}),)))
    assert list(rows.columns) == list(block.features)
    assert [set(run.columns) for run in runs.runs] == [set(block.features)]
    assert runs.columns == {}
    features = []
    for name in block.features:
        feature = rows.columns[name]
        assert isinstance(feature, Flat)
        assert feature.values.dtype == np.float32
        assert feature.valid is None
        features.append(plain(feature))
        expanded = plain(runs.expanded().columns[name])
        assert expanded == [features[-1][i] for i in inverse]
    return [list(row) for row in zip(*features, strict=True)]


@given(st.sampled_from(INTEGERS), st.integers(1, 5), st.data())
def test_one_hot(arrow: pa.DataType, count: int, data: st.DataObject) -> None:
    value = st.none() | st.integers(0, count - 1)
    values = data.draw(st.lists(value, min_size=2, max_size=9))
    expected = [[float(value == i) for i in range(count)] for value in values]
    assert made(pa.array(values, arrow), one_hot(count)) == expected


@given(st.sampled_from(INTEGERS), st.integers(1, 5), st.data())
def test_multi_hot_of_a_list(arrow: pa.DataType, count: int, data: st.DataObject) -> None:
    lists = st.none() | st.lists(st.none() | st.integers(0, count - 1), max_size=6)
    values = data.draw(st.lists(lists, min_size=2, max_size=6))
    expected = [[float(i in (value or [])) for i in range(count)] for value in values]
    assert made(pa.array(values, pa.list_(arrow)), one_hot(count)) == expected


@pytest.mark.parametrize("bad", [-1, 3, 127])
def test_a_value_that_is_no_class_is_refused(bad: int) -> None:
    for array in (
        pa.array([0, None, bad, bad, 1], pa.int8()),
        pa.array([[0], [], [1, bad, None, bad], None, [2]], pa.list_(pa.int8())),
    ):
        with pytest.raises(DataError) as caught:
            made(array, one_hot(3))
        assert caught.value.reason == "VALUE_OUT_OF_RANGE"
        assert caught.value.message.startswith(
            "feature 'x' (features[0]): 2 values are not from 0 to 2, which are the classes of "
            "OneHot, first at row 2 of the split; put a Bucketize"
        )


def test_a_run_of_no_row_may_hold_anything() -> None:
    transform = compiled(pa.schema({"x": pa.int64()}), dense("x", ops=[one_hot(2)]))
    runs = Runs(np.array([0, 2], np.int32), {"x": arrow_to_column(pa.array([1, 99, 0]))})
    features = transform.apply(Frame(2, {}, (runs,))).expanded()
    assert [plain(features.columns[name]) for name in ("x_0", "x_1")] == [[0, 1], [1, 0]]


def test_classes_are_those_that_the_operations_before_leave() -> None:
    assert made(pa.array(["b", None, "?"]), VOCABULARY, one_hot()) == [
        [0, 1, 0], [0, 0, 0], [0, 0, 1],
    ]  # fmt: skip
    edges = {"bucketize": {"boundaries": [0, 1.5]}}
    assert made(pa.array([-1.0, 1.5]), edges, one_hot()) == [[1, 0, 0], [0, 0, 1]]
    hours = {"dateParts": {"part": "DATE_PART_HOUR"}}
    midnight, *_ = made(pa.array([0, 1], pa.timestamp("s")), hours, one_hot())
    assert (len(midnight), midnight[0], sum(midnight)) == (24, 1, 1)


def test_blocks_have_its_features_in_place_of_the_column() -> None:
    schema = pa.schema({"a": pa.int64(), "b": pa.int64(), "c": pa.float32(), "y": pa.int64()})
    transform = compiled(
        schema,
        dense("c", ops=[]),
        dense("a", "b", ops=[one_hot(2)]),
        dense("y", ops=[one_hot(3)], block="wide"),
        blocks=[{"name": "wide", "dtype": "SCALAR_TYPE_FLOAT64"}],
    )
    blocks = {block.name: list(block.features) for block in transform.schema(1).blocks}
    assert blocks == {"dense": ["c", "a_0", "a_1", "b_0", "b_1"], "wide": ["y_0", "y_1", "y_2"]}
    assert transform.columns == ("a", "b", "c", "y")
    column = arrow_to_column(pa.array([1]))
    frame = transform.apply(Frame(1, dict.fromkeys("abcy", column)))
    assert frame.columns["y_1"].values.dtype == np.float64
    label = compiled(schema, {"label": {"columns": ["y"], "ops": [one_hot(2)]}})
    assert list(label.schema(1).blocks[0].features) == ["y_0", "y_1"]


@pytest.mark.parametrize(
    ("feature", "field", "what"),
    [
        (
            {"sparse": {"columns": ["x"], "ops": [one_hot(2)]}},
            "features[0].ops[0].one_hot",
            "and this is a sparse feature; leave it out",
        ),
        (
            {"meta": {"columns": ["x"], "ops": [one_hot(2)]}},
            "features[0].ops[0].one_hot",
            "and this is a meta feature",
        ),
        (
            dense("x", ops=[one_hot(2), {"log1p": {}}]),
            "features[0].ops[0].one_hot",
            "put it behind all operations",
        ),
        (
            dense("x", ops=[one_hot()]),
            "features[0].ops[0].one_hot.num_classes",
            "no operation before it bounds the values; give it",
        ),
        (
            dense("x", ops=[one_hot(1025)]),
            "features[0].ops[0].one_hot.num_classes",
            "1,025 classes are too many for OneHot, 1,024 the most; make it a sparse feature",
        ),
        (
            dense("x", ops=[{"hashBucket": {"numBuckets": 2000}}, one_hot()]),
            "features[0].ops[1].one_hot.num_classes",
            "2,000 classes are too many",
        ),
        (
            dense("x", ops=[{"hashBucket": {"numBuckets": 9}}, one_hot(8)]),
            "features[0].ops[1].one_hot.num_classes",
            "num_classes is 8, and the operations before OneHot give values up to 8; make it 9",
        ),
    ],
)
def test_what_is_wrong_is_told_before_a_row_is_read(
    feature: dict[str, Any], field: str, what: str
) -> None:
    error = refusal(pa.schema({"x": pa.int64()}), feature)
    assert (error.reason, error.field) == ("DATASET_INVALID", f"dataset.{field}")
    assert what in error.message


@pytest.mark.parametrize("arrow", [pa.float32(), pa.bool_(), pa.string(), pa.timestamp("s")])
def test_anything_but_integers_is_unfit(arrow: pa.DataType) -> None:
    error = refusal(pa.schema({"x": arrow}), dense("x", ops=[one_hot(2)]))
    assert error.reason == "TYPE_UNFIT"
    assert "(features[0].ops[0] OneHot): column 'x'" in error.message
    assert "OneHot takes integers" in error.message


@pytest.mark.parametrize(("dtype", "number_bytes"), [("FLOAT16", 4), ("FLOAT64", 8)])
def test_its_features_are_reckoned_with_in_memory(dtype: str, number_bytes: int) -> None:
    schema = pa.schema([("a", pa.int32()), ("b", pa.int32())])
    features = [dense("a", ops=[one_hot(1000)]), dense("b", ops=[])]
    blocks = [{"name": "dense", "dtype": f"SCALAR_TYPE_{dtype}"}]
    assert compiled(schema, *features, blocks=blocks).class_bytes == 1000 * number_bytes
    assert compiled(schema, features[1]).class_bytes == 0


def test_names_that_meet_are_refused() -> None:
    schema = pa.schema({"a": pa.int64(), "a_1": pa.int64()})
    hot, number = dense("a", ops=[one_hot(2)]), dense("a_1", ops=[])
    for features, first, second in (((hot, number), "a", "a_1"), ((number, hot), "a_1", "a")):
        error = refusal(schema, *features)
        assert (error.reason, error.field) == (
            "DATASET_INVALID", "dataset.features[1].columns[0]",
        )  # fmt: skip
        assert (
            f"column {second!r} makes a feature 'a_1', and so does column {first!r}"
            in error.message
        )
    both = compiled(schema, dense("a", "a_1", ops=[one_hot(2)]))
    assert list(both.schema(1).blocks[0].features) == ["a_0", "a_1", "a_1_0", "a_1_1"]
