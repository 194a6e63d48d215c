"""Datasets that are malformed are refused, with the path of the field."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from headrace.v1 import dataset_pb2
from preprocessor_server.errors import DatasetError
from preprocessor_server.transform import validate_spec

SOURCE = {"parquet": {"paths": ["x"]}}
LABEL = {"label": {"columns": ["y"]}}


def parse(message: dict[str, Any]) -> dataset_pb2.DatasetSpec:
    return json_format.ParseDict(message, dataset_pb2.DatasetSpec())


def with_op(op: dict[str, Any]) -> dict[str, Any]:
    return {"source": SOURCE, "features": [LABEL, {"dense": {"columns": ["x"], "ops": [op]}}]}


def refuse(spec: dataset_pb2.DatasetSpec) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        validate_spec(spec)
    return caught.value


AT = "dataset.features[1].ops[0]"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"features": [LABEL]}, "dataset.source"),
        ({"source": {}, "features": [LABEL]}, "dataset.source"),
        ({"source": {"parquet": {}}, "features": [LABEL]}, "dataset.source.parquet.paths"),
        (
            {"source": {"parquet": {"paths": ["a", ""]}}, "features": [LABEL]},
            "dataset.source.parquet.paths[1]",
        ),
        (
            {"source": {"parquet": {"paths": ["a"], "groupBy": [""]}}, "features": [LABEL]},
            "dataset.source.parquet.group_by[0]",
        ),
        ({"source": SOURCE}, "dataset.features"),
        ({"source": SOURCE, "features": [{}]}, "dataset.features[0]"),
        ({"source": SOURCE, "features": [{"dense": {}}]}, "dataset.features[0].columns"),
        (
            {"source": SOURCE, "features": [{"sparse": {"columns": [""]}}]},
            "dataset.features[0].columns[0]",
        ),
        (
            {"source": SOURCE, "features": [LABEL], "maxSplitBytes": (1 << 20) - 1},
            "dataset.max_split_bytes",
        ),
        (
            {"source": SOURCE, "features": [LABEL], "maxSplitBytes": (64 << 30) + 1},
            "dataset.max_split_bytes",
        ),
        (with_op({}), AT),
        (with_op({"fillNull": {}}), f"{AT}.fill_null.value"),
        (with_op({"fillNull": {"value": {}}}), f"{AT}.fill_null.value"),
        (with_op({"clip": {}}), f"{AT}.clip"),
        (with_op({"clip": {"min": {}}}), f"{AT}.clip.min"),
        (with_op({"clip": {"max": {"text": "1"}}}), f"{AT}.clip.max"),
        (with_op({"clip": {"max": {"number": "NaN"}}}), f"{AT}.clip.max"),
        (with_op({"clip": {"min": {"integer": 2}, "max": {"number": 1.5}}}), f"{AT}.clip"),
        (with_op({"cast": {}}), f"{AT}.cast.to"),
        (with_op({"cast": {"to": 99}}), f"{AT}.cast.to"),
        (with_op({"hashBucket": {}}), f"{AT}.hash_bucket.num_buckets"),
        (with_op({"hashBucket": {"numBuckets": 2**32 + 1}}), f"{AT}.hash_bucket.num_buckets"),
        (with_op({"tail": {}}), f"{AT}.tail.count"),
        (with_op({"tail": {"count": 2**31}}), f"{AT}.tail.count"),
        (with_op({"logit": {"epsilon": 0.5}}), f"{AT}.logit.epsilon"),
        (with_op({"logit": {"epsilon": "NaN"}}), f"{AT}.logit.epsilon"),
        (with_op({"boxCox": {"lmbda": "Infinity"}}), f"{AT}.box_cox.lmbda"),
        (with_op({"normalize": {"mean": 1}}), f"{AT}.normalize.std"),
        (with_op({"normalize": {"mean": "NaN", "std": 1}}), f"{AT}.normalize.mean"),
        (with_op({"normalize": {"std": "Infinity"}}), f"{AT}.normalize.std"),
        (with_op({"minMax": {"min": 1, "max": 1}}), f"{AT}.min_max"),
        (with_op({"minMax": {"min": -1e308, "max": 1e308}}), f"{AT}.min_max"),
        (with_op({"minMax": {"max": "NaN"}}), f"{AT}.min_max.max"),
        (with_op({"bucketize": {}}), f"{AT}.bucketize.boundaries"),
        (with_op({"bucketize": {"boundaries": [1, 1]}}), f"{AT}.bucketize.boundaries[1]"),
        (with_op({"bucketize": {"boundaries": ["NaN"]}}), f"{AT}.bucketize.boundaries[0]"),
        (with_op({"dateParts": {}}), f"{AT}.date_parts.part"),
        (with_op({"dateParts": {"part": 99}}), f"{AT}.date_parts.part"),
        (
            with_op({"dateParts": {"part": 1, "timeZone": "Nowhere"}}),
            f"{AT}.date_parts.time_zone",
        ),
        (with_op({"head": {}}), f"{AT}.head.count"),
        (with_op({"slice": {"stop": 0}}), f"{AT}.slice"),
        (with_op({"slice": {"start": 3, "stop": 3}}), f"{AT}.slice"),
        (with_op({"slice": {"start": -1, "stop": -2}}), f"{AT}.slice"),
        (with_op({"positiveModulus": {}}), f"{AT}.positive_modulus.divisor"),
        (with_op({"positiveModulus": {"divisor": 2**63}}), f"{AT}.positive_modulus.divisor"),
        (with_op({"mapId": {}}), f"{AT}.map_id.keys"),
        (with_op({"mapId": {"keys": [1, 2], "values": [1]}}), f"{AT}.map_id.values"),
        (with_op({"mapId": {"keys": [1, 2, 1], "values": [1, 1, 1]}}), f"{AT}.map_id.keys[2]"),
        (with_op({"vocabulary": {}}), f"{AT}.vocabulary"),
        (with_op({"vocabulary": {"integers": [1], "strings": ["a"]}}), f"{AT}.vocabulary"),
        (with_op({"vocabulary": {"integers": [1], "file": "v"}}), f"{AT}.vocabulary"),
        (with_op({"vocabulary": {"file": "v"}}), f"{AT}.vocabulary.sha256"),
        (with_op({"vocabulary": {"integers": [1], "sha256": "0"}}), f"{AT}.vocabulary.sha256"),
        (with_op({"fitNormalize": {}}), f"{AT}.fit_normalize"),
        (with_op({"fitBucketize": {}}), f"{AT}.fit_bucketize.num_buckets"),
        (with_op({"vocabulary": {"integers": [1, 1]}}), f"{AT}.vocabulary.integers[1]"),
        (with_op({"vocabulary": {"strings": ["a", "b", "b"]}}), f"{AT}.vocabulary.strings[2]"),
        (
            with_op({"vocabulary": {"integers": [1], "numOovBuckets": 2**32 + 1}}),
            f"{AT}.vocabulary.num_oov_buckets",
        ),
        (with_op({"listAggregate": {}}), f"{AT}.list_aggregate.by"),
        (with_op({"listAggregate": {"by": 99}}), f"{AT}.list_aggregate.by"),
        (with_op({"pad": {"value": {"integer": 1}}}), f"{AT}.pad.length"),
        (with_op({"pad": {"length": 2**16 + 1, "value": {"integer": 1}}}), f"{AT}.pad.length"),
        (with_op({"pad": {"length": 1}}), f"{AT}.pad.value"),
        (with_op({"nGram": {"numBuckets": 1}}), f"{AT}.n_gram.n"),
        (with_op({"nGram": {"n": 65, "numBuckets": 1}}), f"{AT}.n_gram.n"),
        (with_op({"nGram": {"n": 2}}), f"{AT}.n_gram.num_buckets"),
        (with_op({"nGram": {"n": 2, "numBuckets": 2**32 + 1}}), f"{AT}.n_gram.num_buckets"),
        (with_op({"sample": {}}), f"{AT}.sample.count"),
        (with_op({"sample": {"count": 2**31}}), f"{AT}.sample.count"),
    ],
)
def test_malformed_datasets_are_refused(message: dict[str, Any], field: str) -> None:
    error = refuse(parse(message))
    assert (error.reason, error.field) == ("DATASET_INVALID", field)
    assert error.message.startswith(field.removeprefix("dataset."))


@pytest.mark.parametrize(
    "op",
    [
        {"hashBucket": {"numBuckets": 1}},
        {"hashBucket": {"numBuckets": 2**32, "seed": 2**64 - 1}},
        {"tail": {"count": 2**31 - 1}},
        {"clip": {"min": {"integer": 2}, "max": {"number": 2.0}}},
        {"fillNull": {"value": {"text": ""}}},
        {"fillNull": {"value": {"number": 0.0}}},
        {"log1p": {}},
        {"logit": {}},
        {"boxCox": {}},
        {"normalize": {"std": 5e-324}},
        {"bucketize": {"boundaries": [-1.7e308, 1.7e308]}},
        {"dateParts": {"part": "DATE_PART_YEAR"}},
        {"slice": {"start": -(2**31), "stop": 2**31 - 1}},
        {"slice": {"start": 5, "stop": -5}},
        {"positiveModulus": {"divisor": 2**63 - 1}},
        {"vocabulary": {"integers": [0], "numOovBuckets": 2**32}},
        {"pad": {"length": 2**16, "value": {"text": ""}}},
        {"nGram": {"n": 64, "numBuckets": 2**32, "seed": 2**64 - 1}},
        {"sample": {"count": 2**31 - 1}},
        {"deduplicate": {}},
        {"sort": {}},
    ],
)
def test_bounds_are_allowed(op: dict[str, Any]) -> None:
    validate_spec(parse({**with_op(op), "maxSplitBytes": 1 << 20}))
    validate_spec(parse({**with_op(op), "maxSplitBytes": 64 << 30}))


# Field 100, a varint: what a newer contract could have added.
NEWER = b"\xa0\x06\x01"


@pytest.mark.parametrize(
    "path",
    [
        "dataset",
        "dataset.source",
        "dataset.source.parquet",
        "dataset.features[1]",
        "dataset.features[1].dense",
        "dataset.features[1].dense.ops[0]",
        "dataset.features[1].dense.ops[0].fill_null",
        "dataset.features[1].dense.ops[0].fill_null.value",
    ],
)
def test_fields_of_a_newer_contract_are_refused_wherever_they_are(path: str) -> None:
    spec = parse(with_op({"fillNull": {"value": {"integer": 0}}}))
    target: Any = spec
    for part in path.split(".")[1:]:
        name, _, index = part.rstrip("]").partition("[")
        target = getattr(target, name)
        target = target[int(index)] if index else target
    target.MergeFromString(NEWER)
    error = refuse(spec)
    assert (error.reason, error.field) == ("DATASET_TOO_NEW", path)
    assert "field number 100" in error.message
