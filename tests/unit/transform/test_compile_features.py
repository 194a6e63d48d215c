"""Which columns become which features, and what is refused before any row is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import batch_pb2, dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import compile_features, validate_spec

SCHEMA = pa.schema(
    {
        "label": pa.float32(),
        "user_b": pa.int64(),
        "user_a": pa.int32(),
        "dense_0": pa.float32(),
        "dense_1": pa.int16(),
        "history": pa.list_(pa.int64()),
        "name": pa.string(),
        "a[1]": pa.int64(),
    }
)

HASH = {"hashBucket": {"numBuckets": 16}}


def spec(*features: dict[str, Any]) -> dataset_pb2.DatasetSpec:
    message = {"source": {"parquet": {"paths": ["x.parquet"]}}, "features": list(features)}
    return json_format.ParseDict(message, dataset_pb2.DatasetSpec())


def refusal(schema: pa.Schema, *features: dict[str, Any]) -> DatasetError:
    dataset = spec(*features)
    validate_spec(dataset)
    with pytest.raises(DatasetError) as caught:
        compile_features(dataset, schema)
    return caught.value


def test_globs_come_in_schema_order_names_in_theirs() -> None:
    transform = compile_features(
        spec(
            {"label": {"columns": ["label"]}},
            {"sparse": {"columns": ["history", "user_*"]}},
            {"sparse": {"columns": ["name"], "ops": [HASH]}},
            {"dense": {"columns": ["dense_[01]"]}},
        ),
        SCHEMA,
    )
    assert [(output.name, output.kind, output.column) for output in transform.outputs] == [
        ("label", "label", "label"),
        ("history", "sparse", "history"),
        ("user_b", "sparse", "user_b"),
        ("user_a", "sparse", "user_a"),
        ("name", "sparse", "name"),
        ("dense_0", "dense", "dense_0"),
        ("dense_1", "dense", "dense_1"),
    ]
    assert transform.columns == (
        "label", "user_b", "user_a", "dense_0", "dense_1", "history", "name",
    )  # fmt: skip
    schema = transform.schema(3)
    assert schema.encoding_version == 3
    assert [
        (block.name, block.kind, block.dtype, list(block.features)) for block in schema.blocks
    ] == [
        (
            "dense",
            batch_pb2.BLOCK_KIND_DENSE,
            dataset_pb2.SCALAR_TYPE_FLOAT32,
            ["dense_0", "dense_1"],
        ),
        (
            "sparse",
            batch_pb2.BLOCK_KIND_SPARSE,
            dataset_pb2.SCALAR_TYPE_INT64,
            ["history", "user_b", "user_a", "name"],
        ),
        ("labels", batch_pb2.BLOCK_KIND_LABEL, dataset_pb2.SCALAR_TYPE_FLOAT32, ["label"]),
    ]


def test_blocks_without_features_are_left_out() -> None:
    schema = compile_features(spec({"label": {"columns": ["label"]}}), SCHEMA).schema(1)
    assert [block.name for block in schema.blocks] == ["labels"]


def test_a_name_that_a_column_has_is_no_glob() -> None:
    assert compile_features(spec({"sparse": {"columns": ["a[1]"]}}), SCHEMA).columns == ("a[1]",)


def test_globs_tell_case() -> None:
    error = refusal(SCHEMA, {"dense": {"columns": ["Dense_*"]}})
    assert error.reason == "FEATURE_UNMATCHED"


def test_a_name_that_matches_nothing_is_refused() -> None:
    error = refusal(
        SCHEMA, {"label": {"columns": ["label"]}}, {"dense": {"columns": ["dense_0", "dense_8"]}}
    )
    assert error.reason == "FEATURE_UNMATCHED"
    assert error.field == "dataset.features[1].columns[1]"
    assert error.message.startswith("features[1].columns[1]: 'dense_8' matches no column")
    assert "did you mean 'dense_1' or 'dense_0'?" in error.message


def test_where_nothing_is_like_the_name_the_columns_are_listed() -> None:
    error = refusal(SCHEMA, {"dense": {"columns": ["zzz*"]}})
    assert "the source has label, user_b" in error.message


@pytest.mark.parametrize("again", ["user_a", "user_*", "*_a"])
def test_a_column_selected_twice_is_refused(again: str) -> None:
    error = refusal(SCHEMA, {"sparse": {"columns": ["user_a"]}}, {"sparse": {"columns": [again]}})
    assert (error.reason, error.field) == ("DATASET_INVALID", "dataset.features[1].columns[0]")
    assert "features[1].columns[0]: column 'user_a'" in error.message
    assert "(features[0]) already" in error.message


def test_a_name_that_two_columns_have_is_refused() -> None:
    schema = pa.schema([("x", pa.int64()), ("x", pa.int64())])
    error = refusal(schema, {"dense": {"columns": ["x"]}})
    assert error.reason == "DATASET_INVALID"
    assert "2 columns called 'x'" in error.message


def test_an_operation_that_does_not_fit_is_refused() -> None:
    schema = pa.schema({"x": pa.list_(pa.field("item", pa.string()))})
    error = refusal(
        schema, {"sparse": {"columns": ["x"], "ops": [{"tail": {"count": 2}}, {"log1p": {}}]}}
    )
    assert (error.reason, error.field) == ("TYPE_UNFIT", "dataset.features[0].ops[1]")
    assert error.message == (
        "feature 'x' (features[0].ops[1] Log1p): column 'x' is list<item: string>; Log1p takes "
        "numbers; put a Cast before it"
    )


NUMBERS = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(),
]  # fmt: skip
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal32(5, 2), pa.decimal64(9, 2), pa.decimal128(9, 2), pa.decimal256(50, 2)]
TIMES = [
    pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.date32(), pa.date64(), pa.time32("s"),
    pa.time64("us"), pa.duration("ms"),
]  # fmt: skip
STRINGS = [pa.string(), pa.large_string(), pa.string_view()]
BINARIES = [pa.binary(), pa.large_binary(), pa.binary(4), pa.binary_view()]
OTHERS = [
    pa.struct({"x": pa.int64()}), pa.map_(pa.string(), pa.int64()), pa.list_(pa.list_(pa.int8())),
    pa.month_day_nano_interval(), pa.dense_union([pa.field("x", pa.int8())]),
]  # fmt: skip


def fits(arrow: pa.DataType, kind: str, *ops: dict[str, Any]) -> bool:
    dataset = spec({kind: {"columns": ["x"], "ops": list(ops)}})
    validate_spec(dataset)
    reasons = []
    try:
        compile_features(dataset, pa.schema({"x": arrow}))
    except DatasetError as error:
        reasons = [error.reason]
    assert reasons in ([], ["TYPE_UNFIT"])
    return not reasons


CAST = {"cast": {"to": "SCALAR_TYPE_INT64"}}
FILL = {"fillNull": {"value": {"integer": 1}}}
FILL_TEXT = {"fillNull": {"value": {"text": "x"}}}
TAIL = {"tail": {"count": 5}}
CLIP = {"clip": {"min": {"integer": 0}}}

# What fits a column of the types: dense or label, sparse; then Cast, FillNull (1), FillNull ("x"),
# Log1p, Clip, HashBucket.
TABLE: list[tuple[list[pa.DataType], str]] = [
    ([pa.bool_()], "yes yes | yes yes no no no yes"),
    (NUMBERS, "yes yes | yes yes no yes yes yes"),
    (FLOATS, "yes no | yes yes no yes yes no"),
    ([pa.null()], "yes yes | yes yes no yes yes yes"),
    (DECIMALS, "no no | yes no no no no no"),
    (TIMES, "no no | yes no no no no no"),
    (STRINGS, "no no | yes no yes no no yes"),
    (BINARIES, "no no | no no yes no no yes"),
    (OTHERS, "no no | no no no no no no"),
]


@pytest.mark.parametrize(
    ("arrow", "outcome"), [(arrow, row[1]) for row in TABLE for arrow in row[0]], ids=str
)
def test_the_type_table(arrow: pa.DataType, outcome: str) -> None:
    plain, ops = outcome.split(" | ")
    yes = [word == "yes" for word in plain.split()]
    assert [fits(arrow, "dense"), fits(arrow, "sparse")] == yes
    assert fits(arrow, "label") == yes[0]
    tried: list[dict[str, Any]] = [CAST, FILL, FILL_TEXT, {"log1p": {}}, CLIP, HASH]
    # A hash after it makes a feature of anything that an operation leaves as integer or string.
    after: list[dict[str, Any]] = [CAST, HASH] if yes[0] else [HASH]
    assert [fits(arrow, "sparse", op, *(after if op is not HASH else [])) for op in tried] == [
        word == "yes" for word in ops.split()
    ]
    assert not fits(arrow, "sparse", TAIL, HASH)


@pytest.mark.parametrize(
    ("arrow", "outcome"), [(arrow, row[1]) for row in TABLE for arrow in row[0]], ids=str
)
def test_lists_and_dictionaries_follow_their_values(arrow: pa.DataType, outcome: str) -> None:
    dense, sparse, *_, hashes = (word == "yes" for word in outcome.replace("| ", "").split())
    for lists in (pa.list_(arrow), pa.large_list(arrow), pa.list_(arrow, 3)):
        assert not fits(lists, "dense")
        assert not fits(lists, "label")
        assert fits(lists, "sparse") == sparse
        assert fits(lists, "sparse", TAIL, HASH) == hashes
    if not pa.types.is_nested(arrow):
        assert fits(pa.dictionary(pa.int32(), arrow), "dense") == dense


@pytest.mark.parametrize(
    ("arrow", "value", "accepted"),
    [
        (pa.int8(), {"integer": 127}, True),
        (pa.int8(), {"integer": 128}, False),
        (pa.int8(), {"number": 5.0}, True),
        (pa.int8(), {"number": 5.5}, False),
        (pa.int8(), {"number": "NaN"}, False),
        (pa.uint64(), {"integer": -1}, False),
        (pa.uint64(), {"number": 2.0**63}, True),
        (pa.float32(), {"number": 0.5}, True),
        (pa.float32(), {"number": 0.1}, True),
        (pa.float32(), {"number": "NaN"}, True),
        (pa.float32(), {"number": "-Infinity"}, True),
        (pa.float32(), {"number": 1e39}, False),
        (pa.float32(), {"integer": 2**24 + 1}, True),
        (pa.float64(), {"integer": 2**24 + 1}, True),
        (pa.float64(), {"integer": 2**53 + 1}, True),
        (pa.float16(), {"integer": 2048}, True),
        (pa.float16(), {"integer": 2049}, True),
        (pa.float16(), {"number": 65_520.0}, False),
        (pa.bool_(), {"integer": 1}, True),
        (pa.bool_(), {"integer": 2}, False),
        (pa.int64(), {"text": "1"}, False),
    ],
)
def test_constants_are_rounded_for_floats_and_exact_for_the_rest(
    arrow: pa.DataType, value: dict[str, Any], accepted: bool
) -> None:
    assert fits(arrow, "dense", {"fillNull": {"value": value}}) == accepted
    if (
        not pa.types.is_boolean(arrow)
        and "text" not in value
        and value["number" if "number" in value else "integer"] != "NaN"
    ):
        assert fits(arrow, "dense", {"clip": {"max": value}}) == accepted


def test_a_constant_beyond_a_float_is_refused() -> None:
    error = refusal(
        pa.schema({"x": pa.float32()}),
        {"dense": {"columns": ["x"], "ops": [{"fillNull": {"value": {"number": 1e39}}}]}},
    )
    assert "1e+39" in error.message
    assert "out of range" in error.message
