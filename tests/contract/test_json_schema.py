"""The committed JSON Schema is the one that the contract gives, and fits what we show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from headrace.v1 import dataset_pb2
from preprocessor_server.authoring.reading import read_text
from trainer_client import Dataset, Dense, Label, Sparse, ops, parquet

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "proto" / "headrace" / "v1" / "dataset.schema.json"

EXAMPLES = {
    "ids": Dataset(source=parquet("rows"), features=[Sparse("id"), Label("label")]),
    "everything": Dataset(
        source=parquet("s3://ml/*/", "rows", group_by=["request"], rows=["items", "label"]),
        where="label IS NOT NULL",
        max_split_bytes=1 << 20,
        features=[
            Dense("a", ops=[ops.FillNull(0.5), ops.Clip(0, float("inf")), ops.Log1p()]),
            Dense("b", ops=[ops.FillNull("0"), ops.Cast("float32")]),
            Sparse("c_*", ops=[ops.FillNull(-(1 << 63)), ops.Tail(5), ops.HashBucket(9, 1)]),
            Label("label"),
        ],
    ),
}
LABEL = {"label": {"columns": ["y"]}}
SOURCE = {"parquet": {"paths": ["x"]}}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_committed_schema_is_fresh(tmp_path: Path) -> None:
    fresh = tmp_path / "schema.json"
    subprocess.run(
        [sys.executable, str(ROOT / "proto" / "json_schema.py"), "--out", str(fresh)], check=True
    )
    assert fresh.read_text() == SCHEMA.read_text(), "run `make proto`"


def test_everything_is_described() -> None:
    definitions = json.loads(SCHEMA.read_text())["definitions"]
    assert set(definitions["Op"]["properties"]) == {
        field.name for field in dataset_pb2.Op.DESCRIPTOR.fields
    }
    for definition in definitions.values():
        assert all(part["description"] for part in (definition, *definition["properties"].values()))


def test_the_dataset_of_the_demo_validates(validator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    from train_movielens import movielens

    validator.validate(yaml.safe_load(movielens("data").to_yaml()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_datasets_validate(validator: Any, name: str) -> None:
    validator.validate(yaml.safe_load(EXAMPLES[name].to_yaml()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sauce": SOURCE},
        {"where": 1},
        {"max_split_bytes": "1 MiB"},
        {"features": {}},
        {"features": [{**LABEL, "dense": {"columns": ["x"]}}]},
        {"features": [{"dense": {"columns": "x"}}]},
        {"features": [{"dense": {"columns": ["x"], "ops": [{"log1p": {}, "clip": {}}]}}]},
        {"features": [{"dense": {"columns": ["x"], "ops": [{"cast": {"to": "int32"}}]}}]},
        {"features": [{"dense": {"columns": ["x"], "ops": [{"tail": {"count": -1}}]}}]},
        {"features": [{"dense": {"columns": ["x"], "ops": [{"log1p": None}]}}]},
    ],
)
def test_what_an_editor_marks_a_server_refuses(validator: Any, wrong: dict[str, Any]) -> None:
    form = {"source": SOURCE, "features": [LABEL], **wrong}
    assert not validator.is_valid(form)
    assert read_text(yaml.safe_dump(form), "x.yaml").mistakes
