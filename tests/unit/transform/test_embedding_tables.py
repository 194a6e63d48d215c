"""What a dataset says of embedding tables, and what its operations prove."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import compile_features, validate_spec
from preprocessor_server.transform.tables import ids_below

SCHEMA = pa.schema({"a": pa.int64(), "b": pa.int64(), "c": pa.list_(pa.int64())})
HASH: dict[str, Any] = {"hash_bucket": {"num_buckets": 1000}}
HALF: dict[str, Any] = {"hash_bucket": {"num_buckets": 500}}


def tables(*features: dict[str, Any]) -> list[tuple[str, list[str], int, int]]:
    form = {
        "source": {"parquet": {"paths": ["x"]}},
        "features": [{"sparse": feature} for feature in features],
    }
    spec = json_format.ParseDict(form, dataset_pb2.DatasetSpec())
    validate_spec(spec)
    found = compile_features(spec, SCHEMA).schema(1).tables
    return [(t.name, list(t.features), t.num_embeddings, t.embedding_dim) for t in found]


def test_features_have_tables_of_their_own_or_share_one() -> None:
    assert tables(
        {"columns": ["a", "c"], "ops": [HASH], "table": "items", "embedding_dim": 16},
        {"columns": ["b"], "num_embeddings": 7},
    ) == [("items", ["a", "c"], 1000, 16), ("b", ["b"], 7, 0)]
    assert tables({"columns": ["a", "b"], "ops": [HASH], "embedding_dim": 4}) == [
        ("a", ["a"], 1000, 4),
        ("b", ["b"], 1000, 4),
    ]
    assert tables({"columns": ["a"], "ops": [HASH]}) == []


def test_a_number_that_is_given_holds_for_all_that_share() -> None:
    assert tables(
        {"columns": ["a"], "ops": [HALF], "table": "t"},
        {"columns": ["b"], "table": "t", "num_embeddings": 900},
        {"columns": ["c"], "table": "t", "embedding_dim": 8},
    ) == [("t", ["a", "b", "c"], 900, 8)]


@pytest.mark.parametrize(
    ("features", "field", "what"),
    [
        (
            [{"columns": ["a"], "table": "t"}],
            "features[0].num_embeddings",
            "no operation bounds the ids of feature 'a'",
        ),
        (
            [{"columns": ["a"], "ops": [HASH], "num_embeddings": 999}],
            "features[0].num_embeddings",
            "the ids of feature 'a' reach 999; make it 1,000",
        ),
        (
            [
                {"columns": ["a"], "ops": [HASH], "table": "t"},
                {"columns": ["b"], "ops": [HALF], "table": "t"},
            ],
            "features[1].num_embeddings",
            "'a' and 'b' share table 't', and their operations make 1,000 and 500 ids",
        ),
        (
            [
                {"columns": ["a"], "num_embeddings": 10, "table": "t"},
                {"columns": ["b"], "num_embeddings": 11, "table": "t"},
            ],
            "features[1].num_embeddings",
            "'a' and 'b' share table 't', with num_embeddings 10 and 11",
        ),
        (
            [
                {"columns": ["a"], "ops": [HASH], "embedding_dim": 8, "table": "t"},
                {"columns": ["b"], "ops": [HASH], "table": "t"},
                {"columns": ["c"], "ops": [HASH], "embedding_dim": 4, "table": "t"},
            ],
            "features[2].embedding_dim",
            "'a' and 'c' share table 't', with embedding_dim 8 and 4",
        ),
    ],
)
def test_tables_that_cannot_be_name_both_features(
    features: list[dict[str, Any]], field: str, what: str
) -> None:
    with pytest.raises(DatasetError, match=what) as caught:
        tables(*features)
    assert caught.value.field == f"dataset.{field}"
    assert caught.value.reason == "DATASET_INVALID"


@pytest.mark.parametrize(
    ("ops", "bound"),
    [
        ([], None),
        ([HASH], 1000),
        ([HASH, {"tail": {"count": 3}}, {"sort": {}}], 1000),
        ([HASH, {"fill_null": {"value": {"integer": 1000}}}], 1001),
        ([HASH, {"fill_null": {"value": {"integer": -1}}}], None),
        ([HASH, {"pad": {"length": 5, "value": {"number": 2.0}}}], 1000),
        ([HASH, {"list_aggregate": {"by": "AGGREGATION_MAX"}}], 1000),
        ([HASH, {"list_aggregate": {"by": "AGGREGATION_SUM"}}], None),
        ([HASH, {"enumerate": {}}], None),
        ([{"vocabulary": {"strings": ["x", "y"], "num_oov_buckets": 3}}], 5),
        ([{"positive_modulus": {"divisor": 9}}], 9),
        ([{"bucketize": {"boundaries": [0, 1]}}], 3),
        ([{"n_gram": {"n": 2, "num_buckets": 50}}], 50),
        ([{"map_id": {"keys": [1], "values": [4], "default": 6}}], 7),
        ([{"map_id": {"keys": [1], "values": [4]}}], 5),
        ([{"map_id": {"keys": [1], "values": [-4]}}], None),
        ([{"date_parts": {"part": "DATE_PART_HOUR"}}], 24),
        ([{"date_parts": {"part": "DATE_PART_DAY_OF_YEAR"}}], 367),
        ([{"date_parts": {"part": "DATE_PART_YEAR"}}], None),
        ([HASH, {"cast": {"to": "SCALAR_TYPE_FLOAT32"}}], None),
    ],
)
def test_what_operations_keep_ids_below(ops: list[dict[str, Any]], bound: int | None) -> None:
    messages = [json_format.ParseDict(op, dataset_pb2.Op()) for op in ops]
    assert ids_below(messages) == bound
